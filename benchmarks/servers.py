"""The servers under comparison: what each needs in its folder, and how it is started."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.processes import BenchmarkError, Contender, Settings
from client.java import find_java_home
from client.server import REPOSITORY
from handler import archive


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
    for name, value in settings.items():
        config, found = re.subn(rf'("{name}": )\d+', rf"\g<1>{value}", config)
        if found != 1:
            raise BenchmarkError(f"config.properties names {name} {found} times, expected once")
    (home / "config.properties").write_text(config)
    for name in ("log4j2.xml", "metrics.yaml"):
        (home / name).write_bytes((REPOSITORY / name).read_bytes())


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
            settings=({"batchSize": "1"},),
        ),
        Contender("stock", _DIGITS, _stock, _torchserve, takes_arrays=False),
        Contender("mosec", "/inference", _nothing, _peer("mosec_peer"), _TUNED),
        Contender("fastapi", "/predict", _nothing, _peer("fastapi_peer"), _TUNED),
        Contender("litserve", "/predict", _nothing, _peer("litserve_peer"), _TUNED),
    )
}
