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
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests
from numpy.typing import NDArray

from client.server import REPOSITORY, Server
from handler.model import DigitModel
from tests.conftest import TIMEOUT, free_ports, serving
from tests.faults.conftest import configured, worker_of
from tests.faults.test_overload import Answer, request_of
from tests.faults.test_overload import ask_at_once as ask_on_connections
from tests.images import npy, png

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin")
CLIENTS = 8

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


def ask_while_one_dies(
    url: str, victim: Server, images: NDArray[np.uint8], expected: list[int]
) -> tuple[int, list[str]]:
    """Eight clients ask without pause, before, while and after a server is killed.

    Returns how many requests were sent, and what became of those without the right answer.
    """
    bodies = [png(image) for image in images]
    stop = threading.Event()
    sent = [0] * CLIENTS
    lost: list[str] = []

    def ask(client: int) -> None:
        with requests.Session() as session:
            while not stop.is_set():
                index = (client + sent[client] * CLIENTS) % len(bodies)
                sent[client] += 1
                try:
                    answer = session.post(
                        f"{url}/predictions/mnist", data=bodies[index], timeout=TIMEOUT
                    )
                    if answer.text != str(expected[index]):
                        lost.append(f"{answer.status_code} {answer.text[:80]}")
                except requests.RequestException as error:
                    lost.append(repr(error))

    threads = [threading.Thread(target=ask, args=(client,)) for client in range(CLIENTS)]
    for thread in threads:
        thread.start()

    def wait_for_more(count: int) -> None:
        target, deadline = sum(sent) + count, time.monotonic() + TIMEOUT
        while sum(sent) < target and time.monotonic() < deadline:
            time.sleep(0.01)

    try:
        wait_for_more(500)
        kill(victim)
        wait_for_more(1500)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return sum(sent), lost


def test_a_server_killed_under_load_costs_no_client_an_answer(
    two_servers: list[Server],
    tmp_path: Path,
    model: DigitModel,
    mnist_test: tuple[NDArray[np.uint8], NDArray[np.int64]],
) -> None:
    images = mnist_test[0][:200]
    expected = model.predict(images)[0].tolist()
    with nginx(tmp_path, two_servers) as url:
        sent, lost = ask_while_one_dies(url, two_servers[0], images, expected)
    print(f"sent {sent}, answered {sent - len(lost)}, lost {len(lost)}")
    assert sent >= 2000
    assert lost == []


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
        _, lost = ask_while_one_dies(url, two_servers[1], images, expected)
    assert lost


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
        configured(archive, *small) as first,
        configured(archive, *small) as second,
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
