"""Small requests that unfold to much work, and slow ones that never end."""

from __future__ import annotations

import io
import json
import socket
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest
import requests
from numpy.typing import NDArray
from PIL import Image

from client.server import Server
from tests.conftest import TIMEOUT
from tests.faults.conftest import Report, worker_of
from tests.images import b64, npy, png

Mnist = tuple[NDArray[np.uint8], NDArray[np.int64]]


def pages(digit: NDArray[np.uint8], form: str, count: int) -> bytes:
    """A TIFF or GIF of `count` pages."""
    file = io.BytesIO()
    large = np.kron(digit, np.ones((4, 4), np.uint8))
    first, *others = [Image.fromarray(np.roll(large, i, 1)) for i in range(count)]
    first.save(file, form, save_all=True, append_images=others)
    return file.getvalue()


def webp(side: int) -> bytes:
    """A blank WebP of side × side pixels in two kilobytes."""
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, "WEBP", lossless=True)
    return file.getvalue()


def fields(count: int) -> bytes:
    """A form of `count` fields."""
    part = '--x\r\nContent-Disposition: form-data; name="{}"\r\n\r\n7\r\n'
    return "".join([*(part.format(i) for i in range(count)), "--x--\r\n"]).encode()


PACKED = {"Content-Encoding": "deflate"}
FORM = {"Content-Type": "multipart/form-data; boundary=x"}


def hundred_webps() -> bytes:
    """Instances of 6,400 megapixels in a third of a megabyte."""
    return json.dumps({"instances": [{"b64": b64(webp(7990))}] * 100}).encode()


def palette(side: int) -> bytes:
    """A PNG of side × side pixels of a transparent colour."""
    file = io.BytesIO()
    Image.new("P", (side, side)).save(file, "PNG", transparency=0)
    return file.getvalue()


def texts() -> bytes:
    """An array of which NumPy alone would make four gigabytes."""
    return json.dumps({"instances": [["A" * 10_000, *[""] * 100_000]]}).encode()


def grey(digit: NDArray[np.uint8]) -> bytes:
    """54 kilobytes of 10,000 images that must be brought into MNIST's form, one by one."""
    return zlib.compress(npy(np.repeat(np.maximum(digit, 20)[None], 10_000, axis=0)))


# By name: the status that is right, the body made of a digit, and its headers.
BOMBS: dict[str, tuple[int, Callable[[NDArray[np.uint8]], bytes], dict[str, str]]] = {
    "100-megapixel PNG": (413, lambda _: png(np.zeros((10_000, 10_000), np.uint8)), {}),
    "63-megapixel PNG, blank": (422, lambda _: png(np.zeros((7990, 7990), np.uint8)), {}),
    "63-megapixel PNG, a palette": (422, lambda _: palette(7990), {}),
    "100 63-megapixel WebPs in one request": (422, lambda _: hundred_webps(), {}),
    "deflate to 1 GB": (413, lambda _: zlib.compress(bytes(1_000_000_000)), PACKED),
    "texts among numbers": (400, lambda _: texts(), {}),
    "JSON 100,000 deep": (400, lambda _: b"[" * 100_000, {}),
    "instances 30,000 deep": (400, lambda _: b'{"instances":' + b"[" * 30_000, {}),
    "10,000 blank images": (422, lambda _: npy(np.zeros((10_000, 28, 28), np.uint8)), {}),
    "10,000 grey images": (200, grey, PACKED),
    "form of 100,000 fields": (413, lambda _: fields(100_000), FORM),
    "TIFF of 1,000 pages": (200, lambda digit: pages(digit, "TIFF", 1000), {}),
    "GIF of 1,000 frames": (200, lambda digit: pages(digit, "GIF", 1000), {}),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_costs_little_and_harms_nobody(
    server: Server, session: requests.Session, mnist_test: Mnist, name: str, report: Report
) -> None:
    digit = mnist_test[0][0]
    right, make, headers = BOMBS[name]
    body = make(digit)
    worker = worker_of(server)
    before = worker.memory_info().rss
    url = f"{server.url}/predictions/mnist"

    def good(_: int) -> tuple[int, str]:
        answer = session.post(url, data=png(digit), timeout=TIMEOUT)
        return answer.status_code, answer.text

    with ThreadPoolExecutor(8) as pool:
        start = time.monotonic()
        bomb = pool.submit(session.post, url, data=body, headers=headers, timeout=TIMEOUT)
        answers = list(pool.map(good, range(100)))
        status = bomb.result().status_code
        took = time.monotonic() - start
    grown = worker.memory_info().rss - before
    report(f"{name}: {len(body):,} bytes, {status} in {took:.2f} s, worker {grown / 1e6:+.0f} MB")
    assert status == right
    assert set(answers) == {(200, "7")}
    assert grown < 100_000_000  # of up to a gigabyte that it took
    assert worker_of(server).pid == worker.pid


def connect(server: Server, body_bytes: int) -> socket.socket:
    """A connection that has promised a body of so many bytes."""
    opened = socket.create_connection(("127.0.0.1", server.port or 0), timeout=TIMEOUT)
    opened.sendall(
        f"POST /predictions/mnist HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.key}\r\n"
        f"Content-Length: {body_bytes}\r\n\r\n".encode()
    )
    return opened


def test_slow_senders_hold_nobody_up(
    server: Server, session: requests.Session, mnist_test: Mnist, report: Report
) -> None:
    """Five hundred connections that send a byte now and then, and then break off half-way."""
    body = png(mnist_test[0][0])
    worker = worker_of(server)
    with ExitStack() as stack:
        slow = [stack.enter_context(connect(server, len(body))) for _ in range(500)]
        took = []
        for index in range(50):
            for sender in slow:
                sender.sendall(body[index : index + 1])
            start = time.monotonic()
            answer = session.post(f"{server.url}/predictions/mnist", data=body, timeout=TIMEOUT)
            took.append(time.monotonic() - start)
            assert (answer.status_code, answer.text) == (200, "7")
    report(f"500 slow senders: a good request took {np.median(took) * 1000:.1f} ms (median)")
    for _ in range(20):
        answer = session.post(f"{server.url}/predictions/mnist", data=body, timeout=TIMEOUT)
        assert (answer.status_code, answer.text) == (200, "7")
    assert worker_of(server).pid == worker.pid


def test_a_slow_sender_that_goes_on_is_answered(server: Server, mnist_test: Mnist) -> None:
    body = png(mnist_test[0][0])
    with connect(server, len(body)) as sender:
        for byte in body:
            sender.sendall(bytes([byte]))
        assert sender.recv(1000).startswith(b"HTTP/1.1 200")
