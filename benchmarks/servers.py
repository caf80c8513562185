"""The servers under comparison: how each is started, asked and ended.

One runs at a time, in a folder of its own that is gone afterwards, so that none costs another
anything and each start is a cold one.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from client.server import REPOSITORY, find_java_home
from handler import archive

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


# -- TorchServe -------------------------------------------------------------------------------


def _torchserve(model: Path, home: Path, port: int, settings: Settings) -> int:  # noqa: ARG001
    """`torchserve --start` with the folder's config.properties; the front end's process id."""
    environment = _environment() | {
        "TMPDIR": str(home),
        "TEMP": str(home),
        "TS_INFERENCE_ADDRESS": f"http://127.0.0.1:{port}",
        "TS_MANAGEMENT_ADDRESS": f"http://127.0.0.1:{port + 1}",
        "TS_METRICS_ADDRESS": f"http://127.0.0.1:{port + 2}",
        "TS_GRPC_INFERENCE_PORT": str(port + 3),
        "TS_GRPC_MANAGEMENT_PORT": str(port + 4),
    }
    java_home = find_java_home()
    if java_home is not None:
        environment["JAVA_HOME"] = str(java_home)
    torchserve = Path(sys.executable).with_name("torchserve")
    with (home / "log.txt").open("wb") as log:
        subprocess.run(
            [torchserve, "--start", "--ncs", "--ts-config", "config.properties"],
            cwd=home,
            env=environment,
            stdout=log,
            stderr=log,
            check=True,
        )
    return int((home / ".model_server.pid").read_text())


def _project(model: Path, home: Path, settings: Settings) -> None:
    """The project as it is shipped; `settings` replace values of its config.properties."""
    archive.build(model, home / "model_store")
    config = (REPOSITORY / "config.properties").read_text()
    for old, new in settings.items():
        if old not in config:
            raise BenchmarkError(f"config.properties has no {old!r} to replace")
        config = config.replace(old, new)
    (home / "config.properties").write_text(config)
    (home / "log4j2.xml").write_bytes((REPOSITORY / "log4j2.xml").read_bytes())


def _stock(model: Path, home: Path, settings: Settings) -> None:  # noqa: ARG001
    """TorchServe's defaults, with the handler of its MNIST example."""
    store = home / "model_store"
    store.mkdir()
    archiver = Path(sys.executable).with_name("torch-model-archiver")
    subprocess.run(
        [
            *(archiver, "--model-name", "mnist", "--version", "1.0"),
            *("--serialized-file", model, "--export-path", store),
            *("--handler", REPOSITORY / "benchmarks" / "peers" / "stock_handler.py"),
        ],
        check=True,
        env=os.environ | {"TMPDIR": str(home)},
    )
    (home / "config.properties").write_text(
        "model_store=model_store\nload_models=mnist.mar\nenable_envvars_config=true\n"
    )


# -- The peers --------------------------------------------------------------------------------


def _nothing(model: Path, home: Path, settings: Settings) -> None:
    """A peer runs from this repository as it is."""


def _peer(module: str) -> Callable[[Path, Path, int, Settings], int]:
    def launch(model: Path, home: Path, port: int, settings: Settings) -> int:
        environment = _environment() | {
            "BENCH_MODEL": str(model.resolve()),
            "BENCH_PORT": str(port),
            "MOSEC_PORT": str(port),
            "MOSEC_ADDRESS": "127.0.0.1",
            "MOSEC_LOG_LEVEL": "warning",
            "TMPDIR": str(home),
            "OMP_NUM_THREADS": "1",
        }
        with (home / "log.txt").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"benchmarks.peers.{module}"],
                cwd=REPOSITORY,
                env=environment | dict(settings),
                stdout=log,
                stderr=log,
            )
        return process.pid

    return launch


def _environment() -> dict[str, str]:
    """This process's environment, its virtual environment's programs first."""
    programs = str(Path(sys.executable).parent)
    return os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}"}


def _batches(*sizes: int, workers: tuple[int, ...] = (1,)) -> tuple[Settings, ...]:
    return tuple(
        {"BENCH_BATCH": str(size), "BENCH_WORKERS": str(count)}
        for count in workers
        for size in sizes
    )


_DIGITS = "/predictions/mnist"
_TUNED = _batches(64, 128, workers=(1, 2))
CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender("project", _DIGITS, _project, _torchserve),
        Contender(
            "low latency",
            _DIGITS,
            _project,
            _torchserve,
            settings=({'"batchSize": 128': '"batchSize": 1'},),
        ),
        Contender("stock", _DIGITS, _stock, _torchserve, takes_arrays=False),
        Contender("mosec", "/inference", _nothing, _peer("mosec_peer"), _TUNED),
        Contender("fastapi", "/predict", _nothing, _peer("fastapi_peer"), _TUNED),
        Contender("litserve", "/predict", _nothing, _peer("litserve_peer"), _TUNED),
    )
}
