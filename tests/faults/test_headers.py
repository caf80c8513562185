"""Hostile headers in the same batches as good requests: a digit or a refusal, and no harm done."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from client.server import Server
from tests.faults.conftest import Report, request_of, worker_of
from tests.images import png

Mnist = tuple[NDArray[np.uint8], NDArray[np.int64]]

HOSTILE = [
    # What TorchServe and the handler put among the headers themselves, in any casing.
    b"describe: True",
    b"DESCRIBE: true",
    b"explain: True",
    b"EXPLAIN: True",
    b"eXpLaIn: TRUE\r\nexplain: True",
    b"url_path: ../../x",
    b"URL_PATH: x\r\nurl_path:",
    b"ts_stream_next: true",
    b"ts_request_sequence_id: 1\r\nts_request_sequence_start: true",
    b"x-request-id: 1",
    b"body: {}",
    b"data: x\r\nbody: y",
    b"Inference-Header-Content-Length: 99999999999999999999",
    b"Inference-Header-Content-Length: -1",
    # Names and values that are long, many, empty or hold what none may.
    b"x" * 4000 + b": 1",
    b"x: " + b"y" * 7000,
    b"x" * 70_000 + b": 1",
    b"x: " + b"y" * 70_000,
    b"\r\n".join(b"x%d: y" % number for number in range(600)),
    b": 1",
    b"x : 1",
    b"x",
    b"x: " + b"\xff\xfe\xc3",
    b"\xc3\xbc: 1",
    b"x: \xed\xa0\x80",
    b"x\0y: 1",
    b"x: a\0b",
    b"x: a\r\n b",
    b"x: a\rb",
    b"x: a\nSet-Cookie: b",
    b"x: a\r\nSet-Cookie: b",
    # What says how the body is to be read.
    b"Content-Type: multipart/form-data",
    b"Content-Type: multipart/form-data; boundary=" + b"x" * 5000,
    b"Content-Type: " + b"\xff" * 100,
    b"Content-Encoding: gzip",
    b"Content-Encoding: br, deflate",
    b"Expect: nonsense",
    b"Expect: 100-continue",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: nonsense",
    b"Content-Length: 1",
    b"Connection: Upgrade\r\nUpgrade: h2c",
]


def send(server: Server, header: bytes, body: bytes) -> bytes:
    """The beginning of the answer to a request with one more header, as it is; empty: none."""
    with socket.create_connection(("127.0.0.1", server.port or 0), timeout=3) as opened:
        try:
            opened.sendall(request_of(body, server.key, header))
            return opened.recv(100_000)
        except (TimeoutError, ConnectionResetError, BrokenPipeError):
            return b""  # TorchServe waits for the body that was announced, or hangs up


@pytest.mark.parametrize("header", HOSTILE, ids=lambda header: repr(header[:40])[2:-1])
def test_they_disturb_nobody(
    server: Server, mnist_test: Mnist, header: bytes, report: Report
) -> None:
    """A digit or a refusal, never a fault; and 32 good requests beside four such are answered."""
    body = png(mnist_test[0][0])
    worker = worker_of(server)
    with ThreadPoolExecutor(36) as pool:
        hostile = [pool.submit(send, server, header, body) for _ in range(4)]
        good = list(pool.map(lambda _: send(server, b"x: y", body), range(32)))
        answers = {answer.result() for answer in hostile}
    told = sorted({answer[9:12].decode() or "none" for answer in answers})
    report(f"{header[:40]!r} ({len(header)} bytes): {', '.join(told)}")
    assert {(answer[:12], answer[-1:]) for answer in good} == {(b"HTTP/1.1 200", b"7")}
    assert not any(answer.startswith(b"HTTP/1.1 5") for answer in answers)
    assert not any(b"Set-Cookie" in answer for answer in answers)
    assert all(answer.endswith(b"7") for answer in answers if answer[9:12] == b"200")
    assert worker_of(server).pid == worker.pid
