"""Folders of labelled images: any image files, and a `LABELS.tsv` that says what they show.

Each line of `LABELS.tsv` is a path, relative to the folder, a tab and a digit:

    img/anna__seven.png	7

A file name of the form `source__name` puts the image under that source in the report.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

THUMBNAIL = 112  # pixels: four times the side of a normalised digit


class LabelsError(Exception):
    """A folder cannot be evaluated. The message is one line for a person."""


@dataclass(frozen=True)
class LabelledFile:
    """One image file and the digit it shows."""

    path: Path
    name: str
    digit: int


def read_labels(folder: Path) -> list[LabelledFile]:
    """Return the files listed in `folder`/LABELS.tsv, in its order.

    Raises:
        LabelsError: no such list, a line that is not `path<tab>digit`, or a file that is missing.
    """
    table = folder / "LABELS.tsv"
    try:
        lines = table.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise LabelsError(f"{table} cannot be read ({reason}); it lists path<tab>digit") from error
    files = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, _, digit = line.partition("\t")
        if digit.strip() not in set("0123456789"):
            raise LabelsError(f"{table}, line {number}: expected path<tab>digit, got {line!r}")
        path = folder / name
        if not path.is_file():
            raise LabelsError(f"{table}, line {number}: there is no file {path}")
        files.append(LabelledFile(path, name, int(digit)))
    if not files:
        raise LabelsError(f"{table} lists no images")
    return files


def report_names(folders: Sequence[Path]) -> list[str]:
    """What the report on each folder is called: as the folder.

    Raises:
        LabelsError: two have the same name.
    """
    names = [folder.resolve().name for folder in folders]
    for name in names:
        if names.count(name) > 1:
            raise LabelsError(f"two folders are called {name}, and so would their reports be")
    return names


def thumbnail(body: bytes) -> npt.NDArray[np.uint8]:
    """Return an encoded image at a size for contact sheets: uint8 [H, W, 3], H and W <= 112.

    An undecodable image gives a grey square, since a miss must be shown whatever its reason.
    """
    try:
        with Image.open(io.BytesIO(body)) as image:
            upright = ImageOps.exif_transpose(image).convert("RGBA")
            upright.thumbnail((THUMBNAIL, THUMBNAIL))
            paper = Image.new("RGBA", upright.size, "white")
            return np.asarray(Image.alpha_composite(paper, upright).convert("RGB"))
    except Exception:
        return np.full((THUMBNAIL, THUMBNAIL, 3), 128, np.uint8)
