"""An encoded image (PNG, JPEG, BMP, GIF, WebP or TIFF) to pixels, whatever the bytes are.

The result says only what is visible: EXIF orientation applied, palettes looked up, 16 bits and
floats scaled to 8, transparency (but for a transparent grey of 16 bits) replaced by a ground that
the ink stands out from, the first frame of several. Which pixels are ink is for
`handler.preprocessing` to say.
"""

from __future__ import annotations

import io
import warnings
import zlib
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from handler.deadline import check_time
from handler.errors import TooLarge, Unreadable

Pixels = NDArray[np.uint8]
Bytes = bytes | bytearray | memoryview

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
ACCEPTED = "PNG, JPEG, BMP, GIF, WebP or TIFF"
# Phones take up to 50 megapixels; 64 of them are 192 MB of RGB, what one worker can still hold.
MAX_PIXELS = 64_000_000
# Longer than any camera's side; the limit also keeps slivers (1 × 10,000,000) out.
MAX_SIDE = 32_768
# JPEG can decode itself at 1/2, 1/4 or 1/8 for a fraction of the time. A digit needs no more.
DRAFT_SIDE = 1024
# Other formats cannot; beyond this they are reduced once decoded, before a copy in floats is made.
# 64 megapixels with transparency would take 2 GB else.
REDUCED_SIDE = 2048

# Beyond these an image is a large one to `handler.deadline`: as many take up to 10 ms, the most
# that are let in a second or two.
LARGE_PIXELS = 500_000


def decode_image(body: Bytes) -> Pixels:
    """Decode one encoded image.

    Returns uint8 pixels, [H, W] where the file holds one channel (grey, 1-bit, 16-bit), else
    [H, W, 3] RGB. Large images come at a reduced scale, their longest side still at
    least `DRAFT_SIDE` (JPEG) or `REDUCED_SIDE`.

    Raises:
        Unreadable: empty, not an image, of another format, truncated or corrupt.
        TooLarge: more than `MAX_PIXELS` or a side above `MAX_SIDE`, refused from the header.
        Busy: the images before this one have used up the batch's time.
        MemoryError: there is no memory for it, which says nothing about the image.
    """
    pixels = _decode_mnist_png(body)
    if pixels is None:
        pixels = _decode_any(bytes(body))
    return pixels


# A 28×28 PNG of 8-bit grey, not interlaced: its signature, IHDR chunk with CRC, and IEND chunk.
_HEAD = b"\x89PNG\r\n\x1a\n" + bytes.fromhex(
    "0000000d 49484452 0000001c 0000001c 0800000000 57668048"
)
_TAIL = bytes.fromhex("00000000 49454e44 ae426082")
_RAW_LENGTH = 28 * 29  # each row is preceded by the number of its filter
_FILTERS = bytes(range(5))
# The largest such file without ancillary chunks; also bounds what a deflate bomb could unfold to.
_MAX_LENGTH = 1024


def _decode_mnist_png(body: Bytes) -> Pixels | None:
    """Decode the plainest 28×28 grey PNG in about 7 µs where Pillow takes 25; else None.

    OpenCV accepts truncated and corrupt PNGs and reports them on stderr only, so it sees nothing
    that both checksums (CRC-32 of the chunk, Adler-32 of the pixels) have not vouched for.
    """
    if len(body) > _MAX_LENGTH or body[:33] != _HEAD or body[-12:] != _TAIL:
        return None
    chunk = body[37:-16]  # the type and data of what must be the one IDAT chunk
    if (
        int.from_bytes(body[33:37], "big") != len(chunk) - 4
        or chunk[:4] != b"IDAT"
        or zlib.crc32(chunk) != int.from_bytes(body[-16:-12], "big")
    ):
        return None
    try:
        raw = zlib.decompress(chunk[4:], bufsize=_RAW_LENGTH)
    except zlib.error:
        return None
    if len(raw) != _RAW_LENGTH or raw[::29].translate(None, _FILTERS):
        return None
    return cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)  # type: ignore[return-value]


