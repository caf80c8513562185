"""Two workers meet, and one of them answers for both."""

from __future__ import annotations

import fcntl
import gc
import os
import platform
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from ts.protocol.otf_message_handler import create_load_model_response
from ts.service import Service

from handler import pairing, worker
from handler.protocols import Answer, Request
from tests.front_end import END, message, packed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers pair up on Linux alone")
PATIENCE = 20.0  # seconds

# What a second worker does, in a process of its own.
PARTNER = """
import sys
from pathlib import Path
from handler import pairing
pairing.pair(Path(sys.argv.pop(1)))
"""
ARGUMENTS = ("--sock-type", "unix", "--metrics-config", "metrics.yaml", "--sock-name")
LOAD = b"L" + packed(b"mnist") + packed(b"/models") + b"\0\0\0\x30" + packed(b"mnist_handler.py")
LOAD += END + packed(b"") + b"\1"  # no GPU, no envelope, a limit to pixels
LOADED = bytes(create_load_model_response(200, "loaded by its partner"))


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


@pytest.fixture
def serving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[socket.socket, threading.Thread]]:
    """The first worker of a pair, in a thread, and the front end's side of its connection."""
    monkeypatch.setattr(os, "getppid", os.getpid)  # the partner is a child of this process
    partner, meeting = pairing.meet(tmp_path, 9000)
    assert partner is None
    assert meeting is not None
    front_end, ours = socket.socketpair()
    front_end.settimeout(PATIENCE)

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


class Partner:
    """A second worker's process, as the front end starts it."""

    def __init__(self, folder: Path) -> None:
        self.name = str(folder / ".ts.sock.9001")
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARTNER, str(folder), *ARGUMENTS, self.name],
            stdout=subprocess.PIPE,
        )

    def connect(self) -> socket.socket:
        """The front end's side of its connection, once the worker has said that it may come."""
        assert self.process.stdout is not None
        said = [self.process.stdout.readline().decode().strip() for _ in range(3)]
        runtime = f"Python runtime: {platform.python_version()}"
        assert said == [f"[PID]{self.process.pid}", "Torch worker started.", runtime]
        front_end = socket.socket(socket.AF_UNIX)
        front_end.settimeout(PATIENCE)
        front_end.connect(self.name)
        return front_end

    def load(self) -> socket.socket:
        """The same, after the front end has asked it to load the model."""
        front_end = self.connect()
        front_end.sendall(LOAD)
        assert front_end.recv(len(LOADED), socket.MSG_WAITALL) == LOADED
        return front_end

    def end(self) -> int:
        """How it ended, as it has to by now."""
        return self.process.wait(PATIENCE)


@pytest.fixture
def start() -> Iterator[Callable[[Path], Partner]]:
    """Starts partners in a folder; none outlives the test."""
    with ExitStack() as started:

        def partner(folder: Path) -> Partner:
            begun = Partner(folder)
            started.enter_context(begun.process)
            started.callback(begun.process.kill)
            return begun

        yield partner


def becomes_cat(pid: int) -> bool:
    """Whether it is soon: the connection is answered from when it is handed over."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if Path(f"/proc/{pid}/comm").read_text() == "cat\n":
            return True
        time.sleep(0.01)
    return False


def until_read(end: socket.socket) -> None:
    """Wait until the other end has taken all that was sent."""
    deadline = time.monotonic() + PATIENCE
    while struct.unpack("i", fcntl.ioctl(end, termios.TIOCOUTQ, b"\0" * 4)) != (0,):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def open_sockets() -> int:
    return sum(link.is_socket() for link in Path("/proc/self/fd").iterdir())


def test_one_process_answers_for_both(
    serving: tuple[socket.socket, threading.Thread],
    start: Callable[[Path], Partner],
    tmp_path: Path,
) -> None:
    first, _ = serving
    ask(first, b"a", b"b")
    partner = start(tmp_path)
    with partner.load() as second:
        ask(second, b"c", b"d", b"e")
        # Two batches at once, one of them slow to arrive.
        whole = batch(b"slow")
        second.sendall(whole[:9])
        second.sendall(whole[9:])
        ask(first, b"f")
        assert second.recv(1 << 16).endswith(packed(b"SLOW") + END)
        assert becomes_cat(partner.process.pid)
    assert partner.end() == 0  # with its connection
    ask(first, b"g")
    # One that comes in its place is served, too, and finds the socket's name free.
    partner = start(tmp_path)
    with partner.load() as second:
        ask(second, b"h")
        ask(first, b"i")
    assert partner.end() == 0


def test_the_process_ends_with_its_own_connection(
    serving: tuple[socket.socket, threading.Thread],
) -> None:
    first, thread = serving
    ask(first, b"a")
    first.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_front_end_that_gives_up_a_partner_disturbs_nobody(
    serving: tuple[socket.socket, threading.Thread],
    start: Callable[[Path], Partner],
    tmp_path: Path,
) -> None:
    """As where the answer took longer than `responseTimeout`: nobody reads it."""
    first, _ = serving
    for asked in (b"", LOAD[:9], LOAD):  # before it is loaded, too
        partner = start(tmp_path)
        with partner.connect() as second:
            second.sendall(asked)
        assert partner.end() == 0
        ask(first, b"a")
    partner = start(tmp_path)
    with partner.load() as second:
        second.sendall(batch(b"a", b"b"))
    assert partner.end() == 0
    ask(first, b"c")


def test_a_partner_that_is_killed_leaves_nothing_behind(
    serving: tuple[socket.socket, threading.Thread],
    start: Callable[[Path], Partner],
    tmp_path: Path,
) -> None:
    first, _ = serving
    ask(first, b"a")
    before = open_sockets()
    partner = start(tmp_path)
    assert becomes_cat(partner.process.pid)
    partner.process.kill()
    assert partner.end() < 0
    partner = start(tmp_path)
    with partner.load() as second:
        partner.process.kill()
        assert partner.end() < 0
        assert second.recv(1) == b""
    ask(first, b"a")
    assert open_sockets() == before


def test_a_partner_ends_with_the_first_before_it_serves(
    start: Callable[[Path], Partner], tmp_path: Path
) -> None:
    """As where the model cannot be loaded: TorchServe starts both again."""
    program = PARTNER + "print('first', flush=True)\nsys.stdin.read()"
    command = [sys.executable, "-c", program, str(tmp_path), *ARGUMENTS, "a.sock.9000"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as first:
        assert first.stdin is not None
        assert first.stdout is not None
        assert first.stdout.readline() == b"first\n"
        partner = start(tmp_path)
        with partner.connect():
            assert becomes_cat(partner.process.pid)
            first.stdin.close()
            assert first.wait(PATIENCE) == 0
            partner.end()


def test_a_partner_waits_for_one_that_does_not_listen_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listen = socket.socket.listen
    monkeypatch.setattr(socket.socket, "listen", lambda _: None)
    _, meeting = pairing.meet(tmp_path, 9000)
    assert meeting is not None
    later = threading.Timer(0.1, listen, [meeting])
    later.start()
    partner, other = pairing.meet(tmp_path, 9001)
    later.join()
    assert other is None
    assert partner is not None
    partner.close()
    meeting.close()


def test_a_partner_that_ends_early_holds_nobody(
    serving: tuple[socket.socket, threading.Thread],
    start: Callable[[Path], Partner],
    tmp_path: Path,
) -> None:
    first, _ = serving
    silent, _ = pairing.meet(tmp_path, 9001)
    assert silent is not None
    ask(first, b"a")  # while the partner has not handed its socket over
    silent.close()
    ask(first, b"b")
    partner = start(tmp_path)
    with partner.load() as second:
        ask(second, b"c")
    assert partner.end() == 0


def test_a_partner_that_never_listens_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any user of the machine can bind the name between two workers' lives."""
    monkeypatch.setattr(socket.socket, "listen", lambda _: None)
    monkeypatch.setattr(pairing, "PATIENCE", 0.05)
    _, held = pairing.meet(tmp_path, 9000)
    assert held is not None
    with held, pytest.raises(TimeoutError, match="does not listen"):
        pairing.meet(tmp_path, 9001)


