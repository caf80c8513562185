"""Image files as people name them on a command line: files, folders, standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from client.errors import UsageError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
STANDARD_INPUT = "-"


def find(names: Sequence[str]) -> Iterator[tuple[str, Path | bytes]]:
    """Yield (name, path or bytes) of every image, in the order of `names`.

    A folder stands for all the image files in it and below it, sorted; `-` for one image on
    standard input. A file that is named is taken whatever its suffix, and whether it is there.

    Raises:
        UsageError: a folder without an image file.
    """
    for name in names:
        path = Path(name)
        if name == STANDARD_INPUT:
            yield name, sys.stdin.buffer.read()
        elif path.is_dir():
            yield from ((str(file), file) for file in images_below(path))
        else:
            yield name, path


def images_below(folder: Path) -> list[Path]:
    """Return the image files in a folder and below it, sorted; hidden ones are left out.

    Raises:
        UsageError: there are none.
    """
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    if not files:
        raise UsageError(f"{folder} holds no image file ({', '.join(sorted(SUFFIXES))})")
    return files
