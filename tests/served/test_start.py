"""A server that cannot serve says why in one line, and leaves nothing running."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from client.server import Server, ServerError
from handler.archive import build
from tests.conftest import free_ports, make_home


@pytest.fixture
def home(archive: Path) -> Iterator[Path]:
    made = make_home(archive)
    yield made
    Server(made).stop()
    shutil.rmtree(made)


def running_in(home: Path) -> list[int]:
    return [
        process.pid
        for process in psutil.process_iter(["cmdline", "environ"])
        if str(home) in str(process.info["environ"])
    ]


def test_a_wrong_archive_is_named(home: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pt"
    wrong.write_bytes(b"no TorchScript")
    build(wrong, home / "model_store")
    with pytest.raises(ServerError, match="the model cannot be loaded") as caught:
        Server(home, free_ports()).start()
    assert "mnist.pt is not a TorchScript file" in str(caught.value)
    assert running_in(home) == []


def test_a_missing_archive_is_named(home: Path) -> None:
    (home / "model_store" / "mnist.mar").unlink()
    with pytest.raises(ServerError, match=r"no archive at .*`make archive` builds it"):
        Server(home, free_ports()).start()


def test_a_port_in_use_is_named(home: Path) -> None:
    port = free_ports()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(ServerError, match=rf"port {port} is in use"):
            Server(home, port).start()
    assert running_in(home) == []


def test_a_second_start_is_refused_and_the_first_goes_on(server: Server) -> None:
    pid = server.pid
    with pytest.raises(ServerError, match=f"already running as process {pid}"):
        server.start()
    assert server.pid == pid


def test_a_killed_server_leaves_nothing_that_stops_the_next(home: Path) -> None:
    server = Server(home, free_ports())
    server.start()
    assert server.pid
    killed = psutil.Process(server.pid)
    workers = killed.children(recursive=True)
    killed.kill()
    psutil.wait_procs([killed, *workers], timeout=30)
    with server.running():
        assert server.pid
    assert running_in(home) == []
