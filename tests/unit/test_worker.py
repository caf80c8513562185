"""Two workers meet, and one of them answers for both."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import ts
from ts.service import Service

from handler import worker
from handler.protocols import Answer, Request
from tests.front_end import END, message, packed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers pair up on Linux alone")
PATIENCE = 20.0  # seconds

# What a second worker does, in a process of its own, with the connection that it was given.
PARTNER = """
import socket, sys
from handler import worker
partner, meeting = worker.meet(sys.argv[1], 9001)
assert partner is not None and meeting is None
worker.hand_over(partner, socket.socket(fileno=int(sys.argv[2])))
"""


def batch(*bodies: bytes) -> bytes:
    """Requests as the front end sends them, each with its body as its id."""
    return message([(body.decode(), {}, {"body": ("", body)}) for body in bodies])


def echo(requests: Sequence[Request]) -> list[Answer]:
    return [Answer(200, bytes(request.fields["body"]).upper()) for request in requests]


def ask(front_end: socket.socket, *bodies: bytes) -> None:
    """Send a batch, and see that it is answered whole, and in its order."""
    front_end.sendall(batch(*bodies))
    reply = b""
    while not reply.endswith(packed(bodies[-1].upper()) + END):
        part = front_end.recv(1 << 16)
        assert part, "the worker has closed the connection"
        reply += part
    places = [reply.index(packed(body.upper())) for body in bodies]
    assert places == sorted(places)


def connection() -> tuple[socket.socket, socket.socket]:
    """The front end's side and the worker's."""
    front_end, ours = socket.socketpair()
    front_end.settimeout(PATIENCE)
    return front_end, ours


@pytest.fixture
def serving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[socket.socket, threading.Thread]]:
    """The first worker of a pair, in a thread, and the front end's side of its connection."""
    monkeypatch.setattr(os, "getppid", os.getpid)  # the partner is a child of this process
    partner, meeting = worker.meet(str(tmp_path), 9000)
    assert partner is None
    assert meeting is not None
    front_end, ours = connection()

    def serve() -> None:
        with pytest.raises(SystemExit):
            worker.Worker(meeting, echo).serve(ours)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with front_end, ours, meeting:
        yield front_end, thread
        front_end.close()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def start_partner(model_dir: Path) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """A second worker's process, and the front end's side of its connection."""
    front_end, ours = connection()
    descriptor = ours.fileno()
    process = subprocess.Popen(
        [sys.executable, "-c", PARTNER, str(model_dir), str(descriptor)], pass_fds=[descriptor]
    )
    ours.close()
    return front_end, process


def becomes_cat(pid: int) -> bool:
    """Whether it is soon: the connection is answered from when it is handed over."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if Path(f"/proc/{pid}/comm").read_text() == "cat\n":
            return True
        time.sleep(0.01)
    return False


def test_one_process_answers_for_both(
    serving: tuple[socket.socket, threading.Thread], tmp_path: Path
) -> None:
    first, _ = serving
    ask(first, b"a", b"b")
    second, process = start_partner(tmp_path)
    with second:
        ask(second, b"c", b"d", b"e")
        # Two batches at once, one of them slow to arrive.
        whole = batch(b"slow")
        second.sendall(whole[:9])
        second.sendall(whole[9:])
        ask(first, b"f")
        assert second.recv(1 << 16).endswith(packed(b"SLOW") + END)
        assert becomes_cat(process.pid)
    assert process.wait(PATIENCE) == 0  # with its connection
    ask(first, b"g")
    # One that comes in its place is served, too.
    second, process = start_partner(tmp_path)
    with second:
        ask(second, b"h")
        ask(first, b"i")
    assert process.wait(PATIENCE) == 0


def test_the_process_ends_with_its_own_connection(
    serving: tuple[socket.socket, threading.Thread],
) -> None:
    first, thread = serving
    ask(first, b"a")
    first.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_front_end_that_gives_up_a_partner_disturbs_nobody(
    serving: tuple[socket.socket, threading.Thread], tmp_path: Path
) -> None:
    """As where the answer took longer than `responseTimeout`: nobody reads it."""
    first, _ = serving
    second, process = start_partner(tmp_path)
    with second:
        second.sendall(batch(b"a", b"b"))
    assert process.wait(PATIENCE) == 0
    ask(first, b"c")


def test_a_partner_waits_for_one_that_does_not_listen_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listen = socket.socket.listen
    monkeypatch.setattr(socket.socket, "listen", lambda _: None)
    _, meeting = worker.meet(str(tmp_path), 9000)
    assert meeting is not None
    later = threading.Timer(0.1, listen, [meeting])
    later.start()
    partner, other = worker.meet(str(tmp_path), 9001)
    later.join()
    assert other is None
    assert partner is not None
    partner.close()
    meeting.close()


def test_a_partner_that_ends_early_holds_nobody(
    serving: tuple[socket.socket, threading.Thread], tmp_path: Path
) -> None:
    first, _ = serving
    silent, _ = worker.meet(str(tmp_path), 9001)
    assert silent is not None
    ask(first, b"a")  # while the partner has not handed its connection over
    silent.close()
    ask(first, b"b")
    second, process = start_partner(tmp_path)
    with second:
        ask(second, b"c")
    assert process.wait(PATIENCE) == 0


def test_only_the_two_of_a_pair_meet(tmp_path: Path) -> None:
    _, meeting = worker.meet(str(tmp_path), 9002)
    assert meeting is not None
    with meeting:
        for model_dir, number in ((tmp_path, 9001), (tmp_path, 9004), (tmp_path / "b", 9003)):
            partner, other = worker.meet(str(model_dir), number)
            assert partner is None
            assert other is not None
            other.close()
        partner, other = worker.meet(str(tmp_path), 9003)
        assert other is None
        assert partner is not None
        partner.close()
    # The name is free again with the one that held it.
    partner, other = worker.meet(str(tmp_path), 9003)
    assert partner is None
    assert other is not None
    other.close()


def test_another_users_process_is_no_partner(
    serving: tuple[socket.socket, threading.Thread],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, _ = serving
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    with pytest.raises(PermissionError, match="another user"):
        worker.meet(str(tmp_path), 9001)
    ask(first, b"a")


def test_where_there_is_no_linux_each_serves_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert worker.meet(str(tmp_path), 9000) == worker.meet(str(tmp_path), 9001) == (None, None)


def test_what_is_no_batch_ends_the_worker() -> None:
    front_end, ours = connection()
    with front_end, ours:
        front_end.sendall(b"L" + END)
        with pytest.raises(ValueError, match="expected the command b'I'"):
            worker.Worker(None, echo).serve(ours)


def test_the_number_is_that_of_the_workers_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["worker", "--sock-type", "unix", "--sock-name", "a.b/.ts.sock.9003"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--metrics-config", "metrics.yaml"])
    assert worker.number() == 9003
    monkeypatch.setattr(sys, "argv", ["worker", "--sock-type", "tcp", "--port", "9001"])
    assert worker.number() == 9001


def test_an_unknown_version_keeps_its_own_loop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert worker.knows_torchserve()
    assert not caplog.text
    monkeypatch.setattr(ts, "__version__", "0.13.0")
    assert not worker.knows_torchserve()
    assert "0.13.0" in caplog.text


def test_it_takes_over_once_the_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Service, "set_cl_socket", Service.set_cl_socket)
    taken: list[object] = []
    worker.when_loaded(taken.append)  # type: ignore[arg-type]
    Service.set_cl_socket(None, "connection")
    assert taken == ["connection"]
