"""What is counted, without a server to report it to."""

from __future__ import annotations

import numpy as np
import pytest

from handler import metrics


def test_every_class_is_counted_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "LABELS", tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    counters = metrics.Metrics()
    assert counters.collect()["mnist_predictions_total", "25"] == 0
    classes = np.array([25, 0, 25, 10])
    counters.add_predictions(classes, np.eye(26, dtype=np.float32)[classes])
    assert counters.collect() == {
        ("mnist_predictions_total", "0"): 1,
        ("mnist_predictions_total", "10"): 1,
        ("mnist_predictions_total", "25"): 2,
        ("mnist_confidence_bucket", "+Inf"): 4,
        ("mnist_confidence_sum", None): 4,
        ("mnist_confidence_count", None): 4,
    }
