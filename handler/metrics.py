"""What the handler counts, and how TorchServe comes to know it.

Counting is a few additions a batch; another thread reports once a second what has been added. A
line for each request, as TorchServe's own interface suggests, would cost more than the answer. A
worker that is killed takes at most the last second of its counts along.

One thread adds to the plain counters and one reads them, so they need no lock. `metrics.yaml`
declares the same counters to TorchServe's front end, which sums up what its workers report.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from handler.errors import RequestError
from handler.labels import LABELS

LABEL_NAMES: dict[str, str | None] = {
    "mnist_requests_total": "protocol",
    "mnist_images_total": None,
    "mnist_normalised_total": None,
    "mnist_errors_total": "code",
    "mnist_predictions_total": "digit",
    "mnist_confidence_bucket": "le",
    "mnist_confidence_sum": None,
    "mnist_confidence_count": None,
    "mnist_batches_total": None,
    "mnist_decode_seconds_total": None,
    "mnist_model_seconds_total": None,
    "mnist_busy_seconds_total": None,
}
"""Each counter, and the name of its label or None."""

BOUNDS = np.array([0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999])
"""Upper bounds of the confidence's buckets; close together where a good model's answers lie."""

PROTOCOLS = ("plain", "form", "v1", "v2", "explain")
CODES = (*(kind.code for kind in RequestError.__subclasses__()), "internal")

COUNTED_AT_ONCE = 1000
"""Predictions that wait to be counted together: alone, NumPy's calls cost a fifth of an answer."""

REPORT_SECONDS = 1.0

Series: TypeAlias = tuple[str, "str | None"]
"""A counter's name, and the value of its label or None."""

Emit: TypeAlias = Callable[[str, "str | None", float], None]
"""Called with a counter's name, its label's value or None, and what to add to it."""


class Metrics:
    """Counters that one thread adds to and another one collects.

    Attributes:
        requests: by protocol.
        errors: by code: requests refused, images refused in their place, faults of the server.
        totals: the counters without a label, by name.
    """

    def __init__(self) -> None:
        # From 0 on, since Prometheus cannot tell the increase of what was not there before.
        self.requests = dict.fromkeys(PROTOCOLS, 0)
        self.errors = dict.fromkeys(CODES, 0)
        self.totals = {name: 0.0 for name, label in LABEL_NAMES.items() if label is None}
        # How often each class was predicted with a confidence in each bucket.
        self._predicted = np.zeros((len(LABELS), len(BOUNDS) + 1), np.int64)
        self._confidence_sum = 0.0
        self._waiting: deque[tuple[NDArray[np.int64], NDArray[np.float32]]] = deque()
        self._images_waiting = 0
        self._lock = threading.Lock()
        self._collected: dict[Series, float] = {}

    def add_predictions(
        self, digits: NDArray[np.int64], probabilities: NDArray[np.float32]
    ) -> None:
        """Count predictions: digits int64 [N], probabilities float32 [N,classes]."""
        self._waiting.append((digits, probabilities))
        self._images_waiting += len(digits)
        if self._images_waiting >= COUNTED_AT_ONCE:
            self._count_waiting()

    def _count_waiting(self) -> None:
        with self._lock:
            self._images_waiting = 0
            waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if not waiting:
                return
            digits = np.concatenate([digits for digits, _ in waiting])
            confidences = np.concatenate([row for _, row in waiting]).max(axis=1)
            cells = digits * self._predicted.shape[1] + np.searchsorted(BOUNDS, confidences)
            counts = np.bincount(cells, minlength=self._predicted.size)
            self._predicted += counts.reshape(self._predicted.shape)
            self._confidence_sum += float(confidences.sum(dtype=np.float64))

    def collect(self) -> dict[Series, float]:
        """What has been added to each counter since it was collected last, where anything was.

        The first time it is every counter, whether anything was added or not.
        """
        self._count_waiting()
        with self._lock:
            predicted = self._predicted.copy()
            confidence_sum = self._confidence_sum
        totals: dict[Series, float] = {(name, None): total for name, total in self.totals.items()}
        totals |= {("mnist_requests_total", key): count for key, count in self.requests.items()}
        totals |= {("mnist_errors_total", code): count for code, count in self.errors.items()}
        totals["mnist_confidence_sum", None] = confidence_sum
        for digit, count in enumerate(predicted.sum(axis=1).tolist()):
            totals["mnist_predictions_total", str(digit)] = count
        at_most = predicted.sum(axis=0).cumsum().tolist()
        for bound, count in zip((*BOUNDS.tolist(), "+Inf"), at_most, strict=True):
            totals["mnist_confidence_bucket", str(bound)] = count
        totals["mnist_confidence_count", None] = at_most[-1]
        before, self._collected = self._collected, totals
        return {
            series: total - before.get(series, 0.0)
            for series, total in totals.items()
            if total != before.get(series)
        }


def report(metrics: Metrics, emit: Emit) -> None:
    """Start the thread that hands on, once a second, what has been added."""

    def run() -> None:
        while True:
            time.sleep(REPORT_SECONDS)
            for (name, label), increase in metrics.collect().items():
                emit(name, label, increase)

    threading.Thread(target=run, name="metrics", daemon=True).start()


METRICS = Metrics()
"""This worker's."""
