"""The variant without metrics: nothing that counts is left in it, and all else is."""

from __future__ import annotations

import ast
import shutil
import zipfile
from pathlib import Path

from benchmarks.metrics_cost import strip, without_metrics
from client.server import REPOSITORY


def test_only_what_counts_is_removed() -> None:
    source = """
def answer(batch):
    METRICS.totals["batches"] += 1
    total = 0
    total += 1
    for refusal in batch:
        METRICS.errors[refusal.code] += 1
    METRICS.add_predictions(batch)
    report(METRICS, emit)
    report(batch)
    return total
"""
    stripped, removed = without_metrics(source)
    assert removed == 4
    expected = """
def answer(batch):
    pass
    total = 0
    total += 1
    for refusal in batch:
        pass
    pass
    pass
    report(batch)
    return total
"""
    assert ast.dump(ast.parse(stripped)) == ast.dump(ast.parse(expected))


def test_every_use_in_the_handler_is_removed(archive: Path, tmp_path: Path) -> None:
    uses = sum(
        line.strip().startswith(("METRICS.", "report(METRICS"))
        for path in (REPOSITORY / "handler").rglob("*.py")
        for line in path.read_text().splitlines()
    )
    copy = Path(shutil.copy(archive, tmp_path))
    assert strip(copy) == uses > 10
    with zipfile.ZipFile(copy) as stripped, zipfile.ZipFile(archive) as whole:
        assert stripped.namelist() == whole.namelist()
        for name in stripped.namelist():
            if name.endswith(".py"):
                assert "METRICS." not in stripped.read(name).decode()
            else:
                assert stripped.read(name) == whole.read(name)
    assert strip(copy) == 0
