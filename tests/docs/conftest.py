"""A checkout that documents' commands run in, and how they are run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.server import REPOSITORY, Server
from tests.conftest import make_home


def code(text: str, language: str) -> list[str]:
    """A document's code blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def checkout(archive: Path, model_file: Path) -> Iterator[Path]:
    """A checkout that is set up and has its archive, as `make archive` leaves it."""
    home = make_home(archive)
    for name in ("client", "training", "handler", "evaluation", "docs", "data"):
        shutil.copytree(REPOSITORY / name, home / name)
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "requirements.txt"):
        shutil.copy(REPOSITORY / name, home)
    shutil.copy(model_file, home / "model_store")
    venv = home / ".venv"
    venv.mkdir()
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", venv)
    for name in ("bin", "lib"):
        (venv / name).symlink_to(Path(sys.prefix) / name)
    # In the order in which make would have made them.
    for made in (venv / ".ready", home / "model_store/mnist.pt", home / "model_store/mnist.mar"):
        made.touch()
    yield home
    Server(home).stop()
    shutil.rmtree(home)


def run(checkout: Path, program: list[str], port: int) -> str:
    """What a command of a page prints, with its server at `port`."""
    return output_of(
        program, checkout, {"PORT": str(port), "MNIST_URL": f"http://127.0.0.1:{port}"}
    )


def output_of(program: list[str], folder: Path, variables: dict[str, str]) -> str:
    """What a program prints in a folder, with more environment variables; it must end with 0."""
    environment = os.environ | variables
    # A make inside of `make test` would say which folder it enters.
    environment = {key: value for key, value in environment.items() if not key.startswith("MAKE")}
    done = subprocess.run(
        program,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
