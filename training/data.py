"""MNIST from the repository's own files: unpacked once, checked on every load, no network.

>>> images, labels = read_mnist("test")      # NumPy only: uint8 [10000, 28, 28], int64 [10000]
>>> dataset = mnist_dataset("test")          # the same as torchvision's `datasets.MNIST`
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torchvision.datasets import MNIST

Split = Literal["train", "test"]
Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

REPOSITORY = Path(__file__).resolve().parent.parent
PREFIX = {"train": "train", "test": "t10k"}
COUNT = {"train": 60_000, "test": 10_000}
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


class DataError(Exception):
    """MNIST is missing, truncated or altered. The message is one line for a person."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside `path`, then rename, so that nobody ever reads half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)  # mkstemp's 0600 would hide it from the server's user
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_mnist(split: Split, data_dir: Path | None = None) -> tuple[Images, Labels]:
    """Return one split as uint8 [N, 28, 28] (0 = paper, 255 = ink) and int64 [N] (0..9).

    Args:
        split: "train" (N = 60,000) or "test" (N = 10,000).
        data_dir: a folder with the four idx files, plain or gzipped, in it, in `raw/` or in
            `MNIST/raw/`. Default: the environment's MNIST_DIR, else the repository's data/.

    Raises:
        DataError: a file is missing, truncated or altered.
    """
    images = _checked(f"{PREFIX[split]}-images-idx3-ubyte", data_dir)
    labels = _checked(f"{PREFIX[split]}-labels-idx1-ubyte", data_dir)
    # The idx headers (16 and 8 bytes) need no parsing: the SHA-256 has vouched for them.
    return (
        np.frombuffer(images, np.uint8, offset=16).reshape(COUNT[split], 28, 28).copy(),
        np.frombuffer(labels, np.uint8, offset=8).astype(np.int64),
    )


def mnist_dataset(
    split: Split, data_dir: Path | None = None, cache_dir: Path | None = None
) -> MNIST:
    """Return torchvision's dataset of PIL images and int labels, read from the cache.

    Args:
        split: "train" or "test".
        data_dir: as in `read_mnist`.
        cache_dir: where the files are unpacked; default: the repository's .cache/mnist.

    Raises:
        DataError: a file is missing, truncated or altered.
    """
    from torchvision.datasets import MNIST  # noqa: PLC0415  (slow; `read_mnist` does without)

    return MNIST(str(unpack(data_dir, cache_dir)), train=split == "train", download=False)


def unpack(data_dir: Path | None = None, cache_dir: Path | None = None) -> Path:
    """Put all four checked files where torchvision looks for them, and return its root.

    Safe when several processes do it at once: each file appears by a rename, and all of them
    write the same bytes.

    Raises:
        DataError: a file is missing, truncated or altered.
    """
    root = cache_dir or REPOSITORY / ".cache" / "mnist"
    raw = root / "MNIST" / "raw"
    for name, digest in SHA256.items():
        cached = raw / name
        if not cached.is_file() or hashlib.sha256(cached.read_bytes()).hexdigest() != digest:
            write_atomically(cached, _checked(name, data_dir))
    return root


def _checked(name: str, data_dir: Path | None) -> bytes:
    """Find one idx file, plain or gzipped, and vouch for its content."""
    path = _find(name, data_dir)
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        message = f"{path} cannot be read ({error}); it may be truncated: copy it again."
        raise DataError(" ".join(message.split())) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256[name]:
        raise DataError(
            f"{path} is not MNIST's {name}: expected SHA-256 {SHA256[name][:12]}…, "
            f"got {digest[:12]}… ({len(content):,} bytes); it is truncated or altered: "
            "copy it again, or name another folder with --data-dir or MNIST_DIR."
        )
    return content


def _find(name: str, data_dir: Path | None) -> Path:
    folder = data_dir or Path(os.environ.get("MNIST_DIR") or REPOSITORY / "data")
    for inside in (".", "raw", "MNIST/raw"):
        for suffix in ("", ".gz"):
            path = folder / inside / (name + suffix)
            if path.is_file():
                return path
    raise DataError(
        f"{name}[.gz] is not in {folder} (nor in its raw/ or MNIST/raw/): restore data/ "
        "from the repository, or name a folder that has it with --data-dir or MNIST_DIR."
    )
