"""Two real servers behind a real nginx: killed under load, overrun, gone."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pytest
import requests
from numpy.typing import NDArray

from benchmarks import load
from benchmarks.processes import Running
from client.server import REPOSITORY, Server
from handler.model import DigitModel
from tests.conftest import TIMEOUT, free_ports, serving
from tests.faults.conftest import request_of, worker_of
from tests.faults.test_overload import Answer
from tests.faults.test_overload import ask_at_once as ask_on_connections
from tests.images import npy, png

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin")
CLIENTS = 8
SPAN = 0.2  # seconds

pytestmark = pytest.mark.skipif(
    NGINX is None, reason="nginx is not installed: apt-get install nginx-light"
)


@contextmanager
def nginx(folder: Path, servers: list[Server], retries: bool = True) -> Iterator[str]:
    """nginx with the project's settings, but for the ports; its URL."""
    port = free_ports(1)
    config = (REPOSITORY / "deploy" / "nginx.conf").read_text()
    for old, new in ((8080, servers[0].port), (9080, servers[1].port), (8000, port)):
        assert config.count(f"127.0.0.1:{old}") == 1
        config = config.replace(f"127.0.0.1:{old}", f"127.0.0.1:{new}")
    if not retries:
        assert config.count("proxy_next_upstream error") == 1
        config = config.replace("proxy_next_upstream error", "proxy_next_upstream off; #")
    (folder / "nginx.conf").write_text(config)
    log = folder / "nginx.log"
    command = [str(NGINX), "-p", str(folder), "-c", "nginx.conf", "-g", "daemon off;"]
    with log.open("w") as written:
        process = subprocess.Popen(command, stdout=written, stderr=written)
    try:
        deadline = time.monotonic() + 20
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            try:
                requests.get(f"http://127.0.0.1:{port}/ping", timeout=TIMEOUT)
            except requests.ConnectionError:
                time.sleep(0.05)
            else:
                break
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(TIMEOUT)


def kill(server: Server) -> None:
    assert server.pid
    front_end = psutil.Process(server.pid)
    processes = [front_end, *front_end.children(recursive=True)]
    for process in processes:
        process.kill()
    psutil.wait_procs(processes, timeout=TIMEOUT)


@pytest.fixture
def two_servers(archive: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Server]]:
    monkeypatch.setenv("TS_DISABLE_TOKEN_AUTHORIZATION", "true")
    with serving(archive) as first, serving(archive) as second:
        yield [first, second]


class Seen(NamedTuple):
    """An answer, as the client sees it: when it came, and how long it took, in seconds."""

    at: float
    seconds: float


@dataclass
class Outcome:
    """What clients saw before, while and after a server was killed.

    Attributes:
        sent: how many requests were sent.
        lost: what became of those without the right answer.
        seen: the answers, the right and the wrong.
        killed: when the server was killed, on the same clock.
    """

    sent: int
    lost: list[str]
    seen: list[Seen]
    killed: float


def degraded_seconds(seen: list[Seen], killed: float) -> float:
    """For how long, after the kill, service was worse than usual.

    Which is: in spans of 0.2 seconds, answers took more than twice the median from before in the
    median, or fewer than half as many came.
    """
    times = np.array(sorted(seen))
    spans = np.floor((times[:, 0] - killed) / SPAN).astype(int)
    usual = times[spans < 0]
    # The first span and the last are not whole.
    each = [times[spans == span, 1] for span in range(spans[0] + 1, spans[-1])]
    before = -spans[0] - 1
    count = np.median([len(answers) for answers in each[:before]])
    slow = 2 * np.median(usual[:, 1])
    worse = [
        len(answers) < count / 2 or bool(np.median(answers) > slow) for answers in each[before:]
    ]
    return SPAN * worse.count(True)


