"""Compressed bodies, and requests that came by gRPC: what `dispatch` makes of them."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from handler.model import DigitModel
from handler.protocols import Answer, Headers, Request, compression
from handler.service import answer_batch
from tests.images import b64, npy, png

Mnist = tuple[NDArray[np.uint8], NDArray[np.int64]]
PREDICTIONS = {"url_path": "", "explain": "False", "Host": "localhost"}


def ask(model: DigitModel, fields: dict[str, bytes], headers: dict[str, Any]) -> Answer:
    (answer,) = answer_batch(model, [Request(fields, Headers(headers))])
    return answer


@pytest.fixture(scope="module")
def digit(mnist_test: Mnist) -> NDArray[np.uint8]:
    first: NDArray[np.uint8] = mnist_test[0][0]
    return first


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP", "deflate", "identity"])
def test_every_encoding(model: DigitModel, digit: NDArray[np.uint8], encoding: str) -> None:
    body = png(digit)
    if "gzip" in encoding.lower():
        body = gzip.compress(body)
    elif encoding == "deflate":
        body = zlib.compress(body)
    answer = ask(model, {"body": body}, PREDICTIONS | {"content-Encoding": encoding})
    assert (answer.status, answer.body) == (200, b"7")


def test_bodies_that_are_not_what_the_header_says(
    model: DigitModel, digit: NDArray[np.uint8]
) -> None:
    packed = gzip.compress(png(digit))
    for encoding, body in {"gzip": png(digit), "deflate": packed[:-9], "br": packed}.items():
        answer = ask(model, {"body": body}, PREDICTIONS | {"Content-Encoding": encoding})
        assert answer.status == 400
        assert b"compressed body" in answer.body or b"gzip, deflate or identity" in answer.body


def test_a_decompression_bomb_is_refused(model: DigitModel) -> None:
    bomb = zlib.compress(bytes(compression.MAX_BYTES + 1))
    assert len(bomb) < 40_000
    answer = ask(model, {"body": bomb}, PREDICTIONS | {"Content-Encoding": "deflate"})
    assert answer.status == 413


def test_a_field_named_like_a_header_is_a_field(
    model: DigitModel, digit: NDArray[np.uint8]
) -> None:
    headers = PREDICTIONS | {"content-encoding": {"content-type": "image/png"}}
    answer = ask(model, {"content-encoding": png(digit)}, headers)
    assert (answer.status, answer.body) == (200, b'{"content-encoding":7}')


@pytest.mark.parametrize("field", ["body", "data"])
def test_grpc_takes_every_form_in_either_field(
    model: DigitModel, digit: NDArray[np.uint8], field: str
) -> None:
    headers = {field: {"content-type": ""}}
    instances = json.dumps({"instances": [{"b64": b64(png(digit))}]}).encode()
    tensor = {"name": "images", "datatype": "BYTES", "shape": [1], "data": [b64(png(digit))]}
    inputs = json.dumps({"inputs": [tensor], "id": ""}).encode()
    assert ask(model, {field: png(digit)}, headers).body == b"7"
    assert ask(model, {field: npy(digit[None])}, headers).body == b"[7]"
    assert ask(model, {field: instances}, headers).body == b'{"predictions":[7]}'
    assert json.loads(ask(model, {field: inputs}, headers).body)["id"] == ""
    refused = json.loads(ask(model, {field: b"seven"}, headers).body)
    assert refused["error"]["code"] == "unreadable"
