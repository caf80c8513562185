"""Full load for a long time: no process grows, no answer is lost or wrong. `make soak`: 10 minutes.

`make test` runs the same for 20 seconds, in which Java still fills its heap.
"""

from __future__ import annotations

import random
import shutil
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import psutil
import pytest
import requests
from numpy.typing import NDArray

from benchmarks import load
from benchmarks.processes import Running
from client.server import Server
from handler.model import DigitModel
from tests.conftest import TIMEOUT
from tests.faults.conftest import Report
from tests.images import png

Mnist = tuple[NDArray[np.uint8], NDArray[np.int64]]
CONNECTIONS = 64


class Effort(NamedTuple):
    """How long, seconds between two samples, and how much a process may grow in the last half."""

    seconds: int
    pause: float
    growth: float


LONG, SHORT = Effort(600, 2.0, 0.02), Effort(20, 0.25, 0.25)


def growth(samples: Sequence[float]) -> float:
    """By which part the last half of the samples grows: its second median beside its first one.

    Medians, since the memory of Java and of allocators goes up and down all the time.
    """
    last = samples[len(samples) // 2 :]
    middle = len(last) // 2
    return statistics.median(last[middle:]) / statistics.median(last[:middle]) - 1


@pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not installed: apt-get install wrk")
def test_nothing_grows_under_full_load(
    server: Server,
    mnist_test: Mnist,
    model: DigitModel,
    soak: bool,
    report: Report,
) -> None:
    effort = LONG if soak else SHORT
    images = mnist_test[0][:200]
    digits = model.predict(images)[0].tolist()
    bodies = [png(image) for image in images]
    headers = {"Authorization": f"Bearer {server.key}"}
    running = Running(
        "project", server.port or 0, "/predictions/mnist", server.pid or 0, 0, headers
    )
    front_end = psutil.Process(server.pid)
    load.run(running, bodies, CONNECTIONS, 5)  # warm

    processes = [front_end, *front_end.children(recursive=True)]
    memory: defaultdict[int, list[float]] = defaultdict(list)
    files: defaultdict[int, list[float]] = defaultdict(list)
    seconds: list[float] = []
    wrong: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(load.run, running, bodies, CONNECTIONS, effort.seconds)
        while not loading.done():
            for process in processes:
                memory[process.pid].append(process.memory_info().rss)
                files[process.pid].append(process.num_fds())
            index = len(seconds) % len(bodies)
            start = time.monotonic()
            url = f"{server.url}/predictions/mnist"
            answer = requests.post(url, data=bodies[index], headers=headers, timeout=TIMEOUT)
            seconds.append(time.monotonic() - start)
            if (answer.status_code, answer.text) != (200, str(digits[index])):
                wrong.append(f"{answer.status_code} {answer.text[:80]}")
            time.sleep(effort.pause)
        seen = loading.result()

    report(
        f"{seen.seconds:.0f} s, {CONNECTIONS} connections: {seen.requests} answers, "
        f"{seen.per_second:.0f} a second, {seen.errors} errors"
    )
    report(f"latency {seen.p50_ms:.1f} ms (p50), {seen.p99_ms:.1f} (p99), {seen.max_ms:.1f} (max)")
    halves = np.array_split(np.array(seconds) * 1000, 2)
    first, last = (float(np.median(half)) for half in halves)
    report(
        f"one checked request a sample: {first:.1f} ms in the first half, {last:.1f} in the last"
    )
    for process in processes:
        name = "front end" if process.pid == server.pid else process.name()
        sizes, opened = memory[process.pid], files[process.pid]
        report(
            f"{name}: {min(sizes) / 1e6:.0f} to {max(sizes) / 1e6:.0f} MB of RSS, "
            f"{growth(sizes):+.2%} in the last half; {min(opened):.0f} to {max(opened):.0f} files"
        )
        assert growth(sizes) < effort.growth
        assert growth(opened) < effort.growth
    assert wrong == []
    assert seen.errors == 0
    assert processes == [front_end, *front_end.children(recursive=True)]


def test_growth_is_seen_through_the_noise() -> None:
    """3 % in the last half is told from none, whatever single samples say."""
    chance = random.Random(0)
    flat = [100 + chance.uniform(-10, 10) + (400 if i % 17 == 0 else 0) for i in range(300)]
    leaking = [size * (1 + 0.06 * max(0, i - 150) / 150) for i, size in enumerate(flat)]
    assert abs(growth(flat)) < LONG.growth < growth(leaking)
    started = [float(size) for size in range(150)] + [150.0] * 150
    assert growth(started) == 0
