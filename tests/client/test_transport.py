"""Retries, deadlines, and what each failure is called."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from client import (
    ClientError,
    DigitClient,
    NotOffered,
    Refused,
    ServerFailed,
    ServerUnreachable,
    Unauthorized,
    transport,
)
from tests.client.conftest import Connect
from tests.client.stub import Answer, Asked, Stub, respond

SEVEN = b"digit 7"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("failure", [None, *map(Answer, (429, 500, 502, 503, 504, 507))])
def test_passing_failures_are_asked_again(
    connect: Connect, stub: Stub, failure: Answer | None
) -> None:
    client = connect()
    client.predict(SEVEN)
    stub.fail(5, failure)
    assert client.predict(SEVEN)[0].digit == 7
    assert len(stub.asked) == 7
    assert {asked.body for asked in stub.asked} == {SEVEN}


def test_a_slow_answer_is_asked_for_again(connect: Connect, stub: Stub) -> None:
    release = threading.Event()

    def slow_once(asked: Asked) -> Answer:
        if len(stub.asked) == 1:
            release.wait(10)
        return respond(asked)

    stub.respond = slow_once
    assert connect(timeout=0.1).predict(SEVEN)[0].digit == 7
    assert len(stub.asked) == 2
    release.set()


@pytest.mark.parametrize("failure", [None, Answer(503, {"message": "no worker"})])
def test_the_deadline_ends_it(connect: Connect, stub: Stub, failure: Answer | None) -> None:
    client = connect(deadline=0.1)
    client.predict(SEVEN)
    stub.respond = lambda _: failure
    start = time.monotonic()
    expected = ServerFailed if failure else ServerUnreachable
    with pytest.raises(expected, match="no worker" if failure else "is lost"):
        client.predict(SEVEN)
    assert time.monotonic() - start < 1
    assert len(stub.asked) > 3


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, Unauthorized),
        (403, Unauthorized),
        (404, NotOffered),
        (405, NotOffered),
        (501, NotOffered),
        (302, ServerFailed),
        (418, ServerFailed),
    ],
)
def test_what_will_not_pass_is_raised_at_once(
    connect: Connect, stub: Stub, status: int, error: type[ClientError]
) -> None:
    stub.respond = lambda _: Answer(status, {"message": "because"}, {"Location": "/elsewhere"})
    with pytest.raises(error):
        connect().predict(SEVEN)
    assert len(stub.asked) == 1


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({"error": {"code": "too_large", "message": "less"}}, "too_large", "less"),
        ({"error": "too_large: less"}, "too_large", "less"),
        ({"code": 413, "type": "SomeException", "message": "less"}, "SomeException", "less"),
        (b"plain words", "refused", "plain words"),
        ({"error": {}}, "refused", "no reason given"),
    ],
)
def test_a_refusal_is_read_in_every_form(  # noqa: PLR0917
    connect: Connect, stub: Stub, status: int, body: object, code: str, message: str
) -> None:
    stub.respond = lambda _: Answer(status, body)
    (prediction,) = connect().predict(SEVEN)
    assert isinstance(prediction.error, Refused)
    assert prediction.error.status == status
    assert (prediction.error.code, str(prediction.error)) == (code, message)
    assert len(stub.asked) == 1


def test_a_refusal_without_a_body_tells_its_status(connect: Connect, stub: Stub) -> None:
    stub.respond = lambda _: Answer(413)
    (prediction,) = connect().predict(SEVEN)
    assert str(prediction.error).startswith("413 ")  # and the phrase, which Python renamed


def test_retry_after_is_honoured_within_reason(
    connect: Connect, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "LONGEST_PAUSE", 0.1)
    stub.fail(1, Answer(503, b"", {"Retry-After": "3600"}))
    start = time.monotonic()
    assert connect().predict(SEVEN)[0].digit == 7
    assert 0.05 <= time.monotonic() - start < 1


def test_where_nobody_ever_answered_it_gives_up_soon() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    start = time.monotonic()
    with DigitClient(url) as client, pytest.raises(ServerUnreachable) as raised:
        client.predict(SEVEN)
    assert time.monotonic() - start < 2
    for hint in (url, "Connection refused", "make start", "MNIST_URL"):
        assert hint in str(raised.value)
    assert raised.value.__cause__ is raised.value.__context__ is None  # no pages of urllib3


def test_loopback_does_without_proxies(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    assert connect().predict(SEVEN)[0].digit == 7


def test_an_idle_connection_that_the_server_closed_is_opened_again(
    connect: Connect, stub: Stub
) -> None:
    stub.respond = lambda _: Answer(200, 7, {"Connection": "close"})
    client = connect(connections=1)
    assert [client.predict(SEVEN)[0].digit for _ in range(3)] == [7, 7, 7]
