"""What the handler counts, and how TorchServe comes to know it.

Counting is a few additions a batch; another thread reports once a second what has been added. A
line for each request, as TorchServe's own interface suggests, would cost more than the answer. A
worker that is killed takes at most the last second of its counts along.

There is no lock: one thread adds and one reports. `metrics.yaml` declares the same counters to
TorchServe's front end, which sums up what its workers report.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from handler.errors import RequestError

LABEL_NAMES: dict[str, str | None] = {
    "mnist_requests_total": "protocol",
    "mnist_images_total": None,
    "mnist_normalised_total": None,
    "mnist_errors_total": "code",
    "mnist_predictions_total": "digit",
    "mnist_confidence_bucket": "le",
    "mnist_confidence_sum": None,
    "mnist_confidence_count": None,
    "mnist_batches_total": None,
    "mnist_decode_seconds_total": None,
    "mnist_model_seconds_total": None,
    "mnist_busy_seconds_total": None,
}
"""Each counter, and the name of its label or None."""

BOUNDS = np.array([0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999])
"""Upper bounds of the confidence's buckets; close together where a good model's answers lie."""

PROTOCOLS = ("plain", "form", "v1", "v2", "explain")
CODES = (*(kind.code for kind in RequestError.__subclasses__()), "internal")

REPORT_SECONDS = 1.0

Series: TypeAlias = tuple[str, "str | None"]
"""A counter's name, and the value of its label or None."""

Emit: TypeAlias = Callable[[str, "str | None", float], None]
"""Called with a counter's name, its label's value or None, and what to add to it."""


class Metrics:
    """Counters that one thread adds to and another one collects.

    Args:
        classes: how many the model tells apart.
    """

    def __init__(self, classes: int) -> None:
        # From 0 on, since Prometheus cannot tell the increase of what was not there before.
        known: list[Series] = [(name, None) for name, label in LABEL_NAMES.items() if label is None]
        known += [("mnist_requests_total", protocol) for protocol in PROTOCOLS]
        known += [("mnist_errors_total", code) for code in CODES]
        self._totals: dict[Series, float] = defaultdict(float, dict.fromkeys(known, 0.0))
        self._collected: dict[Series, float] = {}
        # How often each class was predicted with a confidence in each bucket.
        self._predicted = np.zeros((classes, len(BOUNDS) + 1), np.int64)

    def add(self, name: str, label: str | None = None, value: float = 1) -> None:
        """Add to a counter."""
        self._totals[name, label] += value

    def add_predictions(
        self, digits: NDArray[np.int64], probabilities: NDArray[np.float32]
    ) -> None:
        """Count predictions: digits int64 [N], probabilities float32 [N,classes]."""
        confidences = probabilities.max(axis=1)
        cells = digits * self._predicted.shape[1] + np.searchsorted(BOUNDS, confidences)
        counts = np.bincount(cells, minlength=self._predicted.size)
        self._predicted += counts.reshape(self._predicted.shape)
        self.add("mnist_confidence_sum", value=float(confidences.sum()))

    def collect(self) -> dict[Series, float]:
        """What has been added to each counter since it was collected last, where anything was.

        The first time it is every counter, whether anything was added or not.
        """
        totals = dict(self._totals)
        predicted = self._predicted.copy()
        for digit, count in enumerate(predicted.sum(axis=1).tolist()):
            totals["mnist_predictions_total", str(digit)] = count
        at_most = predicted.sum(axis=0).cumsum().tolist()
        for bound, count in zip((*BOUNDS.tolist(), "+Inf"), at_most, strict=True):
            totals["mnist_confidence_bucket", str(bound)] = count
        totals["mnist_confidence_count", None] = at_most[-1]
        before, self._collected = self._collected, totals
        return {
            series: total - before.get(series, 0.0)
            for series, total in totals.items()
            if total != before.get(series)
        }


def report(metrics: Metrics, emit: Emit) -> None:
    """Start the thread that hands on, once a second, what has been added."""

    def run() -> None:
        while True:
            time.sleep(REPORT_SECONDS)
            for (name, label), increase in metrics.collect().items():
                emit(name, label, increase)

    threading.Thread(target=run, name="metrics", daemon=True).start()


METRICS = Metrics(classes=10)
"""This worker's."""
