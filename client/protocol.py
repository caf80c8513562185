"""The plain protocol: digits only, for the least bytes.

One encoded image is a request's whole body. Several go as JSON `{"instances": [{"b64": …}]}`,
which answers `{"predictions": [7, {"error": …}, …]}`. Pixels go as a `.npy` file [N, 28, 28],
which answers `[7, 2, …]`.
"""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import requests

from client.errors import Refused, ServerBusy, ServerFailed
from client.images import Pixels
from client.prediction import Prediction
from client.transport import Request, read_error

PATH = "/predictions/mnist"


def request(images: list[bytes] | Pixels) -> Request:
    """Ask for digits.

    Args:
        images: encoded images, or pixels uint8 or float32 [N, 28, 28].
    """
    if isinstance(images, np.ndarray):
        return Request(PATH, npy(images), {"Content-Type": "application/octet-stream"})
    if len(images) == 1:
        return Request(PATH, images[0], {"Content-Type": "application/octet-stream"})
    instances = [{"b64": base64.b64encode(image).decode()} for image in images]
    body = json.dumps({"instances": instances}, separators=(",", ":")).encode()
    return Request(PATH, body, {"Content-Type": "application/json"})


def npy(pixels: Pixels) -> bytes:
    """Return pixels as a `.npy` file."""
    buffer = io.BytesIO()
    np.save(buffer, pixels, allow_pickle=False)
    return buffer.getvalue()


def predictions(answer: requests.Response, count: int) -> list[Prediction]:
    """Read `count` digits or refusals out of an answer.

    Raises:
        ServerFailed: the answer is not what the contract says.
    """
    try:
        body = answer.json()
    except ValueError as error:
        raise ServerFailed(f"expected digits as JSON, got {answer.text[:80]!r}") from error
    if isinstance(body, dict) and "predictions" in body:
        body = body["predictions"]
    values = body if isinstance(body, list) else [body]
    if len(values) != count:
        raise ServerFailed(f"expected {count} digits, the server sent {len(values)}")
    return [_prediction(value) for value in values]


def _prediction(value: object) -> Prediction:
    if isinstance(value, dict) and "error" in value:
        code, message = read_error(value)
        busy = code == ServerBusy.code
        return Prediction(None, error=ServerBusy(message) if busy else Refused(message, code))
    if not isinstance(value, int):
        raise ServerFailed(f"expected a digit, the server sent {str(value)[:80]!r}")
    return Prediction(value)
