"""Images as clients send them, and the ways in which they send them wrong."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels [H,W] or [H,W,C] as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def npy(array: NDArray[Any]) -> bytes:
    """An array as a `.npy` file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def b64(body: bytes) -> str:
    """Bytes as base64 text."""
    return base64.b64encode(body).decode()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """A part of a PNG file: its length, what it is, and its checksum."""
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


def png_header_only(width: int, height: int) -> bytes:
    """A PNG that promises width × height pixels in some hundred bytes: a decompression bomb."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(b"\0" * 100_000)
    parts = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in parts)


def pickled_npy() -> bytes:
    """A `.npy` file of pickled objects, which must never be loaded."""
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return file.getvalue()


def malformed(good: NDArray[np.uint8]) -> dict[str, tuple[int, bytes]]:
    """Bad bodies by name, each with the status that it must get; `good` is a digit [28,28]."""
    whole = png(good)
    return {
        "truncated PNG": (400, whole[: len(whole) // 2]),
        "PNG with a flipped byte": (400, whole[:60] + bytes([whole[60] ^ 255]) + whole[61:]),
        "text": (400, b"seven"),
        "empty body": (400, b""),
        "npy of the wrong shape": (422, npy(np.zeros((3, 20, 28), np.uint8))),
        "npy cut short": (400, npy(good)[:-100]),
        "npy of pickled objects": (400, pickled_npy()),
        "npy of items of no bytes": (400, npy(good).replace(b"'|u1'", b"'0U3'", 1)),
        "NaN": (422, npy(np.full((28, 28), np.nan, np.float32))),
        "floats up to 255": (422, npy(good.astype(np.float32))),
        "100-megapixel bomb": (413, png_header_only(10_000, 10_000)),
        "broken JSON": (400, b'{"instances": [['),
        "JSON that asks for nothing": (400, b'{"a": 1}'),
        "deep JSON": (400, b"[" * 100_000),
        "broken base64": (400, json.dumps({"instances": [{"b64": "%%%"}]}).encode()),
        "base64 of text": (400, json.dumps({"instances": [{"b64": b64(b"seven")}]}).encode()),
        "blank image": (422, png(np.zeros((28, 28), np.uint8))),
        "too many images": (413, npy(np.zeros((10_001, 28, 28), np.uint8))),
    }
