"""A server as running processes: waited for, asked, and ended.

One runs at a time, in a folder of its own that is gone afterwards, so that none costs another
anything and each start is a cold one.
"""

from __future__ import annotations

import http.client
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

START_SECONDS = 120.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.01
Settings = Mapping[str, str]


class BenchmarkError(RuntimeError):
    """A server does not start, or answers wrongly; the message says which and how."""


@dataclass(frozen=True)
class Contender:
    """A server that can be measured.

    Attributes:
        name: what the results call it.
        path: where it takes an image.
        prepare: puts what it needs into its folder, from model, folder and settings.
        launch: starts it with model, folder, port and settings; returns its main process's id.
        settings: the settings that `--tune` chooses from, the first of them the usual one.
        takes_arrays: whether it answers `.npy` files.
    """

    name: str
    path: str
    prepare: Callable[[Path, Path, Settings], None]
    launch: Callable[[Path, Path, int, Settings], int]
    settings: tuple[Settings, ...] = ({},)
    takes_arrays: bool = True


@dataclass(frozen=True)
class Running:
    """A server that has given its first prediction."""

    name: str
    port: int
    path: str
    pid: int
    first_prediction_s: float
    headers: dict[str, str] = field(default_factory=dict)

    def ask(self, body: bytes) -> bytes:
        """One request on a connection of its own; raises as the function `ask` does."""
        return ask(self.port, self.path, self.headers, body)


def ask(port: int, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """POST `body`; the body of the answer.

    Raises:
        OSError, http.client.HTTPException: nothing answers there.
        BenchmarkError: another status than 200.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", path, body, dict(headers))
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise BenchmarkError(f"port {port} answered {answer.status}: {content[:200]!r}")
    return content


@contextmanager
def running(
    contender: Contender, model: Path, port: int, settings: Settings, image: bytes
) -> Iterator[Running]:
    """A started server, ended with all its processes at the end of the block.

    Args:
        image: the encoded image that the first prediction is of.

    Raises:
        BenchmarkError: no prediction in time; the message has the end of its log.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        home = Path(folder)
        pid = None
        contender.prepare(model, home, settings)
        begun = time.perf_counter()
        try:
            pid = contender.launch(model, home, port, settings)
            headers = _wait(contender, home, port, image, begun + START_SECONDS)
            seconds = time.perf_counter() - begun
            yield Running(contender.name, port, contender.path, pid, seconds, headers)
        finally:
            if pid is not None:
                _end(pid)


def _wait(
    contender: Contender, home: Path, port: int, image: bytes, deadline: float
) -> dict[str, str]:
    while time.perf_counter() < deadline:
        headers = {"Content-Type": "application/octet-stream"}
        try:
            keys = home / "key_file.json"
            if keys.exists():
                key = json.loads(keys.read_text())["inference"]["key"]
                headers["Authorization"] = f"Bearer {key}"
            ask(port, contender.path, headers, image)
        except (OSError, http.client.HTTPException, ValueError, BenchmarkError):
            time.sleep(POLL_SECONDS)
        else:
            return headers
    log = (home / "log.txt").read_text(errors="replace")[-2000:]
    raise BenchmarkError(f"{contender.name}: no prediction in {START_SECONDS:.0f} s\n{log}")


def _end(pid: int) -> None:
    try:
        main = psutil.Process(pid)
        processes = [main, *main.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    main.terminate()
    _, alive = psutil.wait_procs(processes, timeout=STOP_SECONDS)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=STOP_SECONDS)