def _decode_any(body: bytes) -> Pixels:
    if not body:
        raise Unreadable(f"the image is empty (0 bytes); expected {ACCEPTED}")
    check_time()
    # Pillow raises whatever its plugins meet in hostile bytes: OSError, SyntaxError, ValueError,
    # struct.error, zlib.error, KeyError … All of them but MemoryError mean: not a readable image.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(body), formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise TooLarge(_too_large()) from error
        except MemoryError:
            raise
        except Exception as error:
            if body[8:12] == b"WEBP":
                # Its decoder does not tell whether sense or memory was missing: try for the memory.
                np.empty(4 * MAX_PIXELS, np.uint8)
            raise Unreadable(
                f"the {len(body)} bytes are not an image that can be read; expected {ACCEPTED}"
            ) from error
        with image:
            width, height = image.size
            if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
                raise TooLarge(_too_large(f", came {width} × {height}"))
            check_time(large=width * height > LARGE_PIXELS)
            try:
                if image.format == "PNG":
                    # Loading does not look at the checksums of what it loads.
                    Image.open(io.BytesIO(body)).verify()
                return _pixels(image)
            except MemoryError:
                raise
            except Exception as error:
                raise Unreadable(
                    f"the {image.format} image of {len(body)} bytes is truncated or corrupt"
                ) from error


def _too_large(came: str = "") -> str:
    return (
        f"expected at most {MAX_PIXELS // 1_000_000} megapixels "
        f"and sides of at most {MAX_SIDE} pixels{came}"
    )


def _pixels(image: Image.Image) -> Pixels:
    """uint8 [H, W] or [H, W, 3] of an opened image."""
    if image.format == "JPEG":
        image.draft(None, (DRAFT_SIDE, DRAFT_SIDE))
    image.load()
    image = _reduced(_in_8_bits(ImageOps.exif_transpose(image)))
    pixels = np.asarray(image)
    return _without_alpha(pixels) if image.mode == "RGBA" else pixels


def _in_8_bits(image: Image.Image) -> Image.Image:
    """The image as L, RGB or RGBA: four bytes a pixel at most."""
    if image.mode.startswith("I;16"):
        # Without a copy in floats. 65535 is 257 × 255, so that no value lies half-way between two.
        values = np.asarray(image).astype(np.uint16, copy=False)  # in this machine's byte order
        return Image.fromarray(cv2.convertScaleAbs(values, alpha=1 / 257))
    if image.mode in ("I", "F"):
        return Image.fromarray(_to_8_bit(np.asarray(_reduced(image))))
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        return image.convert("RGBA")
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _reduced(image: Image.Image) -> Image.Image:
    factor = max(image.size) // REDUCED_SIDE
    return image.reduce(factor) if factor > 1 else image


def _to_8_bit(values: NDArray[Any]) -> Pixels:
    """Scale by 16 bits where these are used, else by the image's own range."""
    if values.min() >= 0 and 255 < values.max() <= 65535:
        return (values.astype(np.float32) * (255 / 65535) + 0.5).astype(np.uint8)
    finite = np.nan_to_num(values.astype(np.float64))
    low, high = min(finite.min(), 0.0), finite.max()
    if low == 0 and high <= 255:
        high = 1.0 if high <= 1 and values.dtype.kind == "f" else 255.0
    scaled: Pixels = ((finite - low) * (255 / (high - low)) + 0.5).astype(np.uint8)
    return scaled


def _without_alpha(rgba: Pixels) -> Pixels:
    """RGB of a picture with transparency, on a ground that the visible part stands out from.

    Drawings on a transparent layer are mostly transparent, and what is drawn has one tone; their
    ground becomes the opposite tone. A picture that is mostly opaque brings its own ground,
    which then goes on behind the transparent part.
    """
    colour, alpha = rgba[..., :3], rgba[..., 3:]
    if alpha.min() == 255:
        return np.ascontiguousarray(colour)
    share = alpha.astype(np.float32) / 255
    opaque = alpha[..., 0] > 127
    drawn = colour[opaque] if opaque.any() else colour[alpha[..., 0] > 0]
    if not len(drawn):
        return np.zeros_like(colour)
    one_tone = float(drawn.std(axis=0).max()) < 32
    if one_tone or opaque.mean() < 0.5:
        ground = np.full(3, 255 if drawn.mean() < 128 else 0, np.float32)
    else:
        ground = np.median(drawn, axis=0).astype(np.float32)
    return (colour * share + ground * (1 - share) + 0.5).astype(np.uint8)
