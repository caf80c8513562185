"""Answers a batch of requests with one call of the model. Knows no server.

Each request is decoded, checked and answered alone; only the network sees them together. So what
one client sends can change the answer of no other.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import orjson

from handler.arrays import stack
from handler.errors import RequestError
from handler.explain import Attribution
from handler.model import DigitModel
from handler.protocols import Answer, Decoded, Predictions, Request
from handler.protocols.dispatch import decode, refuse

logger = logging.getLogger(__name__)

_SERVER_ERROR = Answer(
    500,
    orjson.dumps(
        {"error": {"code": "internal", "message": "the server failed; its log has the reason"}}
    ),
)


def answer_batch(model: DigitModel, requests: Sequence[Request]) -> list[Answer]:
    """Answer requests of any protocols, in their order.

    Never raises: what a client did wrong becomes a 4xx of its own request, and a fault of the
    server becomes a 500, logged with its traceback.
    """
    decoded = [_decode(request) for request in requests]
    understood = [item for item in decoded if isinstance(item, Decoded)]
    answers = iter(_predict(model, understood))
    return [next(answers) if isinstance(item, Decoded) else item for item in decoded]


def _decode(request: Request) -> Decoded | Answer:
    try:
        return decode(request)
    except RequestError as error:
        return refuse(request, error)
    except Exception:
        logger.exception("a request could not be decoded")
        return _SERVER_ERROR


def _predict(model: DigitModel, batch: Sequence[Decoded]) -> list[Answer]:
    if not batch:
        return []
    try:
        digits, probabilities = model.predict(stack([item.images for item in batch]))
    except Exception:
        logger.exception("a batch of %d requests could not be predicted", len(batch))
        return [_SERVER_ERROR] * len(batch)
    answers = []
    start = 0
    for item in batch:
        stop = start + len(item.images)
        predictions = Predictions(digits[start:stop], probabilities[start:stop], item.refusals)
        answers.append(_encode(model, item, predictions))
        start = stop
    return answers


def _encode(model: DigitModel, item: Decoded, predictions: Predictions) -> Answer:
    try:
        if item.targets is not None:
            predictions = predictions._replace(attributions=_explain(model, item, predictions))
        return item.encode(predictions)
    except Exception:
        logger.exception("an answer could not be made")
        return _SERVER_ERROR


def _explain(model: DigitModel, item: Decoded, predictions: Predictions) -> dict[int, Attribution]:
    attributions = {}
    for index, target in enumerate(item.targets or ()):
        if index not in item.refusals:
            explained = int(predictions.digits[index]) if target is None else target
            attributions[index] = model.explain(item.images[index : index + 1], explained)
    return attributions
