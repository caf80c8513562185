"""The Open Inference Protocol v2, with its binary tensor extension: digits and probabilities.

A body is a JSON header, then the tensors' bytes in the header's order; the HTTP header
`Inference-Header-Content-Length` says where the JSON ends. In a BYTES tensor each element comes
after its length, four bytes, little-endian. One bad image refuses the whole request.
Source: https://github.com/kserve/open-inference-protocol and Triton's binary data extension.
"""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import requests
from numpy.typing import NDArray

from client.errors import NotOffered, ServerFailed
from client.images import Pixels
from client.prediction import Prediction
from client.transport import Request

PATH = "/v2/models/mnist/infer"
HEADER_LENGTH = "Inference-Header-Content-Length"
DTYPES: dict[str, np.dtype[Any]] = {"INT64": np.dtype("<i8"), "FP32": np.dtype("<f4")}


def request(images: list[bytes] | Pixels) -> Request:
    """Ask for digits and probabilities, both in binary.

    Args:
        images: encoded images, or pixels uint8 or float32 [N, 28, 28].
    """
    if isinstance(images, np.ndarray):
        datatype = "UINT8" if images.dtype == np.uint8 else "FP32"
        tensor = images.astype(images.dtype.newbyteorder("<"), copy=False).tobytes()
        shape = list(images.shape)
    else:
        datatype, shape = "BYTES", [len(images)]
        tensor = b"".join(struct.pack("<I", len(image)) + image for image in images)
    header = {
        "inputs": [
            {
                "name": "images",
                "datatype": datatype,
                "shape": shape,
                "parameters": {"binary_data_size": len(tensor)},
            }
        ],
        "outputs": [
            {"name": name, "parameters": {"binary_data": True}}
            for name in ("digit", "probabilities")
        ],
    }
    head = json.dumps(header, separators=(",", ":")).encode()
    return Request(
        PATH,
        head + tensor,
        {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))},
    )


def predictions(answer: requests.Response, count: int) -> list[Prediction]:
    """Read `count` digits and probabilities out of an answer, binary or JSON.

    Raises:
        NotOffered: the answer is another protocol's.
        ServerFailed: a tensor is missing, or of another shape than was asked for.
    """
    content = answer.content
    end = int(answer.headers.get(HEADER_LENGTH, len(content)))
    try:
        outputs = json.loads(content[:end])["outputs"]
    except (ValueError, KeyError, TypeError) as error:
        raise NotOffered("The server does not speak the Open Inference Protocol v2.") from error
    try:
        tensors = _tensors(outputs, content[end:])
        digits = tensors["digit"].reshape(count)
        probabilities = tensors["probabilities"].reshape(count, 10).astype(np.float32)
    except (ValueError, KeyError, TypeError) as error:
        raise ServerFailed(f"expected {count} digits and probabilities ({error})") from error
    return [Prediction(int(digit), row) for digit, row in zip(digits, probabilities, strict=True)]


def _tensors(outputs: list[dict[str, Any]], binary: bytes) -> dict[str, NDArray[Any]]:
    tensors: dict[str, NDArray[Any]] = {}
    start = 0
    for output in outputs:
        dtype = DTYPES[output["datatype"]]
        length = output.get("parameters", {}).get("binary_data_size")
        if length is None:
            tensors[output["name"]] = np.array(output["data"], dtype)
        else:
            tensors[output["name"]] = np.frombuffer(binary[start : start + length], dtype)
            start += length
    return tensors
