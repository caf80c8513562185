"""Our reader and writer of TorchServe's worker protocol against TorchServe's own."""

from __future__ import annotations

import socket
import struct
import threading
from typing import Any

import pytest
from ts.context import Context, RequestProcessor
from ts.protocol import otf_message_handler as own

from handler import wire
from handler.protocols import Answer, Headers, Request
from tests.front_end import END, Written, message

REQUESTS: list[Written] = [
    ("5a0c", {"url_path": "", "explain": "False"}, {"body": ("image/png", b"\x89PNG" * 60)}),
    ("e9d0", {}, {"data": ("", b""), "naïve": ("text/plain", b"\x00\xff")}),
    ("00ff", {"Xx": "Ã¼"}, {}),
    ("bulk", {"a": "b"}, {"body": ("application/octet-stream", bytes(range(256)) * 5000)}),
]


def sent(content: bytes, pieces: int, read: Any) -> Any:
    """What `read` makes of a connection on which `content` arrives in so many pieces."""
    ours, theirs = socket.socketpair()

    def send() -> None:
        size = -(-len(content) // pieces)
        for start in range(0, len(content), size):
            theirs.sendall(content[start : start + size])

    with ours, theirs:
        sender = threading.Thread(target=send)
        sender.start()
        result = read(ours)
        sender.join()
    return result


@pytest.mark.parametrize("pieces", [1, 2, 7, 1000])
def test_reads_what_torchserve_reads(pieces: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TS_DECODE_INPUT_REQUEST", "false")
    batch = sent(message(REQUESTS), pieces, wire.read_batch)
    _, expected = sent(message(REQUESTS), 1, own.retrieve_msg)
    assert len(batch) == len(expected) == len(REQUESTS)
    for (request_id, request), theirs in zip(batch, expected, strict=True):
        assert request_id == theirs["requestId"]
        assert request.fields == {item["name"]: item["value"] for item in theirs["parameters"]}
        headers = {item["name"].decode(): item["value"].decode() for item in theirs["headers"]}
        assert request.headers == headers


def test_writes_what_torchserve_writes() -> None:
    answers = [
        Answer(200, b"7"),
        Answer(422, b"{}", "application/json"),
        Answer(200, b"\x00" * 9, "application/octet-stream", {"Inference-Header": "5"}),
        Answer(500, "ü".encode()),
    ]
    context = Context("mnist", "", {}, 4, None, "0.12.0")
    context.request_processor = [RequestProcessor({}) for _ in answers]
    for index, answer in enumerate(answers):
        context.set_response_content_type(index, answer.content_type)
        context.set_response_status(answer.status, "", index)
        for name, value in answer.headers.items():
            context.set_response_header(index, name, value)
    # The one that came by gRPC is told that nothing follows; an HTTP client must not be.
    context.set_response_header(1, "ts_stream_next", "false")
    ids = {index: request_id for index, (request_id, _, _) in enumerate(REQUESTS)}
    expected = own.create_predict_response(
        [answer.body for answer in answers], ids, "Prediction success", 200, context
    )
    batch = [
        (request_id.encode(), Request({}, Headers(headers))) for request_id, headers, _ in REQUESTS
    ]
    assert struct.unpack_from("!i", expected) == (200,)
    ours = wire.write_answers(batch, answers)
    assert meaning(ours) == meaning(bytes(expected))


def meaning(reply: bytes) -> list[Any]:
    """A reply taken apart as the front end does it; header names regardless of their casing."""
    at = 0

    def integer() -> int:
        nonlocal at
        (value,) = struct.unpack_from("!i", reply, at)
        at += 4
        return int(value)

    def text() -> bytes:
        nonlocal at
        length = integer()
        at += length
        return reply[at - length : at]

    found: list[Any] = [integer(), text()]
    while (length := integer()) >= 0:
        at += length
        answer: list[Any] = [reply[at - length : at], text(), integer(), text()]
        headers = {text().lower(): text() for _ in range(integer())}
        # TorchServe names the content type a second time, among the headers.
        headers.pop(b"content-type", None)
        found.append([*answer, headers, text()])
    assert at == len(reply)
    return found


@pytest.mark.parametrize("length", [0, 1, 100])
def test_notices_that_the_front_end_has_gone(length: int) -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(message(REQUESTS)[:length])
    theirs.close()
    with ours, pytest.raises(EOFError):
        wire.read_batch(ours)


def test_a_value_is_read_once_however_many_pieces_it_comes_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A form of many fields costs as much as its bytes, not the square of that."""
    fields = {str(number): ("", b"7") for number in range(1000)}
    content = message([("id", {"a": "b"}, fields)])
    asked = 0
    receive = wire._receive

    def count(connection: socket.socket, buffer: bytes, missing: int) -> bytes:
        nonlocal asked
        asked += len(buffer)
        return receive(connection, buffer, missing)

    monkeypatch.setattr(wire, "_receive", count)
    monkeypatch.setattr(wire, "_CHUNK", 64)
    ((_, request),) = sent(content, 1, wire.read_batch)
    assert len(request.fields) == 1000
    assert asked < len(content)


def test_reads_values_full_of_what_ends_a_list() -> None:
    """Lengths of 255 and 65,535, and a body of nothing but -1."""
    headers = {"a": "x" * 255, "b" * 255: "", "c": "ÿ" * 32768 + "y"}
    body = END * 3000
    content = message([("id", headers, {"body": ("", body)})])
    ((request_id, request),) = sent(content, 50, wire.read_batch)
    assert (request_id, request.headers, request.fields) == (b"id", headers, {"body": body})
