"""Numbers into images: `.npy` files, JSON lists and tensors become arrays of 28×28 images.

Every protocol that carries pixels as numbers ends here, so that the rules on shape and range
are written once: integers count 0..255, floats 0..1.
"""

from __future__ import annotations

import io
import math
import reprlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from handler.errors import InvalidRange, InvalidShape, RequestError, TooLarge, Unreadable
from handler.preprocessing import prepare_images, to_tensor

Images: TypeAlias = "NDArray[np.uint8] | NDArray[np.float32]"
"""[N,28,28], uint8 0..255 or float32 0..1."""

Item = TypeVar("Item")

NPY_MAGIC = b"\x93NUMPY"
MAX_IMAGES = 10_000  # per request: 8 MB of uint8
MAX_DIMENSIONS = 4


def parse_npy(body: bytes | bytearray) -> NDArray[Any]:
    """Read a `.npy` file without copying its data and without ever unpickling.

    Args:
        body: the whole file.

    Returns:
        A read-only view of `body` as an array, its shape and dtype as the file declares them.

    Raises:
        Unreadable: a damaged header, pickled objects, items of no bytes, or fewer bytes than the
            header promises.
        InvalidShape, TooLarge: see `check_shape`.
    """
    header = io.BytesIO(bytes(body[: 16 * 1024]))
    try:
        version = npy_format.read_magic(header)
        read = {
            (1, 0): npy_format.read_array_header_1_0,
            (2, 0): npy_format.read_array_header_2_0,
        }[version]
        shape, fortran_order, dtype = read(header)
    except Exception as error:
        # numpy's header parser evaluates a Python literal: its failures are of many types.
        raise Unreadable(
            "expected a .npy file of format 1.0 or 2.0, got a damaged header"
        ) from error
    if dtype.hasobject:
        raise Unreadable("expected a .npy file of numbers, got pickled objects (never loaded)")
    if dtype.subdtype:
        raise Unreadable("expected a .npy file of numbers, got an array in each item")
    if not dtype.itemsize:  # such as '0U3': text of no length, that numpy's own reading trips over
        raise Unreadable("expected a .npy file of numbers, got items of no bytes")
    if not all(type(side) is int and side >= 0 for side in shape):
        raise Unreadable("expected a .npy shape of whole numbers")
    check_shape(shape)
    count = math.prod(shape)
    expected, got = count * dtype.itemsize, len(body) - header.tell()
    if got < expected:
        raise Unreadable(f"expected {expected} bytes after the .npy header, got {got}")
    flat = np.frombuffer(body, dtype, count, header.tell())
    return flat.reshape(shape, order="F" if fortran_order else "C")


def check_shape(shape: Sequence[int]) -> None:
    """Ask whether an array of this shape holds images, before it is made.

    Raises:
        InvalidShape: it is none of those that `as_images` takes, or has no image.
        TooLarge: more than `MAX_IMAGES` images.
    """
    shape = tuple(shape)
    if shape in ((28, 28), (784,)):
        return
    if shape[1:] not in ((28, 28), (1, 28, 28), (784,)):
        raise InvalidShape(
            "expected shape [28,28], [N,28,28], [N,1,28,28] or [N,784], "
            f"got {reprlib.repr(list(shape))}"
        )
    if shape[0] == 0:
        raise InvalidShape("expected at least one image, got none")
    if shape[0] > MAX_IMAGES:
        raise TooLarge(
            f"expected at most {MAX_IMAGES} images in a request, got {reprlib.repr(shape[0])}"
        )


def as_images(array: NDArray[Any]) -> tuple[Images, dict[int, RequestError]]:
    """Check numbers against the rules on shape and range, and bring them into MNIST's form.

    Args:
        array: [28,28], [784], [N,28,28], [N,1,28,28] or [N,784]; integers 0..255 or floats 0..1.

    Returns:
        The images, [N,28,28] uint8 (from integers) or float32 (from floats), and the refusals by
        image index. A refused image keeps its place in the array, so that indices agree.

    Raises:
        InvalidShape: another shape, no image at all, or a dtype that is no number.
        TooLarge: more than `MAX_IMAGES` images.
    """
    check_shape(array.shape)
    images = array.reshape(-1, 28, 28)
    in_range, refusals = _check_range(images)
    prepared, illegible = prepare_images(in_range)
    return prepared, illegible | refusals


def _check_range(images: NDArray[Any]) -> tuple[Images, dict[int, RequestError]]:
    if images.dtype == np.uint8:
        return images, {}
    kind = images.dtype.kind
    if kind not in "iuf":
        raise InvalidShape(
            f"expected integers (0..255) or floats (0..1), got dtype {images.dtype.name}"
        )
    top = 255 if kind in "iu" else 1
    # Asked this way round, because every comparison with NaN is false.
    inside: NDArray[np.bool_] = np.all((images >= 0) & (images <= top), axis=(1, 2))
    refusals: dict[int, RequestError] = {}
    for index in np.flatnonzero(~inside).tolist():
        refusals[index] = InvalidRange(_range_message(images[index], top))
    kept = np.where(inside[:, None, None], images, 0) if refusals else images
    if top == 255:
        return kept.astype(np.uint8), refusals
    return kept.astype(np.float32), refusals


def one_image(array: NDArray[Any]) -> Images:
    """Like `as_images`, for numbers that must be exactly one image: [1,28,28].

    Raises:
        RequestError: why it is refused.
    """
    images, refusals = as_images(array)
    if len(images) != 1:
        raise InvalidShape(f"expected one image here, got {len(images)}")
    if refusals:
        raise refusals[0]
    return images


def decode_each(
    items: Iterable[Item], decode: Callable[[Item], Images]
) -> tuple[Images, dict[int, RequestError]]:
    """Decode items of one image each: the images, [N,28,28], and the refusals by index.

    A refused item's place is held by a blank image.
    """
    images: list[Images] = []
    refusals: dict[int, RequestError] = {}
    for index, item in enumerate(items):
        try:
            images.append(decode(item))
        except RequestError as error:
            # A new one: the raised one holds its frames, and these the pixels of what was refused.
            refusals[index] = type(error)(error.message)
            images.append(blank())
    return stack(images), refusals


def blank() -> Images:
    """The placeholder for a refused image: [1,28,28] uint8 zeros."""
    return np.zeros((1, 28, 28), np.uint8)


def stack(parts: Sequence[Images]) -> Images:
    """Join images of several sources, [n,28,28] each, into one [N,28,28].

    uint8 stays uint8; where any part is float32 all become float32, scaled as the model sees them.
    """
    if len(parts) == 1:
        return np.require(parts[0], requirements="W")  # a copy of what PyTorch may not wrap
    if all(part.dtype == np.uint8 for part in parts):
        return np.concatenate(parts, dtype=np.uint8)
    return np.concatenate([to_tensor(part).numpy()[:, 0] for part in parts])


def _range_message(image: NDArray[Any], top: int) -> str:
    kind = "integers 0..255" if top == 255 else "floats 0..1"
    if not np.isfinite(image).all():
        return f"expected {kind}, got NaN or infinity"
    hint = " (whole numbers 0..255 must be sent as integers)" if top == 1 else ""
    return f"expected {kind}, got values from {image.min():.6g} to {image.max():.6g}{hint}"