def test_a_partner_that_is_lost_as_the_front_end_comes_ends_alone(
    serving: tuple[socket.socket, threading.Thread], tmp_path: Path
) -> None:
    """Both are noticed at once, after the batch that was under way."""
    first, _ = serving
    partner, _ = pairing.meet(tmp_path, 9001)
    assert partner is not None
    name = str(tmp_path / "9001")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(name)
        listening.listen(1)
        socket.send_fds(partner, [b"\0"], [listening.fileno()])
    until_read(partner)
    whole = batch(b"slow")
    first.sendall(whole[:9])
    until_read(first)
    with socket.socket(socket.AF_UNIX) as second:
        second.connect(name)
        partner.close()
        first.sendall(whole[9:])
        assert first.recv(1 << 16).endswith(packed(b"SLOW") + END)
        ask(first, b"a")


def test_only_the_two_of_a_pair_meet(tmp_path: Path) -> None:
    _, meeting = pairing.meet(tmp_path, 9002)
    assert meeting is not None
    with meeting:
        for model_dir, number in ((tmp_path, 9001), (tmp_path, 9004), (tmp_path / "b", 9003)):
            partner, other = pairing.meet(model_dir, number)
            assert partner is None
            assert other is not None
            other.close()
        partner, other = pairing.meet(tmp_path, 9003)
        assert other is None
        assert partner is not None
        partner.close()
    # The name is free again with the one that held it.
    partner, other = pairing.meet(tmp_path, 9003)
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
        pairing.meet(tmp_path, 9001)
    ask(first, b"a")


@pytest.mark.parametrize(
    ("name", "value", "arguments"),
    [
        ("sys.platform", "darwin", (*ARGUMENTS, "a.sock.9000")),
        ("ts.__version__", "0.13.0", (*ARGUMENTS, "a.sock.9000")),
        ("sys.platform", "linux", ("--sock-type", "tcp", "--port", "9000", *ARGUMENTS[2:4])),
        ("handler.pairing.GPUS", Path("/"), (*ARGUMENTS, "a.sock.9000")),
    ],
    ids=["another system", "another version", "a port", "several GPUs"],
)
def test_elsewhere_each_serves_alone(
    name: str,
    value: object,
    arguments: Sequence[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(name, value)
    monkeypatch.setattr(sys, "argv", ["worker", *arguments])
    pairing.pair(tmp_path)
    assert pairing.meeting is None


def test_the_first_of_a_pair_starts_as_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairing, "meeting", None)
    monkeypatch.setattr(gc, "disable", lambda: None)
    monkeypatch.setattr(sys, "argv", ["worker", *ARGUMENTS, "a.sock.9000"])
    pairing.pair(tmp_path)
    assert pairing.meeting is not None
    pairing.meeting.close()


def test_what_is_no_batch_ends_the_worker() -> None:
    front_end, ours = socket.socketpair()
    with front_end, ours:
        front_end.sendall(LOAD)
        with pytest.raises(ValueError, match="expected the command b'I'"):
            worker.Worker(None, echo).serve(ours)


def test_it_takes_over_once_the_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Service, "set_cl_socket", Service.set_cl_socket)
    taken: list[object] = []
    worker.when_loaded(taken.append)  # type: ignore[arg-type]
    Service.set_cl_socket(None, "connection")
    assert taken == ["connection"]
