"""The archive: reproducible, complete, and importable as it is shipped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

import pytest

from handler import archive
from handler.archive import build


def test_the_same_inputs_give_the_same_bytes(model_file: Path, tmp_path: Path) -> None:
    first = build(model_file, tmp_path / "a").read_bytes()
    second = build(model_file, tmp_path / "b").read_bytes()
    assert first == second


def test_another_model_gives_other_bytes(model_file: Path, tmp_path: Path) -> None:
    """The test above can fail: bytes that differ are seen to differ."""
    other = tmp_path / "other.pt"
    other.write_bytes(model_file.read_bytes() + b"x")
    first = build(model_file, tmp_path / "a").read_bytes()
    assert first != build(other, tmp_path / "b").read_bytes()


def test_the_manifest_names_version_and_entry(model_file: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(build(model_file, tmp_path)) as packed:
        manifest = json.loads(packed.read("MAR-INF/MANIFEST.json"))
        names = set(packed.namelist())
    assert manifest["model"] == {
        "modelName": "mnist",
        "modelVersion": "1.0",
        "handler": "mnist_handler.py",
        "serializedFile": "mnist.pt",
    }
    shipped = {
        path.relative_to(archive.PACKAGE.parent).as_posix()
        for path in archive.PACKAGE.rglob("*.py")
        if path.name not in ("archive.py", "mnist_handler.py", "sitecustomize.py")
    }
    top = {"MAR-INF/MANIFEST.json", "mnist.pt", "mnist_handler.py", "sitecustomize.py"}
    assert names == shipped | top


def test_pairing_up_loads_nothing_large(model_file: Path, tmp_path: Path) -> None:
    """A worker finds its partner before it has paid for torch, or for NumPy."""
    with zipfile.ZipFile(build(model_file, tmp_path)) as packed:
        packed.extractall(tmp_path / "unpacked")
    worker = tmp_path / "model_service_worker.py"
    worker.write_text(
        "import sys\nfrom handler import pairing\n"
        "print(pairing.meeting is not None, [m for m in ('torch', 'numpy') if m in sys.modules])\n"
    )
    arguments = ("--sock-type", "unix", "--sock-name", "a.9000", "--metrics-config", "m.yaml")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "unpacked")}
    run = partial(subprocess.run, env=environment, capture_output=True, text=True, check=True)
    assert run([sys.executable, worker, *arguments]).stdout == f"{sys.platform == 'linux'} []\n"
    # Any other program that finds the archive on its path starts as ever.
    other = worker.rename(tmp_path / "other.py")
    assert run([sys.executable, other, *arguments]).stdout == "False []\n"


def test_the_shipped_handler_imports_alone_and_lightly(model_file: Path, tmp_path: Path) -> None:
    """Nothing but the archive on the path: no training, no client, and no heavy package."""
    with zipfile.ZipFile(build(model_file, tmp_path)) as packed:
        packed.extractall(tmp_path / "unpacked")
    program = (
        "import sys, mnist_handler, handler; print(handler.__file__); "
        "print([m for m in ('torchvision', 'matplotlib', 'captum', 'scipy', 'training', 'client') "
        "if m in sys.modules])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path / "unpacked",
        env=os.environ | {"PYTHONPATH": str(tmp_path / "unpacked")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert Path(printed[0]).is_relative_to(tmp_path / "unpacked")
    assert printed[1] == "[]"


def test_a_missing_model_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = archive.main(["--model", str(tmp_path / "no.pt"), "--export-path", str(tmp_path)])
    assert code == 1
    assert "`make model` trains one" in capsys.readouterr().err
