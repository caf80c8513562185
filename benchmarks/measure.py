"""One server measured once: checked, warmed, loaded; and which settings of a peer are best."""

from __future__ import annotations

import io
import json
import statistics
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks import bulk, load, memory
from benchmarks.processes import BenchmarkError, Contender, Running, Settings, running
from handler.model import DigitModel
from training.data import read_mnist

CONNECTIONS = (1, 16, 64, 256)
MOST_ERRORS = 0.01  # of the requests: beyond it the latencies are mostly those of refusals
BODIES = 64  # different PNGs that the load rotates over


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        seconds: of each load.
        warm_up: seconds of load before the first that counts. Java compiles what runs often, and
            is about done after 10 s; the others have nothing to gain, but get the same.
        checked: test images whose digits must be right before anything is timed.
        connections: how many at a time, one load each.
        sizes: images in one bulk request, one measurement each.
    """

    seconds: float = 5.0
    warm_up: float = 10.0
    checked: int = 1000
    connections: tuple[int, ...] = CONNECTIONS
    sizes: tuple[int, ...] = bulk.SIZES


QUICK = Effort(seconds=1.0, warm_up=1.0, checked=64, connections=(1, 64), sizes=(1000,))


@dataclass(frozen=True)
class Workload:
    """A model file, the test images, the same as PNGs, and the digits that the model gives."""

    model: Path
    images: NDArray[np.uint8]
    pngs: list[bytes]
    digits: list[int]

    @classmethod
    def of(cls, model: Path, count: int) -> Workload:
        """The first `count` test images, and 5,000 for bulk requests."""
        images = read_mnist("test")[0][:5000]
        digits = DigitModel(model).predict(images)[0].tolist()
        return cls(model, images, [to_png(image) for image in images[:count]], digits)


def measure(
    contender: Contender, settings: Settings, workload: Workload, port: int, effort: Effort
) -> Iterator[tuple[str, float]]:
    """Start, check, warm, load and end a server.

    Yields:
        Name and value of each metric; the unit is part of the name.

    Raises:
        BenchmarkError: it does not start, or gives one wrong digit.
    """
    bodies = workload.pngs[:BODIES]
    with running(contender, workload.model, port, settings, bodies[0]) as server:
        yield "first_prediction_s", server.first_prediction_s
        yield "memory_rest_mb", memory.megabytes(server.pid)
        check(server, workload)
        load.run(server, bodies, 64, effort.warm_up)
        for connections in effort.connections:
            seen = load.run(server, bodies, connections, effort.seconds)
            yield f"images_per_s@{connections}", seen.per_second
            if seen.per_second and seen.errors <= MOST_ERRORS * seen.requests:
                yield f"p50_ms@{connections}", seen.p50_ms
                yield f"p99_ms@{connections}", seen.p99_ms
            yield f"errors@{connections}", seen.errors
        if contender.takes_arrays:
            check_bulk(server, workload)
            for size in effort.sizes:
                images = workload.images[:size]
                yield f"bulk_images_per_s@{size}", bulk.measure(server, images, effort.seconds / 2)
        yield "memory_load_mb", memory.megabytes(server.pid)


def check(server: Running, workload: Workload) -> None:
    """Ask for every PNG, 16 at a time, so that batches form; raises BenchmarkError if wrong."""
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(server.ask, workload.pngs))
    wrong = [
        index
        for index, answer in enumerate(answers)
        if json.loads(answer) != workload.digits[index]
    ]
    if wrong:
        raise BenchmarkError(
            f"{server.name}: {len(wrong)} of {len(answers)} digits are not the model's, "
            f"the first at test image {wrong[0]}"
        )


def check_bulk(server: Running, workload: Workload) -> None:
    """Ask for all images in one request; raises BenchmarkError if a digit is wrong."""
    if json.loads(server.ask(bulk.to_npy(workload.images))) != workload.digits:
        raise BenchmarkError(f"{server.name}: the digits of a bulk request are not the model's")


def tune(contender: Contender, workload: Workload, port: int, effort: Effort) -> Settings:
    """The settings with the highest throughput at 64 connections, median of two rounds."""
    if len(contender.settings) == 1:
        return contender.settings[0]
    seen: list[list[float]] = [[] for _ in contender.settings]
    for _ in range(2):
        for values, settings in zip(seen, contender.settings, strict=True):
            with running(contender, workload.model, port, settings, workload.pngs[0]) as server:
                load.run(server, workload.pngs[:BODIES], 64, effort.seconds / 2)
                done = load.run(server, workload.pngs[:BODIES], 64, effort.seconds)
                values.append(0.0 if done.errors else done.per_second)
    medians = [statistics.median(values) for values in seen]
    return contender.settings[int(np.argmax(medians))]


def to_png(image: NDArray[np.uint8]) -> bytes:
    """As Pillow writes it, the library that most clients use."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
