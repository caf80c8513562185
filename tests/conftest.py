"""What every test may ask for: the data, a trained model, its archive, a TorchServe of its own."""

from __future__ import annotations

import hashlib
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests
import torch
from numpy.typing import NDArray

from client.server import REPOSITORY, Server
from handler import archive as archiver
from handler.model import DigitModel
from training.data import read_mnist

TIMEOUT = 60  # seconds for any request: a hanging server must fail a test, not the whole run


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def mnist_test() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The 10,000 test images, uint8 [N,28,28], and labels, int64 [N]."""
    return read_mnist("test")


@pytest.fixture(scope="session")
def model_file() -> Path:
    """A model trained by the command that users run, with the preset for the impatient.

    Kept between runs until the training code changes: training is deterministic.
    """
    sources = sorted((REPOSITORY / "training").glob("*.py"))
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    path = REPOSITORY / ".cache" / "tests" / digest[:16] / "mnist.pt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "training", "--preset", "fast", "--output", str(path)]
        subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=900)
    return path


@pytest.fixture(scope="session")
def model(model_file: Path) -> DigitModel:
    """The trained model in this process, loaded as the server loads it."""
    return DigitModel(model_file)


@pytest.fixture(scope="session")
def archive(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`mnist.mar` with that model and this checkout's handler."""
    return archiver.build(model_file, tmp_path_factory.mktemp("store"))


def free_ports(count: int = 5) -> int:
    """A port followed by `count - 1` more that nobody listens on."""
    for _ in range(100):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            base = int(probe.getsockname()[1])
        if base + count > 65535:
            continue
        try:
            for offset in range(count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", base + offset))
        except OSError:
            continue
        return base
    raise RuntimeError(f"no {count} free ports in a row")


def make_home(archive: Path) -> Path:
    """A folder that a server can run in: this checkout's settings and the given archive."""
    # Not pytest's tmp_path: Unix sockets need short paths.
    home = Path(tempfile.mkdtemp(prefix="mnist-"))
    for name in ("config.properties", "log4j2.xml", "metrics.yaml"):
        shutil.copy(REPOSITORY / name, home)
    (home / "model_store").mkdir()
    shutil.copy(archive, home / "model_store" / "mnist.mar")
    return home


@contextmanager
def serving(archive: Path, *changes: tuple[str, str]) -> Iterator[Server]:
    """A real TorchServe on ports and in a folder of its own, with changes to config.properties."""
    home = make_home(archive)
    settings = home / "config.properties"
    try:
        for old, new in changes:
            text = settings.read_text()
            assert text.count(old) == 1
            settings.write_text(text.replace(old, new))
        with Server(home, free_ports()).running() as running:
            yield running
    finally:
        shutil.rmtree(home)


@pytest.fixture(scope="session")
def server(archive: Path) -> Iterator[Server]:
    """The TorchServe that the tests share."""
    with serving(archive) as running:
        yield running


@pytest.fixture
def session(server: Server) -> Iterator[requests.Session]:
    """An HTTP session that carries the server's key."""
    with requests.Session() as opened:
        opened.headers["Authorization"] = f"Bearer {server.key}"
        opened.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=64))
        yield opened


def workers_of(server: Server) -> list[psutil.Process]:
    """The worker processes of a server, as many as live at this moment."""
    return [
        child
        for child in psutil.Process(server.pid).children()
        if "model_service_worker" in " ".join(child.cmdline())
    ]
