"""The README's commands run as they are printed, in a checkout of the test's own."""

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
from tests.conftest import free_ports, make_home

README = (REPOSITORY / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The README's code blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def checkout(archive: Path, model_file: Path) -> Iterator[Path]:
    """A checkout that is set up and has its archive, as `make archive` leaves it."""
    home = make_home(archive)
    for name in ("client", "training", "handler", "evaluation", "docs", "data"):
        shutil.copytree(REPOSITORY / name, home / name)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
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
    environment = os.environ | {"PORT": str(port), "MNIST_URL": f"http://127.0.0.1:{port}"}
    done = subprocess.run(
        program,
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_commands_work_as_printed(checkout: Path) -> None:
    port = free_ports()
    script = "set -eu\n" + "\n".join(blocks("bash")).replace(":8080", f":{port}")
    script = script.replace("make stop\n", "")  # the block below needs the server as well
    printed = run(checkout, ["bash", "-c", script], port)
    assert "77" in printed  # curl prints no newline: seven, seven, and the photo's five
    assert "775" in printed
    assert '{"predictions":[7,{"error":{"code":"unreadable"' in printed
    assert '"outputs":[{"name":"digit","shape":[1],"datatype":"INT64","data":[7]}' in printed
    assert "docs/seven.png\t7" in printed
    assert "16 right" in printed or "of 16 right" in printed
    (python,) = blocks("python")
    assert run(checkout, [sys.executable, "-c", python], port).startswith("7 5 ")
    assert "stopped" in run(checkout, ["make", "stop"], port)


def test_every_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    code = "\n".join(blocks("sh") + blocks("bash"))
    named = set(re.findall(r"\bmake (?:-s )?([a-z]+)\b", code))
    assert named <= targets
    assert {"demo", "test", "start", "stop", "key"} <= named


def test_every_folder_of_the_house_exists() -> None:
    house = re.search(r"## The house\n\n```\n(.*?)```", README, re.DOTALL)
    assert house
    for line in house[1].splitlines():
        assert (REPOSITORY / line.split()[0]).exists(), line
