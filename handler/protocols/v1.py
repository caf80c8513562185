"""KServe's v1 protocol: `{"instances": […]}` in, `{"predictions": […]}` back.

An instance is `{"b64": "…"}` or `{"data": "<base64>"}` with an encoded image, or a list of
numbers: 28×28, 1×28×28 or 784. Source: https://kserve.github.io/website (data plane, v1).
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from itertools import chain
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from handler.arrays import MAX_DIMENSIONS, MAX_IMAGES, Images, decode_each, one_image
from handler.errors import InvalidShape, RequestError, TooLarge, Unreadable
from handler.protocols import Answer, Decoded, Predictions
from handler.protocols.plain import decode_single

_RAGGED = "expected rows of equal length, got a ragged list"


def decode(instances: Any) -> Decoded:
    """Read the value of `instances`.

    Raises:
        RequestError: it is no list, is empty or too long. A bad instance is refused in its place.
    """
    images, refusals = decode_instances(instances, MAX_IMAGES)
    return Decoded(images, refusals, _encode)


def decode_instances(instances: Any, limit: int) -> tuple[Images, dict[int, RequestError]]:
    """Instances to images [N,28,28], and the refusals by index.

    Raises:
        RequestError: it is no list, is empty, or has more than `limit` entries.
    """
    if not isinstance(instances, list):
        raise Unreadable(f'expected "instances" to be a list, got {json_type(instances)}')
    if not instances:
        raise InvalidShape('expected at least one instance, got "instances": []')
    if len(instances) > limit:
        raise TooLarge(f"expected at most {limit} instances, got {len(instances)}")
    return decode_each(instances, _decode_instance)


def decode_base64(text: Any) -> bytes:
    """Base64, line breaks allowed, to bytes.

    Raises:
        Unreadable: anything else.
    """
    if not isinstance(text, str):
        raise Unreadable(f"expected base64 in a string, got {json_type(text)}")
    try:
        return b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Unreadable("expected base64, got a string that is not base64") from error


def decode_numbers(values: Any) -> NDArray[Any]:
    """Nested lists of numbers to an array of their shape.

    Raises:
        RequestError: rows of unequal length, or something that is no number.
    """
    shape: list[int] = []
    level = [values]
    # A level at a time. NumPy would take texts as well, and room for the longest as often as there
    # are items: gigabytes.
    while (kinds := set(map(type, level))) == {list}:
        lengths = set(map(len, level))
        if len(lengths) > 1:
            raise InvalidShape(_RAGGED)
        shape += lengths
        if len(shape) > MAX_DIMENSIONS:
            raise InvalidShape(f"expected at most {MAX_DIMENSIONS} dimensions, got more")
        level = list(chain.from_iterable(level))
    if list in kinds:
        raise InvalidShape(_RAGGED)
    if not kinds <= {int, float}:
        raise Unreadable("expected a list of numbers, got something else in it")
    return np.array(level).reshape(shape)


def json_type(value: Any) -> str:
    """What people call the type of a JSON value."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return names.get(type(value), "null" if value is None else "a number")


def _decode_instance(instance: Any) -> Images:
    if isinstance(instance, list):
        return one_image(decode_numbers(instance))
    if isinstance(instance, dict) and len(instance) == 1:
        key, value = next(iter(instance.items()))
        if key in ("b64", "data"):
            return decode_single(decode_base64(value))
    raise Unreadable(
        'expected an instance {"b64": "…"}, {"data": "<base64>"} or a 28×28 list of numbers, '
        f"got {json_type(instance)}"
    )


def _encode(predictions: Predictions) -> Answer:
    answer: dict[str, Any] = {"predictions": predictions.labels()}
    if predictions.status != 200:
        # Nothing could be predicted: say so at the top as well, where clients look for an error.
        answer |= predictions.refusals[0].as_dict()
    return Answer(predictions.status, orjson.dumps(answer))
