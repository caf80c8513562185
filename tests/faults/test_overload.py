"""Ten times more requests than the queue holds: each is answered or refused, none hangs."""

from __future__ import annotations

import asyncio
import resource
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from client.server import Server
from tests.conftest import TIMEOUT
from tests.faults.conftest import Report, configured, worker_of
from tests.images import npy

Mnist = tuple[NDArray[np.uint8], NDArray[np.int64]]
QUEUE = 100
RESET = 0  # TorchServe closes as it refuses, at times before its 503 could be read


@pytest.fixture
def own(archive: Path) -> Iterator[Server]:
    """A server whose queue is a tenth of config.properties', so that a test can fill it."""
    with configured(archive, "\njob_queue_size=1000\n", f"\njob_queue_size={QUEUE}\n") as server:
        yield server


async def ask(server: Server, body: bytes, go: asyncio.Event) -> tuple[int, float, bytes]:
    """One connection with one request, sent when all are connected: status, seconds, answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = (
        f"POST /predictions/mnist HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.key}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    await go.wait()
    start = time.monotonic()
    try:
        writer.write(head.encode() + body)
        # TorchServe keeps the connection, whatever it is told: the length says where to end.
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), TIMEOUT)
        length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        answer += await asyncio.wait_for(reader.readexactly(length), TIMEOUT)
    except (ConnectionResetError, BrokenPipeError, asyncio.IncompleteReadError):
        return RESET, time.monotonic() - start, b""
    finally:
        writer.close()
    return int(answer[9:12]), time.monotonic() - start, answer


async def ask_all(server: Server, body: bytes, count: int) -> list[tuple[int, float, bytes]]:
    go = asyncio.Event()
    waiting = [asyncio.create_task(ask(server, body, go)) for _ in range(count)]
    await asyncio.sleep(0.5)
    go.set()
    return await asyncio.gather(*waiting)


def test_more_connections_than_the_queue_holds(
    own: Server, mnist_test: Mnist, report: Report
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    body = npy(mnist_test[0][:200])
    worker = worker_of(own)
    answers = asyncio.run(ask_all(own, body, 10 * QUEUE))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    statuses = Counter(status for status, _, _ in answers)
    refused = sorted(took for status, took, _ in answers if status in (503, RESET))
    report(f"{10 * QUEUE} connections, a queue of {QUEUE}: {dict(statuses)}")
    report(f"slowest answer {max(took for _, took, _ in answers):.2f} s")
    assert set(statuses) - {RESET} == {200, 503}
    assert statuses[200] >= QUEUE
    report(f"refused after {refused[len(refused) // 2]:.2f} s (median), {refused[-1]:.2f} s (last)")
    assert all(b'"code": 503' in answer for status, _, answer in answers if status == 503)
    assert worker_of(own).pid == worker.pid
    assert asyncio.run(ask_all(own, body, 1))[0][0] == 200
