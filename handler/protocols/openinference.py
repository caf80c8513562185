"""Open Inference Protocol v2, with JSON tensors and the binary tensor extension.

Sources: https://github.com/kserve/open-inference-protocol (inference_rest.md) and Triton's
extensions for binary tensor data and classification.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from handler.arrays import MAX_IMAGES, Images, as_images, check_shape, stack
from handler.errors import InvalidShape, RequestError, TooLarge, Unreadable
from handler.labels import LABELS
from handler.protocols import Answer, Decoded, Predictions, load_json
from handler.protocols.plain import decode_single
from handler.protocols.v1 import decode_base64, decode_numbers, json_type

MODEL_NAME, MODEL_VERSION = "mnist", "1.0"
INPUT = "images"
OUTPUTS = ("digit", "probabilities")
_DTYPES: dict[Any, np.dtype[Any]] = {"UINT8": np.dtype("u1"), "FP32": np.dtype("<f4")}


class _Output(NamedTuple):
    """One requested output: its name, whether as binary, and the top k classes or 0 for all."""

    name: str
    binary: bool
    classification: int


def decode_binary(body: bytes | bytearray, header_length: str) -> Decoded:
    """Read a request whose tensors follow its JSON header as raw bytes.

    Args:
        body: JSON header, then the tensors.
        header_length: the value of `Inference-Header-Content-Length`, bytes of JSON.

    Raises:
        RequestError: it cannot be read, or an image in it is refused.
    """
    if not (header_length.isascii() and header_length.isdigit()) or len(header_length) > 12:
        raise Unreadable("expected Inference-Header-Content-Length to be a whole number")
    length = int(header_length)
    if length > len(body):
        raise Unreadable(f"expected {length} bytes of JSON header, got a body of {len(body)} bytes")
    try:
        document = load_json(body[:length])
    except Unreadable as error:
        raise Unreadable("expected JSON in the first Inference-Header-Content-Length bytes") from (
            error
        )
    return decode(document, memoryview(body)[length:])


def decode(document: Any, tensors: memoryview | None = None) -> Decoded:
    """Read a request's JSON document and the binary tensors behind it.

    The protocol has no place for one image's error, so one bad image refuses the request.

    Raises:
        RequestError: it cannot be read, or an image in it is refused.
    """
    if not isinstance(document, dict):
        raise Unreadable(f"expected a JSON object, got {json_type(document)}")
    request_id = document.get("id")
    if not isinstance(request_id, str | None):
        raise Unreadable(f'expected "id" to be a string, got {json_type(request_id)}')
    outputs = _decode_outputs(document)
    images = _decode_input(document.get("inputs"), tensors or memoryview(b""))

    def encode(predictions: Predictions) -> Answer:
        return _encode(predictions, outputs, request_id)

    return Decoded(images, {}, encode)


def _decode_input(inputs: Any, tensors: memoryview) -> Images:
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise Unreadable(f'expected "inputs" to be a list of one tensor, named "{INPUT}"')
    tensor = inputs[0]
    if tensor.get("name") != INPUT:
        raise Unreadable(f'expected the input tensor to be named "{INPUT}"')
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not all(type(side) is int and side >= 0 for side in shape):
        raise InvalidShape('expected "shape" to be a list of whole numbers')
    size = _parameters(tensor).get("binary_data_size")
    if size is None:
        if tensors:
            raise Unreadable(f"expected no bytes behind the JSON, got {len(tensors)}")
    elif type(size) is not int or size != len(tensors):
        raise Unreadable(f"expected binary_data_size to be {len(tensors)}, the bytes that came")
    raw = None if size is None else tensors
    datatype = tensor.get("datatype")
    if datatype == "BYTES":
        return _decode_encoded_images(shape, tensor.get("data"), raw)
    if not isinstance(datatype, str) or datatype not in _DTYPES:
        raise Unreadable('expected "datatype" to be "UINT8", "FP32" or "BYTES"')
    check_shape(shape)
    array = _decode_tensor(shape, _DTYPES[datatype], tensor.get("data"), raw)
    images, refusals = as_images(array)
    for index, refusal in sorted(refusals.items()):
        raise _at(index, refusal)
    return images


def _decode_tensor(
    shape: list[int], dtype: np.dtype[Any], data: Any, raw: memoryview | None
) -> NDArray[Any]:
    count = math.prod(shape)
    if raw is not None:
        if count * dtype.itemsize != len(raw):
            raise InvalidShape(
                f"expected {count * dtype.itemsize} bytes for this shape and datatype, "
                f"got {len(raw)}"
            )
        return np.frombuffer(raw, dtype).reshape(shape)
    array = decode_numbers(data)
    if array.size != count:
        raise InvalidShape(f"expected {count} numbers for this shape, got {array.size}")
    if dtype == np.uint8 and array.dtype.kind == "f":
        raise Unreadable("expected whole numbers in a UINT8 tensor, got fractions")
    # UINT8 keeps its wider integers until as_images has checked their range.
    return (array if dtype == np.uint8 else array.astype(np.float32)).reshape(shape)


def _decode_encoded_images(shape: list[int], data: Any, raw: memoryview | None) -> Images:
    if len(shape) not in (1, 2) or shape[1:] not in ([], [1]):
        raise InvalidShape("expected shape [N] or [N,1] for a BYTES tensor of encoded images")
    if shape[0] > MAX_IMAGES:
        raise TooLarge(f"expected at most {MAX_IMAGES} images, got {shape[0]}")
    if raw is not None:
        bodies = _split_bytes(raw, shape[0])
    elif isinstance(data, list):
        flat = [text for row in data for text in (row if isinstance(row, list) else [row])]
        bodies = [decode_base64(text) for text in flat]
    else:
        raise Unreadable('expected "data" to be a list of base64 strings')
    if len(bodies) != shape[0]:
        got = "more" if len(bodies) > shape[0] else len(bodies)
        raise InvalidShape(f"expected {shape[0]} images for this shape, got {got}")
    if not bodies:
        raise InvalidShape("expected at least one image, got none")
    images = []
    for index, body in enumerate(bodies):
        try:
            images.append(decode_single(body))
        except RequestError as refusal:
            raise _at(index, refusal) from refusal
    return stack(images)


def _split_bytes(raw: memoryview, count: int) -> list[bytes]:
    """The elements of a binary BYTES tensor: each behind its length, 4 bytes little-endian.

    No more than one beyond `count`, for there may be millions.
    """
    elements: list[bytes] = []
    position = 0
    while position < len(raw) and len(elements) <= count:
        start = position + 4
        stop = start + int.from_bytes(raw[position:start], "little")
        if start > len(raw) or stop > len(raw):
            raise Unreadable(
                "expected each BYTES element behind its 4-byte length, got fewer bytes"
            )
        elements.append(bytes(raw[start:stop]))
        position = stop
    return elements


def _decode_outputs(document: dict[str, Any]) -> list[_Output]:
    all_binary = _flag(_parameters(document), "binary_data_output")
    requested = document.get("outputs")
    if requested is None or requested == []:
        return [_Output(name, all_binary, 0) for name in OUTPUTS]
    if not isinstance(requested, list):
        raise Unreadable(f'expected "outputs" to be a list, got {json_type(requested)}')
    outputs = []
    for output in requested:
        name = output.get("name") if isinstance(output, dict) else None
        if name not in OUTPUTS:
            raise Unreadable('expected an output named "digit" or "probabilities"')
        parameters = _parameters(output)
        top = parameters.get("classification", 0)
        if type(top) is not int or top < 0 or (top and name != "probabilities"):
            raise Unreadable('expected "classification" to be a whole number, on "probabilities"')
        outputs.append(_Output(name, _flag(parameters, "binary_data", all_binary), top))
    outputs = list(dict.fromkeys(outputs))
    if len({(output.name, output.classification > 0) for output in outputs}) < len(outputs):
        raise Unreadable("expected each output once, and once more with its classification")
    return outputs


def _parameters(holder: dict[str, Any]) -> dict[str, Any]:
    parameters = holder.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise Unreadable(f'expected "parameters" to be an object, got {json_type(parameters)}')
    return parameters


def _flag(parameters: dict[str, Any], name: str, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise Unreadable(f'expected "{name}" to be true or false, got {json_type(value)}')
    return value


def _at(index: int, refusal: RequestError) -> RequestError:
    return type(refusal)(f"image {index}: {refusal.message}")


def _encode(predictions: Predictions, outputs: list[_Output], request_id: str | None) -> Answer:
    described: list[dict[str, Any]] = []
    tensors: list[bytes] = []
    for output in outputs:
        datatype, array = _output_array(predictions, output)
        tensor: dict[str, Any] = {"name": output.name, "shape": array.shape, "datatype": datatype}
        if output.binary:
            tensors.append(_join_bytes(array) if datatype == "BYTES" else array.tobytes())
            tensor["parameters"] = {"binary_data_size": len(tensors[-1])}
        else:
            tensor["data"] = array.ravel().tolist() if datatype == "BYTES" else array.ravel()
        described.append(tensor)
    document: dict[str, Any] = {"model_name": MODEL_NAME, "model_version": MODEL_VERSION}
    if request_id is not None:
        document["id"] = request_id
    document["outputs"] = described
    header = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if not tensors:
        return Answer(200, header)
    return Answer(
        200,
        b"".join([header, *tensors]),
        "application/octet-stream",
        {"Inference-Header-Content-Length": str(len(header))},
    )


def _output_array(predictions: Predictions, output: _Output) -> tuple[str, NDArray[Any]]:
    if output.name == "digit":
        return "INT64", predictions.digits.astype("<i8", copy=False)
    probabilities = predictions.probabilities.astype("<f4", copy=False)
    if not output.classification:
        return "FP32", np.ascontiguousarray(probabilities)
    top = np.argsort(-probabilities, axis=1, kind="stable")[:, : output.classification]
    return "BYTES", np.array(
        [
            [f"{row[k]:f}:{k}:{LABELS[k]}" for k in ks]
            for row, ks in zip(probabilities, top, strict=True)
        ],
        dtype=object,
    )


def _join_bytes(array: NDArray[Any]) -> bytes:
    elements = [text.encode() for text in array.ravel()]
    return b"".join(len(element).to_bytes(4, "little") + element for element in elements)
