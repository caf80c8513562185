"""Label folders or Parquet files of images without a server: Ray Data, on every core.

The images are cut into blocks in a fixed order, and each block becomes one Parquet file that
appears only when it is whole. So a run that was killed goes on where it stopped: no image is
labelled twice in the result, and none is missing.

Columns: `name` string; `digit` int8; `probabilities` list of 10 float32; `error` string. For an
image that is refused, `digit` and `probabilities` are null; for all others, `error` is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from client.errors import UsageError
from training.data import REPOSITORY, write_atomically

FILES_PER_BLOCK = 1000
PLAN = "plan.json"  # beside the results: what they were made from
MISSING = "ray is not installed: pip install -e '.[batch]'"


class Block(NamedTuple):
    """What becomes one file of the result: some image files, or a row group of a Parquet file."""

    files: tuple[str, ...]
    row_group: int | None = None


class Labelled(NamedTuple):
    """What a run did: images labelled by it, refusals among them, seconds, and cores used."""

    images: int
    refused: int
    seconds: float
    cores: int


def label(source: Path, output: Path, model: Path, column: str = "image") -> Labelled:
    """Label every image of `source` that `output` does not have yet.

    Args:
        source: a folder of image files, searched in depth, or a Parquet file, or a folder of them.
        output: the folder of the result, one Parquet file for each block.
        model: the TorchScript file.
        column: of a Parquet file, the one with the encoded images (binary).

    Raises:
        UsageError: no images there, Ray is not installed, or `output` was made from other images
            or with another model.
    """
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it reports restarts that are none
    try:
        import ray  # noqa: PLC0415
        from ray.data import ActorPoolStrategy  # noqa: PLC0415
    except ImportError as error:
        raise UsageError(MISSING) from error
    blocks = _blocks(source, output, column)
    _check_plan(output, blocks, column, model)
    todo = [number for number in range(len(blocks)) if not _file(output, number).exists()]
    started, images, refused = time.monotonic(), 0, 0
    cores = min(os.cpu_count() or 1, max(1, len(todo)))
    if todo:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        try:
            ray.data.DataContext.get_current().enable_progress_bars = False  # but one of its own
            rows = ray.data.from_items(
                [{"block": number} for number in todo], override_num_blocks=len(todo)
            ).map(
                _Labeller,  # type: ignore[arg-type]
                fn_constructor_args=(blocks, output.resolve(), model.resolve(), column),
                compute=ActorPoolStrategy(size=cores),
                num_cpus=1,
            )
            for row in tqdm(rows.iter_rows(), total=len(todo), unit="block", disable=None):
                images += row["images"]
                refused += row["refused"]
        finally:
            ray.shutdown()
    return Labelled(images, refused, time.monotonic() - started, cores)


class _Labeller:
    """One of the processes: a model, loaded once, and one block after the other."""

    def __init__(self, blocks: Sequence[Block], output: Path, model: Path, column: str) -> None:
        import cv2  # noqa: PLC0415
        import torch  # noqa: PLC0415

        from handler.model import DigitModel  # noqa: PLC0415

        torch.set_num_threads(1)  # as many processes as cores: threads would fight over them
        cv2.setNumThreads(1)
        self._model = DigitModel(model, processors=1)
        self._blocks, self._output, self._column = blocks, output, column

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        import pyarrow as pa  # noqa: PLC0415
        from pyarrow import parquet  # noqa: PLC0415

        from handler.arrays import decode_each  # noqa: PLC0415
        from handler.preprocessing import prepare_image  # noqa: PLC0415

        names, bodies = _read(self._blocks[row["block"]], self._column)
        images, refusals = decode_each(bodies, lambda body: prepare_image(body)[None])
        digits, probabilities = self._model.predict(images)
        refused = np.isin(np.arange(len(names)), list(refusals))
        table = pa.table(
            {
                "name": names,
                "digit": pa.array(digits.astype(np.int8), mask=refused),
                "probabilities": pa.FixedSizeListArray.from_arrays(
                    pa.array(probabilities.ravel()), 10, mask=pa.array(refused)
                ),
                "error": [
                    refusals[i].message if i in refusals else None for i in range(len(names))
                ],
            },
            schema=_schema(),
        )
        path = _file(self._output, row["block"])
        unfinished = path.with_suffix(".unfinished")
        parquet.write_table(table, unfinished)
        unfinished.replace(path)
        return {"images": len(names), "refused": len(refusals)}


def _schema() -> Any:
    import pyarrow as pa  # noqa: PLC0415

    return pa.schema(
        {
            "name": pa.string(),
            "digit": pa.int8(),
            "probabilities": pa.list_(pa.float32(), 10),
            "error": pa.string(),
        }
    )


def _blocks(source: Path, output: Path, column: str) -> list[Block]:
    from pyarrow import parquet  # noqa: PLC0415

    if not source.exists():
        raise UsageError(f"{source} does not exist: expected a folder of images, or Parquet")
    # It may lie in the source: the labels of an earlier run are no images.
    own = output.resolve()
    below = [path for path in source.rglob("*") if path.is_file()]
    files = sorted(p for p in below if own not in p.resolve().parents) or [source]
    tables = [path for path in files if path.suffix == ".parquet"]
    if source.is_dir() and not tables:
        names = [str(path) for path in files if path != source and not path.name.startswith(".")]
        starts = range(0, len(names), FILES_PER_BLOCK)
        blocks = [Block(tuple(names[start : start + FILES_PER_BLOCK])) for start in starts]
    else:
        blocks = []
        for path in tables:
            opened = parquet.ParquetFile(path)
            if column not in opened.schema_arrow.names:
                there = ", ".join(opened.schema_arrow.names)
                raise UsageError(f"{path} has no column {column!r}; it has {there} (--column)")
            blocks += [Block((str(path),), group) for group in range(opened.num_row_groups)]
    if not blocks:
        raise UsageError(f"no images in {source}: expected image files, or Parquet files")
    return blocks


def _read(block: Block, column: str) -> tuple[list[str], list[bytes]]:
    """The names and the encoded images of a block."""
    if block.row_group is None:
        return list(block.files), [Path(file).read_bytes() for file in block.files]
    from pyarrow import parquet  # noqa: PLC0415

    (file,) = block.files
    opened = parquet.ParquetFile(file)
    columns = [name for name in (column, "name") if name in opened.schema_arrow.names]
    table = opened.read_row_group(block.row_group, columns=columns)
    bodies = [body or b"" for body in table[column].to_pylist()]
    if "name" in columns:
        return [str(name) for name in table["name"].to_pylist()], bodies
    return [f"{file}:{block.row_group}:{row}" for row in range(len(bodies))], bodies


def _check_plan(output: Path, blocks: list[Block], column: str, model: Path) -> None:
    """Refuse to mix results: of other or changed images, in other blocks, or by another model."""
    if not model.is_file():
        raise UsageError(f"no model at {model}; `make model` trains it")
    files = [Path(name).stat() for block in blocks for name in block.files]
    images = [blocks, column, [(file.st_size, file.st_mtime_ns) for file in files]]
    plan = {
        "images": hashlib.sha256(json.dumps(images).encode()).hexdigest(),
        "model": hashlib.sha256(model.read_bytes()).hexdigest(),
    }
    path = output / PLAN
    output.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write_atomically(path, json.dumps(plan).encode())
    elif json.loads(path.read_text()) != plan:
        raise UsageError(
            f"{output} has labels of other images or by another model; choose another --output"
        )


def _file(output: Path, number: int) -> Path:
    return output / f"labels-{number:06}.parquet"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a folder, or a Parquet file")
    parser.add_argument("--output", type=Path, default=Path("labels"), help="a folder (labels)")
    parser.add_argument("--column", default="image", help="of Parquet, with the images (image)")
    parser.add_argument("--model", type=Path, default=REPOSITORY / "model_store" / "mnist.pt")
    parser.add_argument("--json", action="store_true", help="the outcome as one JSON object")


def run(options: argparse.Namespace) -> int:
    """The command: label, and say how it went; 0, or 1 where images were refused."""
    done = label(options.source, options.output, options.model, options.column)
    if options.json:
        print(json.dumps(done._asdict()))
    else:
        speed = done.images / max(done.seconds, 1e-9) / done.cores
        print(
            f"{options.output}: {done.images:,} images labelled now, {done.refused:,} of them "
            f"refused, {done.seconds:.1f} s, {speed:,.0f} images/s on each of {done.cores} cores"
        )
    return 1 if done.refused else 0


if __name__ == "__main__":
    from client.__main__ import main

    sys.exit(main(["batch", *sys.argv[1:]]))
