"""Faults are made for real: file systems, processes and sockets of the tests' own."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from client.server import REPOSITORY, Server
from tests.conftest import workers_of

Report = Callable[[str], None]
RESULTS = REPOSITORY / "reports" / "faults.txt"
MEASURED = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--soak` is known where this folder is named: `pytest tests/faults --soak`."""
    parser.addoption("--soak", action="store_true", help="the long form, as make soak runs it")


@pytest.fixture(scope="session")
def soak(pytestconfig: pytest.Config) -> bool:
    """Whether the long form was asked for."""
    return bool(pytestconfig.getoption("soak", default=False))


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Iterator[Report]:
    """Notes what was measured: kept in `reports/faults.txt`, and printed by `--soak` at the end."""
    lines: list[str] = []
    yield lines.append
    lines = [f"{request.node.name}: {line}" for line in lines]
    request.config.stash.setdefault(MEASURED, []).extend(lines)
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """The figures that docs/faults.md quotes."""
    if config.getoption("soak", default=False):
        terminalreporter.section("measured")
        for line in config.stash.get(MEASURED, []):
            terminalreporter.write_line(line)


def request_of(body: bytes, key: str = "", header: bytes = b"") -> bytes:
    """A whole request, as it goes over the connection, with one more header as it is."""
    head = (
        f"POST /predictions/mnist HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Length: {len(body)}\r\n"
    )
    return head.encode() + (header + b"\r\n" if header else b"") + b"\r\n" + body


def worker_of(server: Server) -> psutil.Process:
    """The one process that serves for all workers of a server, once they have met.

    Raises:
        ValueError: there is none, or there stays more than one.
    """
    deadline = time.monotonic() + 30
    while len(workers_of(server)) != 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    (worker,) = workers_of(server)
    return worker


@pytest.fixture(scope="session")
def mounting() -> None:
    """Skip where this user may not mount a file system in a namespace of its own."""
    command = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("no file system can be mounted here")
