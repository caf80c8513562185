"""Ten times more connections than the queue holds: each is answered or refused, none hangs."""

from __future__ import annotations

import asyncio
import resource
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from client.server import Server
from tests.conftest import TIMEOUT, serving
from tests.faults.conftest import Report, request_of, worker_of
from tests.images import npy

Mnist = tuple[NDArray[np.uint8], NDArray[np.int64]]
QUEUE = 100
CONNECTIONS = 10 * QUEUE
SECONDS = 4.0  # of each load
PAUSE = 1.0  # seconds before a refused client asks again, as Retry-After in deploy/nginx.conf


@pytest.fixture
def own(archive: Path) -> Iterator[Server]:
    """A server whose queue is a tenth of config.properties', so that a test can fill it."""
    queue = ("\njob_queue_size=1000\n", f"\njob_queue_size={QUEUE}\n")
    with serving(archive, queue) as server:
        yield server


@pytest.fixture(autouse=True)
def _many_files() -> Iterator[None]:
    """This process may hold both ends of its connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Answer(NamedTuple):
    """What came back, 0 and nothing where the connection was closed before; and after how long."""

    status: int
    body: bytes
    seconds: float


class Connection(asyncio.Protocol):
    """One connection that keeps whatever has arrived.

    TorchServe sets SO_LINGER to 0, so that it resets a connection as it closes it, right behind its
    503. asyncio's streams then forget what they have received, and report a lost connection.
    """

    def __init__(self) -> None:
        self._received = b""
        self._sent = 0.0
        self._answer: asyncio.Future[Answer]
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if end and len(body) >= int(head.lower().split(b"content-length: ")[1].split()[0]):
            self._finish(int(head[9:12]), body)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's name)
        self._finish(0, b"")

    def _finish(self, status: int, body: bytes) -> None:
        if not self._answer.done():
            self._answer.set_result(Answer(status, body, time.monotonic() - self._sent))

    async def ask(self, request: bytes) -> Answer:
        """Send a request, and wait for what becomes of it."""
        self._received, self._sent = b"", time.monotonic()
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await asyncio.wait_for(self._answer, TIMEOUT)


async def connect(port: int) -> Connection:
    """A new connection to a port of this machine."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
    connection._answer = loop.create_future()
    return connection


async def ask_at_once(port: int, request: bytes, count: int) -> list[Answer]:
    """One request on each of so many connections, sent once all are there."""
    connections = [await connect(port) for _ in range(count)]
    answers = await asyncio.gather(*(connection.ask(request) for connection in connections))
    for connection in connections:
        connection.transport.close()
    return answers


async def ask_on(port: int, request: bytes, clients: int) -> Counter[int]:
    """How often each status came to clients that ask on and on, and pause where refused.

    They begin one after the other during the first pause, which is not counted.
    """
    counts: Counter[int] = Counter()
    begin = time.monotonic() + PAUSE
    end = begin + SECONDS

    async def client(number: int) -> None:
        await asyncio.sleep(PAUSE * number / clients)
        connection = await connect(port)
        while time.monotonic() < end:
            status = (await connection.ask(request)).status
            if begin <= time.monotonic() < end:
                counts[status] += 1
            if status != 200:
                await asyncio.sleep(PAUSE)
                connection = await connect(port)
        connection.transport.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return counts


def test_all_at_once(own: Server, mnist_test: Mnist, report: Report) -> None:
    """No connection is closed without an answer."""
    port, request = own.port or 0, request_of(npy(mnist_test[0][:200]), own.key)
    worker = worker_of(own)
    answers = asyncio.run(ask_at_once(port, request, CONNECTIONS))
    statuses = Counter(answer.status for answer in answers)
    refused = sorted(answer.seconds for answer in answers if answer.status == 503)
    slowest = max(answer.seconds for answer in answers)
    report(f"{CONNECTIONS} at once, a queue of {QUEUE}: {dict(statuses)}, slowest {slowest:.2f} s")
    assert set(statuses) == {200, 503}
    assert statuses[200] >= QUEUE
    report(f"refused after {refused[len(refused) // 2]:.2f} s (median), {refused[-1]:.2f} s (last)")
    assert all(b'"code": 503' in answer.body for answer in answers if answer.status == 503)
    assert worker_of(own).pid == worker.pid
    assert asyncio.run(ask_at_once(port, request, 1))[0].status == 200


def test_throughput_beside_refusals(
    own: Server, mnist_test: Mnist, soak: bool, report: Report
) -> None:
    """Calm and overrun in turn: what is answered beside refusals, of what is answered without."""
    port, request = own.port or 0, request_of(npy(mnist_test[0][:50]), own.key)
    asyncio.run(ask_on(port, request, QUEUE // 2))  # warm
    shares = []
    for _ in range(5 if soak else 1):
        calm = asyncio.run(ask_on(port, request, QUEUE // 2))
        overrun = asyncio.run(ask_on(port, request, CONNECTIONS))
        shares.append(overrun[200] / calm[200])
        report(
            f"{CONNECTIONS} clients, pausing {PAUSE:.0f} s: {overrun[200] / SECONDS:.0f} answered, "
            f"{overrun[503] / SECONDS:.0f} refused a second: {shares[-1]:.2f} of the peak"
        )
        assert set(calm) == {200}
        assert set(overrun) == {200, 503}
    report(f"answered of the peak: {statistics.median(shares):.2f} (median of {len(shares)})")
