"""What the project promises about its speed, checked against the measurements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from benchmarks.limits import BATCHES
from benchmarks.results import IN_PROCESS, Results


class Bar(NamedTuple):
    """One promise: what it says, what was seen, the limit, and whether it holds."""

    model: str
    promise: str
    seen: float
    limit: float
    holds: bool


def check(results: Results) -> Iterator[Bar]:
    """Every promise that the results can decide."""
    for model in results.models:
        for promise, limit, at_least, value in _promises(model):
            seen = value(results)
            if seen is not None:
                holds = seen >= limit if at_least else seen <= limit
                yield Bar(model, promise, seen, limit, holds)


Promise = tuple[str, float, bool, Callable[[Results], "float | None"]]


def _promises(model: str) -> Iterator[Promise]:
    """Each with its limit, whether that is a lower one, and how it is computed."""
    for connections in (16, 64, 256):
        metric = f"images_per_s@{connections}"
        name = f"throughput at {connections} connections, of mosec's"
        yield name, 1.0, True, _ratio(model, metric, "mosec")
    yield (
        *("throughput at 64 connections, of stock's", 60.0, True),
        _ratio(model, "images_per_s@64", "stock"),
    )
    yield (
        *("p99 at 64 connections, of its p50", 2.0, False),
        _ratio(model, "p99_ms@64", "project", "p50_ms@64"),
    )
    yield "p50 at 1 connection, ms", 2.2, False, _median(model, "project", "p50_ms@1")
    yield (
        *("p50 at 1 connection, ms, low-latency setting", 0.9, False),
        _median(model, "low latency", "p50_ms@1"),
    )
    for network in ("frozen", "optimised"):
        yield (
            f"1,000 images in one request, of the {network} network's in-process limit",
            *(0.85 if model == "cnn" else 0.6, True, _of_limit(model, network)),
        )
    yield (
        *("start to first prediction, of stock's", 0.3, False),
        _ratio(model, "first_prediction_s", "stock"),
    )
    yield (
        *("memory after load, of stock's", 0.4, False),
        _ratio(model, "memory_load_mb", "stock"),
    )
    yield "errors", 0.0, False, lambda results: _errors(results, model)


def _ratio(
    model: str, metric: str, other: str, other_metric: str | None = None
) -> Callable[[Results], float | None]:
    def compute(results: Results) -> float | None:
        ratio = results.ratio(model, metric, "project", other, other_metric)
        return ratio and ratio.median

    return compute


def _median(model: str, server: str, metric: str) -> Callable[[Results], float | None]:
    return lambda results: results.median(model, server, metric)


def _of_limit(model: str, network: str) -> Callable[[Results], float | None]:
    """Bulk against the network alone, at its fastest batch size."""

    def compute(results: Results) -> float | None:
        metrics = [f"{network}@{size}" for size in BATCHES]
        limit = max(metrics, key=lambda name: results.median(model, IN_PROCESS, name) or 0.0)
        ratio = results.ratio(model, "bulk_images_per_s@1000", "project", IN_PROCESS, limit)
        return ratio and ratio.median

    return compute


def _errors(results: Results, model: str) -> float | None:
    errors = [
        sample.value
        for sample in results.samples
        if sample.model == model
        and sample.server == "project"
        and sample.metric.startswith("errors@")
    ]
    return sum(errors) if errors else None
