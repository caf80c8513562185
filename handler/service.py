"""Answers a batch of requests with one call of the model. Knows no server.

Each request is decoded, checked and answered alone; only the network sees them together. So what
one client sends can change the answer of no other.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import numpy as np
import orjson

from handler.arrays import Images, stack
from handler.deadline import shared_time
from handler.errors import Busy, RequestError
from handler.explain import Attribution, captum_method
from handler.logs import log_answers
from handler.metrics import METRICS
from handler.model import DigitModel
from handler.protocols import Answer, Decoded, Predictions, Request
from handler.protocols.compression import decompress
from handler.protocols.dispatch import decode, refuse

logger = logging.getLogger(__name__)

EXPLAIN_SECONDS = 2.0
"""What the explanations of one batch may take together, while its predictions wait for them.

Without a bound a few clients could hold the worker for longer than TorchServe lets it be silent.
"""

MOST_IMAGES = 250_000
"""Images of one batch: 400 MB while they are joined, and some 5 s of the network on two cores."""

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
    began = time.perf_counter()
    decoded: list[Decoded | Answer] = []
    room = MOST_IMAGES
    with shared_time():
        for request in requests:
            item = _decode(request, room)
            if isinstance(item, Decoded):
                room -= len(item.images)
            decoded.append(item)
    METRICS.totals["mnist_decode_seconds_total"] += time.perf_counter() - began
    understood = [item for item in decoded if isinstance(item, Decoded)]
    predicted = iter(_predict(model, understood))
    answers = [next(predicted) if isinstance(item, Decoded) else item for item in decoded]
    if _SERVER_ERROR in answers:
        failed = [
            request.id
            for request, answer in zip(requests, answers, strict=True)
            if answer is _SERVER_ERROR
        ]
        METRICS.errors["internal"] += len(failed)
        logger.error(
            "answered with 500, for the reason above: request %s",
            ", ".join(failed),
            extra={"fields": {"requests": failed}},
        )
    seconds = time.perf_counter() - began
    METRICS.totals["mnist_batches_total"] += 1
    METRICS.totals["mnist_busy_seconds_total"] += seconds
    log_answers(requests, answers, seconds)
    return answers


def _decode(request: Request, room: int) -> Decoded | Answer:
    try:
        request = decompress(request)
        decoded = decode(request)
        _check_room(decoded, room)
    except RequestError as error:
        METRICS.errors[error.code] += 1
        return refuse(request, error)
    except Exception:
        logger.exception("a request could not be decoded")
        return _SERVER_ERROR
    return decoded


def _check_room(decoded: Decoded, room: int) -> None:
    """Refuse what a batch cannot hold any more; single images always find room."""
    if 1 < len(decoded.images) > room:
        raise Busy(f"more than {MOST_IMAGES:,} images came at once; send fewer, or ask again")


def _predict(model: DigitModel, batch: Sequence[Decoded]) -> list[Answer]:
    if not batch:
        return []
    began = time.perf_counter()
    try:
        images = stack([item.images for item in batch])
        digits, probabilities = model.predict(images)
    except Exception:
        logger.exception("a batch of %d requests could not be predicted", len(batch))
        return [_SERVER_ERROR] * len(batch)
    METRICS.totals["mnist_model_seconds_total"] += time.perf_counter() - began
    METRICS.totals["mnist_images_total"] += len(digits)
    answers = []
    refused: list[int] = []
    start = 0
    if any(item.targets is not None for item in batch):
        captum_method()  # so that no explanation is charged for the import
    deadline = time.monotonic() + EXPLAIN_SECONDS
    for item in batch:
        stop = start + len(item.images)
        predictions = Predictions(digits[start:stop], probabilities[start:stop], item.refusals)
        answers.append(_encode(model, item, images[start:stop], predictions, deadline))
        if item.refusals:
            refused += [start + index for index in item.refusals]
        start = stop
    if refused:
        digits = np.delete(digits, refused)
        probabilities = np.delete(probabilities, refused, axis=0)
    METRICS.add_predictions(digits, probabilities)
    return answers


def _encode(
    model: DigitModel, item: Decoded, images: Images, predictions: Predictions, deadline: float
) -> Answer:
    try:
        if item.targets is not None:
            predictions = _explain(model, images, item.targets, predictions, deadline)
        if predictions.refusals:
            for refusal in predictions.refusals.values():
                METRICS.errors[refusal.code] += 1
        return item.encode(predictions)
    except Exception:
        logger.exception("an answer could not be made")
        return _SERVER_ERROR


def _explain(
    model: DigitModel,
    images: Images,
    targets: Sequence[int | None],
    predictions: Predictions,
    deadline: float,
) -> Predictions:
    """Add an attribution for each image; those that the time does not suffice for are refused."""
    attributions: dict[int, Attribution] = {}
    refusals: dict[int, RequestError] = dict(predictions.refusals)
    for index, target in enumerate(targets):
        if index in refusals:
            continue
        if time.monotonic() > deadline:
            refusals[index] = Busy("too many explanations were asked for at once; ask again")
            continue
        explained = int(predictions.digits[index]) if target is None else target
        attributions[index] = model.explain(images[index : index + 1], explained)
    return predictions._replace(refusals=refusals, attributions=attributions)
