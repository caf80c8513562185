"""Explanations: an image in, its digit and each pixel's share in it back.

At `/explanations/mnist`: an image or a `.npy` file as the body, or in the form field `data`, with
the form field `target` naming another digit to explain than the predicted one. There and at
`/v1/models/mnist:explain`: `{"instances": […], "target": 3}`, answered `{"explanations": […]}`.
"""

from __future__ import annotations

from typing import Any

import orjson

from handler.errors import InvalidRange, Unreadable
from handler.labels import LABELS
from handler.protocols import Answer, Decoded, Predictions, Request, load_json, looks_like_json
from handler.protocols.plain import decode_form, decode_single
from handler.protocols.v1 import decode_instances

MAX_IMAGES = 32  # an explanation costs as much as a thousand predictions


def decode(request: Request) -> Decoded:
    """Read a request for explanations.

    Raises:
        RequestError: nothing in it can be explained.
    """
    fields = dict(request.fields)
    target = _decode_target(fields.pop("target", None))
    body = fields.get("body", fields.get("data"))
    if body is None or len(fields) > 1:
        if not fields:
            return decode_form(request._replace(fields=fields))  # explains what is missing
        raise Unreadable('expected the image as the body or in the one form field "data"')
    if not looks_like_json(body):
        return Decoded(decode_single(body), {}, _encode_one, [target])
    document = load_json(body)
    if not isinstance(document, dict) or "instances" not in document:
        raise Unreadable('expected a JSON object with "instances"')
    target = _decode_target(document.get("target", target))
    images, refusals = decode_instances(document["instances"], MAX_IMAGES)
    return Decoded(images, refusals, _encode_list, [target] * len(images))


def _decode_target(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, (bytes, bytearray)):
        value = int(value) if value.isdigit() and len(value) < 6 else -1
    if type(value) is not int or not 0 <= value < len(LABELS):
        raise InvalidRange(f'expected "target" to be a class, 0 to {len(LABELS) - 1}')
    return value


def _describe(predictions: Predictions, index: int) -> dict[str, Any]:
    attribution = predictions.attributions[index]
    return {
        "digit": LABELS[int(predictions.digits[index])],
        "target": LABELS[attribution.target],
        "attributions": attribution.values,
        "completeness_error": attribution.error,
        "steps": attribution.steps,
    }


def _encode_one(predictions: Predictions) -> Answer:
    if predictions.refusals:
        refusal = predictions.refusals[0]
        return Answer(refusal.status, orjson.dumps(refusal.as_dict()))
    return Answer(200, orjson.dumps(_describe(predictions, 0), option=orjson.OPT_SERIALIZE_NUMPY))


def _encode_list(predictions: Predictions) -> Answer:
    explained = [
        predictions.refusals[index].as_dict()
        if index in predictions.refusals
        else _describe(predictions, index)
        for index in range(len(predictions.digits))
    ]
    answer: dict[str, Any] = {"explanations": explained}
    if predictions.status != 200:
        answer |= predictions.refusals[0].as_dict()
    return Answer(predictions.status, orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY))
