"""One batch: large images and explanations share a bounded time each; nobody waits for more."""

from __future__ import annotations

import numpy as np
import orjson
import pytest
from numpy.typing import NDArray

from handler import decoding, service
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


def test_large_images_beyond_the_time_are_refused_and_small_ones_are_not(
    model: DigitModel,
    mnist_test: tuple[NDArray[np.uint8], NDArray[np.int64]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And once the block is left, time does not count any more."""
    monkeypatch.setattr(decoding, "LARGE_SECONDS", -1)
    digit = mnist_test[0][0]
    large = png(np.kron(digit, np.ones((30, 30), np.uint8)))
    small = png(np.kron(digit, np.ones((9, 9), np.uint8)))
    requests = [Request({"body": body}, PREDICT) for body in (large, small)]
    refused, answered = answer_batch(model, requests)
    assert (refused.status, orjson.loads(refused.body)["error"]["code"]) == (503, "busy")
    assert (answered.status, answered.body) == (200, b"7")
    assert decoding.decode_image(large).shape == (840, 840)


def test_nothing_but_mnists_own_form_is_decoded_once_all_time_is_up(
    model: DigitModel,
    mnist_test: tuple[NDArray[np.uint8], NDArray[np.int64]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoding, "ALL_SECONDS", -1)
    digit = mnist_test[0][0]
    bodies = (png(np.kron(digit, np.ones((9, 9), np.uint8))), png(digit))
    answers = answer_batch(model, [Request({"body": body}, PREDICT) for body in bodies])
    assert [answer.status for answer in answers] == [503, 200]
