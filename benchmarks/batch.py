"""Label MNIST's training images with `digits batch`: whole, killed half-way, and without Ray.

    pip install -e '.[batch]'
    python -m benchmarks.batch                      # all 60,000, a few minutes
    python -m benchmarks.batch --images 4000

The yardstick has as many processes as the run has, each with a model of its own, and labels the
same PNGs from memory: no Ray, no files. Each digit of a run is compared with the yardstick's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from benchmarks.measure import to_png
from client.server import REPOSITORY
from handler.model import DigitModel
from handler.preprocessing import prepare_image
from training.data import read_mnist

GROUP = 1000  # images that become one file of the result
ROUNDS = 5  # of the yardstick, which counts in its median: each takes seconds
DEADLINE = 600.0
_model: Any = None  # of a process of the yardstick


class Yardstick(NamedTuple):
    """What labelling gives, int64 [N] digits, and how fast it can be, on all cores together."""

    digits: NDArray[np.int64]
    per_second: float


def yardstick(images: Sequence[bytes], model: Path) -> Yardstick:
    """Label encoded images in as many processes as there are cores."""
    blocks = [images[start : start + GROUP] for start in range(0, len(images), GROUP)]
    cores = min(psutil.cpu_count() or 1, len(blocks))
    # Fresh processes: a copy of one that has used torch's threads may hang.
    with ProcessPoolExecutor(cores, get_context("spawn"), _load, (model,)) as pool:
        list(pool.map(_label, blocks[:cores] * 2))  # so that all have loaded
        seconds = []
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            digits = np.concatenate(list(pool.map(_label, blocks)))
            seconds.append(time.perf_counter() - begun)
    return Yardstick(digits, len(images) / statistics.median(seconds))


def _load(model: Path) -> None:
    global _model  # noqa: PLW0603  (a process pool's initializer has no other place)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _model = DigitModel(model, processors=1)


def _label(bodies: Sequence[bytes]) -> NDArray[np.int64]:
    digits: NDArray[np.int64] = _model.predict(np.stack([prepare_image(b) for b in bodies]))[0]
    return digits


def write_source(images: Sequence[bytes], path: Path) -> None:
    """A Parquet file of encoded images, named by their number."""
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    names = [str(number) for number in range(len(images))]
    parquet.write_table(pa.table({"name": names, "image": images}), path, row_group_size=GROUP)


def mistakes(output: Path, expected: NDArray[np.int64]) -> dict[str, int]:
    """How many images a result has twice, lacks, or labels otherwise than expected."""
    from pyarrow import parquet  # noqa: PLC0415

    tables = [parquet.read_table(path) for path in sorted(output.glob("*.parquet"))]
    names = [int(name) for table in tables for name in table["name"].to_pylist()]
    digits = [digit for table in tables for digit in table["digit"].to_pylist()]
    wrong = sum(digit != int(expected[name]) for name, digit in zip(names, digits, strict=True))
    missing = len(set(range(len(expected))) - set(names))
    return {"twice": len(names) - len(set(names)), "missing": missing, "wrong": wrong}


def steady_speed(output: Path) -> float:
    """Images a second from the first file of a result to the last."""
    times = sorted(path.stat().st_mtime for path in output.glob("*.parquet"))
    return GROUP * (len(times) - 1) / (times[-1] - times[0])


def label(source: Path, output: Path, model: Path, *, kill_at: int | None = None) -> dict[str, Any]:
    """Run `digits batch`; what it says of itself, nothing where it was killed.

    Args:
        kill_at: kill it and all its processes once there are so many files.

    Raises:
        RuntimeError: it failed, or ended before it could be killed.
    """
    options = ["--output", str(output), "--model", str(model), "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "client", "batch", str(source), *options],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    if kill_at is None:
        printed, _ = process.communicate(timeout=DEADLINE)
        if process.returncode:
            raise RuntimeError(f"digits batch ended with {process.returncode}")
        said: dict[str, Any] = json.loads(printed)
        return said
    while len(list(output.glob("*.parquet"))) < kill_at:
        if process.poll() is not None:
            raise RuntimeError("digits batch ended before it could be killed")
        time.sleep(0.01)
    main = psutil.Process(process.pid)
    processes = [*main.children(recursive=True), main]
    for one in processes:
        one.kill()
    psutil.wait_procs(processes, timeout=30)
    process.communicate()
    return {}


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code: 1 where a label is wrong, missing or there twice."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.batch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--model", type=Path, default=REPOSITORY / "model_store" / "mnist.pt")
    options = parser.parse_args(arguments)
    images = [to_png(image) for image in read_mnist("train")[0][: options.images]]
    expected, limit = yardstick(images, options.model)
    print(f"without Ray: {limit:,.0f} images/s")
    with tempfile.TemporaryDirectory() as folder:
        source, whole, killed = (Path(folder) / name for name in ("digits.parquet", "a", "b"))
        write_source(images, source)
        said = label(source, whole, options.model)
        speed = said["images"] / said["seconds"]
        found = mistakes(whole, expected)
        steady = steady_speed(whole)
        print(
            f"digits batch: {steady:,.0f} images/s once it labels, {steady / limit:.0%} of that; "
            f"with Ray's start {speed:,.0f}, {speed / limit:.0%}; {said['seconds']:.1f} s; {found}"
        )
        label(source, killed, options.model, kill_at=len(images) // GROUP // 2)
        done = len(list(killed.glob("*.parquet")))
        rest = label(source, killed, options.model)
        found_again = mistakes(killed, expected)
        print(
            f"killed at {done * GROUP:,} images, {rest['images']:,} labelled afterwards; "
            f"{found_again}"
        )
    return int(any([*found.values(), *found_again.values()]))


if __name__ == "__main__":
    sys.exit(main())
