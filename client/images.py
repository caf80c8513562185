"""Whatever a user calls an image, made ready to send.

Two kinds of image travel: *pixels*, 28×28 numbers, a thousand of them in one body; and *encoded*
images (PNG, JPEG, …), which the server decodes and brings into MNIST's form.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from client.errors import Refused

if TYPE_CHECKING:
    import torch

Pixels: TypeAlias = "NDArray[np.uint8] | NDArray[np.float32]"
"""uint8 (0..255) or float32 (0..1), [28, 28]."""

Encoded: TypeAlias = "Path | bytes | Image.Image"
"""Read and encoded only when it is sent, so that a hundred thousand files fit in memory."""

ImageLike: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | Image.Image | NDArray[Any] | torch.Tensor"
)


def as_items(images: ImageLike | Iterable[ImageLike]) -> list[Pixels | Encoded]:
    """Return one item for each image, in order.

    Args:
        images: one image, an array or tensor of many, or an iterable of images. See
            `DigitClient.predict` for what an image may be.

    Raises:
        TypeError: something is no image at all.
        ValueError: an array whose shape, dtype or range no image has.
    """
    if isinstance(images, (str, os.PathLike, bytes, bytearray, Image.Image)):
        return [_item(images)]
    array = _array(images)
    if array is not None:
        return [*_many(array)] if _is_many(array) else [_pixels_or_png(array)]
    if not isinstance(images, Iterable):
        raise TypeError(f"expected an image or images, got {type(images).__name__}")
    return [_item(image) for image in images]


def encode(image: Encoded) -> bytes:
    """Return the bytes of an image file.

    Raises:
        Refused: the file cannot be read, or Pillow cannot write this image as a PNG.
    """
    if isinstance(image, bytes):
        return image
    try:
        return image.read_bytes() if isinstance(image, Path) else png(image)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Refused(f"cannot be read: {reason}", code="unreadable_file") from error


def png(image: Image.Image) -> bytes:
    """Encode as PNG, turned as its EXIF data say; colour spaces PNG lacks become RGB."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        image = image.convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def size(image: Encoded) -> int:
    """Estimate the bytes of the encoded image, without reading it."""
    if isinstance(image, bytes):
        return len(image)
    if isinstance(image, Path):
        return image.stat().st_size if image.is_file() else 0
    return image.width * image.height * len(image.getbands())


def _item(image: ImageLike) -> Pixels | Encoded:
    if isinstance(image, (str, os.PathLike)):
        return Path(image)
    if isinstance(image, (bytes, bytearray)):
        return bytes(image)
    if isinstance(image, Image.Image):
        return image
    array = _array(image)
    if array is None:
        raise TypeError(
            "expected a path, bytes, a Pillow image, a NumPy array or a tensor, "
            f"got {type(image).__name__}"
        )
    return _pixels_or_png(array)


def _array(image: object) -> NDArray[Any] | None:
    """Return arrays and (without importing torch) tensors as numbers in 0..255 or 0..1."""
    if hasattr(image, "detach"):
        image = image.detach().cpu().numpy()
    if not isinstance(image, np.ndarray):
        return None
    if image.dtype.kind == "f":
        return image.astype(np.float32, copy=False)
    if image.dtype.kind in "iu":
        if image.dtype != np.uint8 and image.size and not 0 <= image.min() <= image.max() <= 255:
            raise ValueError(
                f"expected integers 0..255, got values from {image.min()} to {image.max()}"
            )
        return image.astype(np.uint8, copy=False)
    raise ValueError(f"expected integers (0..255) or floats (0..1), got dtype {image.dtype}")


def _is_many(array: NDArray[Any]) -> bool:
    return array.shape[1:] in ((28, 28), (1, 28, 28), (784,))


def _many(array: NDArray[Any]) -> Pixels:
    return array.reshape(-1, 28, 28)


def _pixels_or_png(array: NDArray[Any]) -> Pixels | Encoded:
    """One image: MNIST's size travels as pixels, any other as a PNG."""
    if array.size == 784 and array.shape in ((28, 28), (784,), (1, 28, 28), (28, 28, 1), (1, 784)):
        return array.reshape(28, 28)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.size == 0 or (array.ndim != 2 and array.shape[2:] not in ((3,), (4,))):
        raise ValueError(
            "expected one image, [28,28], [H,W], [H,W,3] or [H,W,4], or many at once, [N,28,28], "
            f"[N,1,28,28] or [N,784]; got {list(array.shape)}"
        )
    if array.dtype != np.uint8:
        if not (np.min(array) >= 0 and np.max(array) <= 1):
            raise ValueError("expected floats 0..1, got values outside (or NaN)")
        array = np.rint(array * 255).astype(np.uint8)
    return Image.fromarray(array)
