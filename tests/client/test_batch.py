"""Labelling without a server: every image once, also after a run was killed half-way."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from pyarrow import parquet

from client import batch
from client.__main__ import main
from client.errors import UsageError
from client.server import REPOSITORY
from handler.model import DigitModel
from tests.images import png

ROWS, GROUP = 4000, 200
BLANK = ROWS - 1  # the row that holds no digit: not done when the run is killed


@pytest.fixture(scope="module")
def source(
    tmp_path_factory: pytest.TempPathFactory, mnist_test: tuple[NDArray[np.uint8], object]
) -> Path:
    """Test images as PNGs in a Parquet file, one of them blank."""
    images = mnist_test[0][:ROWS].copy()
    images[BLANK] = 0
    table = pa.table({"name": [f"digit {i}" for i in range(ROWS)], "image": [*map(png, images)]})
    path = tmp_path_factory.mktemp("batch") / "digits.parquet"
    parquet.write_table(table, path, row_group_size=GROUP)
    return path


def labels(output: Path) -> pa.Table:
    """All that a run has written, in the order of its blocks."""
    return pa.concat_tables(parquet.read_table(path) for path in sorted(output.glob("*.parquet")))


def check(output: Path, model: DigitModel, images: NDArray[np.uint8]) -> None:
    table = labels(output)
    assert table["name"].to_pylist() == [f"digit {i}" for i in range(ROWS)]
    digits, probabilities = model.predict(images[:ROWS])
    expected: list[int | None] = digits.tolist()
    expected[BLANK] = None
    assert table["digit"].to_pylist() == expected
    others = np.arange(ROWS) != BLANK
    found = np.array([row for row in table["probabilities"].to_pylist() if row is not None])
    assert np.allclose(found, probabilities[others], atol=1e-5)
    errors = [i for i, error in enumerate(table["error"].to_pylist()) if error is not None]
    assert errors == [BLANK]
    assert "blank" in table["error"][BLANK].as_py()


def test_a_killed_run_goes_on_where_it_stopped(
    tmp_path: Path,
    source: Path,
    model_file: Path,
    model: DigitModel,
    mnist_test: tuple[NDArray[np.uint8], object],
) -> None:
    output = tmp_path / "labels"
    command = [sys.executable, "-m", "client.batch", str(source), "--output", str(output)]
    command += ["--model", str(model_file)]
    run = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not list(output.glob("*.parquet")):
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        processes = [*psutil.Process(run.pid).children(recursive=True), psutil.Process(run.pid)]
        for process in processes:
            process.kill()
        psutil.wait_procs(processes, timeout=30)
        run.wait(30)
    before = {path: path.stat().st_mtime_ns for path in output.glob("*.parquet")}
    assert 0 < len(before) < ROWS // GROUP  # it was killed half-way
    done = subprocess.run(
        command, cwd=REPOSITORY, timeout=240, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr  # one image was refused
    left = (ROWS // GROUP - len(before)) * GROUP
    assert f"{left:,} images labelled now" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before
    check(output, model, mnist_test[0])


def test_results_are_not_mixed(tmp_path: Path, model_file: Path) -> None:
    other = tmp_path / "other.pt"
    other.write_bytes(model_file.read_bytes() + b"\0")
    images = tmp_path / "images.parquet"
    images.write_bytes(b"1")
    blocks, output = [batch.Block((str(images),), 0)], tmp_path / "labels"
    for _ in range(2):
        batch._check_plan(output, blocks, "image", model_file)
    for changed in (
        (blocks * 2, "image", model_file),
        (blocks, "second", model_file),
        (blocks, "image", other),
    ):
        with pytest.raises(UsageError, match="choose another --output"):
            batch._check_plan(output, *changed)
    images.write_bytes(b"22")
    with pytest.raises(UsageError, match="choose another --output"):
        batch._check_plan(output, blocks, "image", model_file)


def test_its_own_labels_are_no_images(
    tmp_path: Path, model_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The default output, `labels`, lies in the source where that is the working directory."""
    (tmp_path / "labels").mkdir()
    parquet.write_table(pa.table({"digit": [7]}), tmp_path / "labels" / "labels-000000.parquet")
    command = ["batch", str(tmp_path), "--model", str(model_file), "--output"]
    assert main([*command, str(tmp_path / "labels")]) == 64
    assert "no images in" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "others")]) == 64
    assert "has no column 'image'; it has digit" in capsys.readouterr().err


def test_mistakes_are_named(
    tmp_path: Path, source: Path, model_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["batch", str(tmp_path / "nothing"), "--model", str(model_file)]) == 64
    assert "does not exist" in capsys.readouterr().err
    assert main(["batch", str(source), "--column", "picture", "--model", str(model_file)]) == 64
    assert "has no column 'picture'; it has name, image" in capsys.readouterr().err
