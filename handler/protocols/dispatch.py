"""Which protocol a request speaks, told from what it carries."""

from __future__ import annotations

import orjson

from handler.errors import RequestError, Unreadable
from handler.metrics import METRICS
from handler.protocols import (
    Answer,
    Decoded,
    Request,
    explanations,
    load_json,
    looks_like_json,
    openinference,
    plain,
    v1,
)

_HEADER_LENGTH = "inference-header-content-length"


def decode(request: Request) -> Decoded:
    """Read a request of any protocol, and count it by that; broken JSON, for one, speaks none.

    Raises:
        RequestError: nothing in the request can be predicted.
    """
    if request.headers.explains:
        METRICS.requests["explain"] += 1
        return explanations.decode(request)
    fields = request.fields
    body = fields.get("body", fields.get("data"))
    if body is None or len(fields) > 1:
        METRICS.requests["form"] += 1
        return plain.decode_form(request)
    if request.headers.is_kserve and "body" in fields:
        length = request.headers.lower.get(_HEADER_LENGTH)
        if length is not None:
            METRICS.requests["v2"] += 1
            return openinference.decode_binary(body, length)
        return _decode_json(body)
    if looks_like_json(body):
        return _decode_json(body)
    METRICS.requests["plain"] += 1
    return plain.decode_body(body)


def refuse(request: Request, error: RequestError) -> Answer:
    """Write a refusal of the whole request in the form of the protocol it speaks.

    The Open Inference Protocol wants a plain string; everything else gets code and message.
    """
    headers = request.headers
    if headers.is_kserve and (
        _HEADER_LENGTH in headers.lower or b'"inputs"' in request.fields.get("body", b"")
    ):
        return Answer(error.status, orjson.dumps({"error": f"{error.code}: {error.message}"}))
    return Answer(error.status, orjson.dumps(error.as_dict()))


def _decode_json(body: bytes | bytearray) -> Decoded:
    document = load_json(body)
    if isinstance(document, dict):
        if "instances" in document:
            METRICS.requests["v1"] += 1
            return v1.decode(document["instances"])
        if "inputs" in document:
            METRICS.requests["v2"] += 1
            return openinference.decode(document)
    raise Unreadable('expected a JSON object with "instances" or "inputs"')
