"""The TorchServe adapter: the one file of the archive that knows TorchServe.

TorchServe loads this file by name, finds its single class, calls `initialize` once in each worker
and `handle` once a batch. All that is worth testing without a server lives in `handler.service`.
"""

from __future__ import annotations

import gc
import logging
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import torch
import ts

from handler import logs, pairing, wire, worker
from handler.memory import release_library_pages
from handler.metrics import LABEL_NAMES, METRICS, Emit, report
from handler.model import DigitModel
from handler.protocols import Headers, Request
from handler.service import answer_batch

logger = logging.getLogger(__name__)


class MnistHandler:
    """Serves the archived digit model; see TorchServe's custom handler documentation."""

    def initialize(self, context: Any) -> None:
        """Load and warm the model. A failure here ends the worker, its reason in the log.

        Args:
            context: TorchServe's context, with the model's folder, manifest and device.

        Raises:
            ModelError: the archive cannot be served.
        """
        logs.configure()
        properties = context.system_properties
        # Threads inside an operator fight the front end for cores, and make a batch of 28×28
        # images 10 to 100 times slower.
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        gpu = properties.get("gpu_id")
        device = f"cuda:{gpu}" if gpu is not None and torch.cuda.is_available() else "cpu"
        path = Path(properties["model_dir"]) / context.manifest["model"]["serializedFile"]
        self._model = DigitModel(path, device)
        if pairing.knows_torchserve():
            answer = partial(answer_batch, self._model)
            worker.when_loaded(worker.Worker(pairing.meeting, answer).serve)
        else:
            logger.warning("TorchServe %s speaks to its worker itself: slower", ts.__version__)
        # What is loaded now stays: the garbage collector need not walk it again and again.
        gc.collect()
        gc.freeze()
        gc.enable()
        release_library_pages()
        logger.info("serving %s on %s", path.name, device)
        report(METRICS, _emitter())
        # TorchServe's worker writes an INFO line for every batch; from here on, only warnings.
        logging.getLogger().setLevel(logging.WARNING)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """Answer one batch.

        Args:
            data: for each request its form fields, or its body under `body`.
            context: carries request headers in, statuses and headers out.

        Returns:
            One body a request, encoded, so that TorchServe has nothing left to serialise.
        """
        requests = [
            Request(
                fields,
                Headers(context.get_all_request_header(index)),
                context.get_request_id(index),
            )
            for index, fields in enumerate(data)
        ]
        answers = answer_batch(self._model, requests)
        for index, (request, answer) in enumerate(zip(requests, answers, strict=True)):
            context.set_response_content_type(index, answer.content_type)
            if answer.status != 200:
                # No phrase: TorchServe would put it into the status line as it is.
                context.set_response_status(answer.status, "", index)
            for name, value in wire.headers_of(request, answer).items():
                context.set_response_header(index, name, value)
        return [answer.body for answer in answers]


def _emitter() -> Emit:
    """TorchServe's way to report a counter: the worker prints a line, the front end adds it up."""
    from ts.metrics.caching_metric import CachingMetric  # noqa: PLC0415

    counters = {
        name: CachingMetric(name, "count", [label] if label else [])
        for name, label in LABEL_NAMES.items()
    }
    # Its lines are log records, which have to get past the level of everything else.
    logging.getLogger(CachingMetric.__module__).setLevel(logging.INFO)

    def emit(name: str, label: str | None, increase: float) -> None:
        counters[name].add_or_update(increase, [] if label is None else [label])

    return emit