def ask_while_one_dies(
    url: str,
    victim: Server,
    images: NDArray[np.uint8],
    expected: list[int],
    *,
    before: float = 1,
    after: float = 3,
) -> Outcome:
    """Eight clients ask without pause, for so many seconds before and after a server is killed."""
    bodies = [png(image) for image in images]
    stop = threading.Event()
    sent = [0] * CLIENTS
    lost: list[str] = []
    seen: list[Seen] = []

    def ask(client: int) -> None:
        with requests.Session() as session:
            while not stop.is_set():
                index = (client + sent[client] * CLIENTS) % len(bodies)
                sent[client] += 1
                begun = time.monotonic()
                try:
                    answer = session.post(
                        f"{url}/predictions/mnist", data=bodies[index], timeout=TIMEOUT
                    )
                    if answer.text != str(expected[index]):
                        lost.append(f"{answer.status_code} {answer.text[:80]}")
                except requests.RequestException as error:
                    lost.append(repr(error))
                seen.append(Seen(time.monotonic(), time.monotonic() - begun))

    threads = [threading.Thread(target=ask, args=(client,)) for client in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(before)
        killed = time.monotonic()
        kill(victim)
        time.sleep(after)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return Outcome(sum(sent), lost, seen, killed)


@contextmanager
def full_load(url: str, images: NDArray[np.uint8], seconds: int) -> Iterator[list[load.Load]]:
    """wrk, where there is one, on 32 connections for so long, beside what is in the block.

    What it saw is in the list afterwards.
    """
    if shutil.which("wrk") is None:
        yield []
        return
    server = Running("nginx", int(url.rpartition(":")[2]), "/predictions/mnist", 0, 0.0)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(load.run, server, [png(image) for image in images], 32, seconds)
        found: list[load.Load] = []
        yield found
        found.append(done.result(TIMEOUT))


def test_a_server_killed_at_full_load_costs_no_client_an_answer(
    two_servers: list[Server],
    tmp_path: Path,
    model: DigitModel,
    mnist_test: tuple[NDArray[np.uint8], NDArray[np.int64]],
) -> None:
    images = mnist_test[0][:200]
    expected = model.predict(images)[0].tolist()
    with nginx(tmp_path, two_servers) as url, full_load(url, images, seconds=14) as loads:
        outcome = ask_while_one_dies(url, two_servers[0], images, expected, before=4, after=8)
    after = [answer.seconds for answer in outcome.seen if answer.at > outcome.killed]
    usual = [answer.seconds for answer in outcome.seen if answer.at <= outcome.killed]
    print(
        f"sent {outcome.sent}, lost {len(outcome.lost)}; worse than usual for "
        f"{degraded_seconds(outcome.seen, outcome.killed):.1f} of 8 s; median "
        f"{1000 * np.median(usual):.0f} ms before, {1000 * np.median(after):.0f} ms after, slowest "
        f"{1000 * max(usual):.0f} and {1000 * max(after):.0f} ms"
    )
    assert outcome.sent >= 1000
    assert outcome.lost == []
    for beside in loads:
        print(f"wrk: {beside.requests} answers, {beside.errors} errors")
        assert beside.requests >= 1000
        assert beside.errors == 0


def test_without_a_second_try_answers_are_lost(
    two_servers: list[Server],
    tmp_path: Path,
    model: DigitModel,
    mnist_test: tuple[NDArray[np.uint8], NDArray[np.int64]],
) -> None:
    """The load of the test above is such that a loss would show."""
    images = mnist_test[0][:200]
    expected = model.predict(images)[0].tolist()
    with nginx(tmp_path, two_servers, retries=False) as url:
        assert ask_while_one_dies(url, two_servers[1], images, expected).lost


def ask_at_once(url: str, body: bytes) -> list[requests.Response]:
    """128 requests, 64 at a time."""
    with ThreadPoolExecutor(64) as pool, requests.Session() as session:
        session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=64))
        asked = [
            pool.submit(session.post, f"{url}/predictions/mnist", data=body, timeout=TIMEOUT)
            for _ in range(128)
        ]
        return [each.result() for each in asked]


def test_a_refusal_says_when_to_ask_again(
    archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mnist_test: tuple[NDArray[np.uint8], NDArray[np.int64]],
) -> None:
    """Two servers with queues of four, overrun, and then ended: 503 and 502, both with Retry-After.

    The servers being full does not take them out of service (502).
    """
    monkeypatch.setenv("TS_DISABLE_TOKEN_AUTHORIZATION", "true")
    body = npy(mnist_test[0][:500])
    small = ("\njob_queue_size=1000\n", "\njob_queue_size=4\n")
    with (
        serving(archive, small) as first,
        serving(archive, small) as second,
        nginx(tmp_path, [first, second]) as url,
    ):
        answers = ask_at_once(url, body)
        direct = ask_at_once(first.url, body)
        kill(first)
        kill(second)
        gone = requests.post(f"{url}/predictions/mnist", data=body, timeout=TIMEOUT)
    statuses = Counter(answer.status_code for answer in answers)
    print(f"128 requests to queues of 4 behind nginx: {dict(statuses)}")
    assert set(statuses) == {200, 503}
    for answer in [*answers, gone]:
        expected = None if answer.status_code == 200 else "1"
        assert answer.headers.get("Retry-After") == expected
    assert gone.status_code == 502
    # It is nginx that adds it, to what TorchServe refuses.
    assert {(a.status_code, a.headers.get("Retry-After")) for a in direct} == {
        (200, None),
        (503, None),
    }


def test_more_connections_than_the_servers_hold_are_refused_by_nginx(
    two_servers: list[Server],
    tmp_path: Path,
    mnist_test: tuple[NDArray[np.uint8], NDArray[np.int64]],
) -> None:
    """A thousand are let through; none is closed without an answer."""
    request = request_of(png(mnist_test[0][0]))
    workers = [worker_of(server) for server in two_servers]

    async def ask(port: int) -> list[Answer]:
        """The workers stand still until nginx has heard everybody."""
        for worker in workers:
            worker.suspend()
        try:
            asking = asyncio.create_task(ask_on_connections(port, request, 1500))
            await asyncio.sleep(5)
        finally:
            for worker in workers:
                worker.resume()
        return await asking

    with nginx(tmp_path, two_servers) as url:
        answers = asyncio.run(ask(int(url.rpartition(":")[2])))
    statuses = Counter(answer.status for answer in answers)
    print(f"1500 connections: {dict(statuses)}")
    assert statuses == {200: 1000, 503: 500}
    assert all(b"nginx" in answer.body for answer in answers if answer.status == 503)


def test_worse_service_is_told_from_usual_service() -> None:
    """A hundred answers a second of 10 ms each, for 2 s before and 4 s after."""
    steady = [Seen(at / 100, 0.01) for at in range(601)]
    assert degraded_seconds(steady, killed=2) == 0
    silent = [answer for answer in steady if not 3 < answer.at < 4]
    assert degraded_seconds(silent, killed=2) == pytest.approx(1)
    slow = [Seen(at, 0.03 if 2 <= at < 2.4 else took) for at, took in steady]
    assert degraded_seconds(slow, killed=2) == pytest.approx(0.4)
