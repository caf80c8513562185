"""What make thinks is out of date, asked of make itself (`-n` prints, `-W` pretends a change)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from client.server import REPOSITORY

LONG_AGO = 1_000_000_000  # a time that no clock is near


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A checkout in which everything has been made, in the order in which make would."""
    for name in ("training", "handler"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "requirements.txt"):
        shutil.copy(REPOSITORY / name, tmp_path)
    made = (".venv/.ready", "model_store/mnist.pt", "model_store/mnist.mar")
    for name in made:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for path in tmp_path.rglob("*"):
        os.utime(path, (LONG_AGO, LONG_AGO))
    for number, name in enumerate(made, start=1):
        os.utime(tmp_path / name, (LONG_AGO + number, LONG_AGO + number))
    return tmp_path


def planned(folder: Path, *arguments: str) -> str:
    command = ["make", "--no-print-directory", "-n", *arguments, "archive"]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=True, timeout=60
    ).stdout


def test_nothing_is_made_twice(built: Path) -> None:
    assert "python" not in planned(built)


def test_a_changed_handler_is_archived_but_not_trained(built: Path) -> None:
    for changed in ("handler/errors.py", "handler/protocols/v1.py"):
        plan = planned(built, "-W", changed)
        assert "-m handler.archive" in plan
        assert "-m training" not in plan


def test_changed_training_code_is_trained_and_archived(built: Path) -> None:
    plan = planned(built, "-W", "training/train.py")
    assert plan.index("-m training") < plan.index("-m handler.archive")


def test_changed_requirements_are_installed(built: Path) -> None:
    assert "pip install" in planned(built, "-W", "requirements.txt")


def test_serving_installs_nothing_without_a_hash_and_nothing_that_only_tests_use(
    built: Path,
) -> None:
    plan = planned(built, "-W", "requirements.txt")
    first, second = [line for line in plan.splitlines() if "pip install" in line]
    assert "--require-hashes --requirement requirements.txt" in first
    assert "--no-deps --no-build-isolation --editable ." in second
    assert "[dev]" not in plan
