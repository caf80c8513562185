"""One batch: explanations share a bounded time, and predictions do not wait for more."""

from __future__ import annotations

import numpy as np
import orjson
import pytest
from numpy.typing import NDArray

from handler import service
from handler.model import DigitModel
from handler.protocols import Request
from handler.service import answer_batch
from tests.images import b64, png

EXPLAIN = {"url_path": "", "explain": "True"}
PREDICT = {"url_path": "", "explain": "False"}


def test_explanations_beyond_the_time_are_refused_as_busy(
    model: DigitModel,
    mnist_test: tuple[NDArray[np.uint8], NDArray[np.int64]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service, "EXPLAIN_SECONDS", -1)
    image = png(mnist_test[0][0])
    blank = {"b64": b64(png(np.zeros((28, 28), np.uint8)))}
    instances = orjson.dumps({"instances": [blank, {"b64": b64(image)}]})
    alone, several, prediction = answer_batch(
        model,
        [
            Request({"body": image}, EXPLAIN),
            Request({"body": instances}, EXPLAIN),
            Request({"body": image}, PREDICT),
        ],
    )
    assert alone.status == 503
    assert orjson.loads(alone.body)["error"]["code"] == "busy"
    codes = [refused["error"]["code"] for refused in orjson.loads(several.body)["explanations"]]
    assert (several.status, codes) == (422, ["no_digit", "busy"])
    assert (prediction.status, prediction.body) == (200, b"7")
