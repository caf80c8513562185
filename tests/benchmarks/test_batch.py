"""The comparison of labels; a run itself takes minutes, and tests/client/test_batch.py has one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from benchmarks.batch import mistakes, yardstick
from handler.model import DigitModel
from tests.images import png


def test_labels_that_are_wrong_missing_or_there_twice_are_counted(tmp_path: Path) -> None:
    def write(number: int, names: list[int], digits: list[int | None]) -> None:
        table = pa.table({"name": [*map(str, names)], "digit": pa.array(digits, pa.int8())})
        parquet.write_table(table, tmp_path / f"labels-{number:06}.parquet")

    expected = np.array([5, 6, 7, 8])
    write(0, [0, 1], [5, 6])
    write(1, [2, 3], [7, 8])
    assert mistakes(tmp_path, expected) == {"twice": 0, "missing": 0, "wrong": 0}
    write(1, [1, 2], [6, 8])
    assert mistakes(tmp_path, expected) == {"twice": 1, "missing": 1, "wrong": 1}
    write(1, [2, 3], [7, None])
    assert mistakes(tmp_path, expected) == {"twice": 0, "missing": 0, "wrong": 1}


def test_the_yardstick_gives_the_models_digits(
    model_file: Path, model: DigitModel, mnist_test: tuple[NDArray[np.uint8], NDArray[np.int64]]
) -> None:
    images = mnist_test[0][:1500]
    digits, per_second = yardstick([png(image) for image in images], model_file)
    assert digits.tolist() == model.predict(images)[0].tolist()
    assert per_second > 0
