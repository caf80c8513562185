"""The worker dies, hangs or runs out of memory: the service comes back by itself."""

from __future__ import annotations

import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests
from numpy.typing import NDArray

from client import DigitClient
from client.server import Server
from handler.model import DigitModel
from tests.conftest import TIMEOUT, serving
from tests.faults.conftest import Report, worker_of
from tests.images import png

Mnist = tuple[NDArray[np.uint8], NDArray[np.int64]]
SILENT = 3  # seconds; config.properties has 60, which is long for a test
BACK = 60.0  # seconds until which the service must be back


@pytest.fixture
def own(archive: Path) -> Iterator[Server]:
    """A server of the test's own, whose worker may be silent for a short time only."""
    limit = ('"responseTimeout": 60', f'"responseTimeout": {SILENT}')
    with serving(archive, limit) as server:
        yield server


def ask(server: Server, body: bytes) -> tuple[int, float]:
    """The status of one request, and how many seconds it took."""
    start = time.monotonic()
    headers = {"Authorization": f"Bearer {server.key}"}
    url = f"{server.url}/predictions/mnist"
    answer = requests.post(url, data=body, headers=headers, timeout=TIMEOUT)
    return answer.status_code, time.monotonic() - start


def test_the_worker_is_killed_under_load(
    own: Server, mnist_test: Mnist, soak: bool, report: Report
) -> None:
    """Every request under way is answered or refused; later ones are answered again."""
    body = png(mnist_test[0][0])
    for _ in range(10 if soak else 3):
        killed = worker_of(own)
        done = threading.Event()
        with ThreadPoolExecutor(16) as pool:
            loads = [pool.submit(_load, own, body, done) for _ in range(16)]
            time.sleep(0.3)
            killed.kill()
            seconds = _until_back(own, body, killed.pid)
            done.set()
        statuses = sum((load.result()[0] for load in loads), Counter[int]())
        longest = max(load.result()[1] for load in loads)
        report(f"killed: back after {seconds:.2f} s, {dict(statuses)}, longest {longest:.2f} s")
        assert set(statuses) <= {200, 500, 503, 507}


def test_the_client_loses_nothing(own: Server, mnist_test: Mnist, model: DigitModel) -> None:
    images = mnist_test[0][:2000]
    killed = worker_of(own)
    with DigitClient(own.url, key=own.key, images_per_request=1, connections=16) as client:
        timer = threading.Timer(0.3, killed.kill)
        timer.start()
        predictions = client.predict(images)
    timer.join()
    assert [p.digit for p in predictions] == model.predict(images)[0].tolist()
    assert worker_of(own).pid != killed.pid


def test_the_worker_hangs(own: Server, mnist_test: Mnist, report: Report) -> None:
    """A stopped worker is replaced, and does not stay behind."""
    body = png(mnist_test[0][0])
    stopped = worker_of(own)
    stopped.send_signal(signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: ask(own, body), range(8)))
        seconds = _until_back(own, body, stopped.pid)
        waited = max(took for _, took in answers)
        statuses = dict(Counter(status for status, _ in answers))
        report(f"stopped: {statuses} after {waited:.1f} s (limit {SILENT} s), back {seconds:.2f} s")
        gone = not stopped.is_running() or stopped.status() == psutil.STATUS_ZOMBIE
        report(f"stopped: the old process is gone: {gone}")
        assert set(statuses) <= {200, 500, 503, 507}
    finally:
        if stopped.is_running():
            stopped.kill()


def test_the_worker_is_out_of_memory(own: Server, mnist_test: Mnist, report: Report) -> None:
    """An image for which there is no memory is refused as the server's fault, and it alone."""
    body = png(mnist_test[0][0])
    large = png(np.zeros((8000, 8000, 4), np.uint8))
    worker = worker_of(own)
    assert ask(own, body)[0] == 200
    limit = worker.memory_info().vms + 60_000_000
    resource.prlimit(worker.pid, resource.RLIMIT_AS, (limit, limit))
    with ThreadPoolExecutor(20) as pool:
        # Four without memory, with sixteen good ones before, between and behind them.
        sent = [large if index % 5 == 2 else body for index in range(20)]
        answers = list(pool.map(lambda each: ask(own, each), sent))
    statuses = [status for status, _ in answers]
    report(f"out of memory: {dict(Counter(statuses))}, slowest {max(t for _, t in answers):.2f} s")
    assert statuses == [503 if each is large else 200 for each in sent]
    assert worker_of(own).pid == worker.pid


def _load(server: Server, body: bytes, done: threading.Event) -> tuple[Counter[int], float]:
    statuses: Counter[int] = Counter()
    longest = 0.0
    while not done.is_set():
        status, took = ask(server, body)
        statuses[status] += 1
        longest = max(longest, took)
    return statuses, longest


def _until_back(server: Server, body: bytes, old: int = 0) -> float:
    """Seconds until a request is answered by another worker than `old`."""
    start = time.monotonic()
    while time.monotonic() - start < BACK:
        status, _ = ask(server, body)
        if status == 200 and old not in [c.pid for c in _living(server)]:
            return time.monotonic() - start
    raise AssertionError(f"not back after {BACK} s")


def _living(server: Server) -> list[psutil.Process]:
    children = psutil.Process(server.pid).children()
    return [c for c in children if c.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED)]
