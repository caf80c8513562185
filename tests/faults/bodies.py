"""Broken requests, made of whole ones by chance: the same seed makes the same ones."""

from __future__ import annotations

import io
import json
import random
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.images import b64, npy, png

FORMATS = ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP")
PLAIN, V1, V2 = "predictions/mnist", "v1/models/mnist:predict", "v2/models/mnist/infer"
BOUNDARY = "b0undary"


class Broken(NamedTuple):
    """A request: what it was made of, where it goes, its body and its headers.

    `form` marks what TorchServe's front end parses itself, before the handler sees it.
    """

    kind: str
    address: str
    body: bytes
    headers: dict[str, str]
    form: bool = False


def broken(count: int, seed: int, image: NDArray[np.uint8]) -> Iterator[Broken]:
    """Yield `count` requests made of a digit [28,28], each kind as often as any other."""
    chance = random.Random(seed)
    makers = [*(_file(kind, image) for kind in FORMATS), _npy, _v1, _v2, _v2_binary, _form, _packed]
    for index in range(count):
        yield makers[index % len(makers)](chance, image)


def mutate(chance: random.Random, body: bytes) -> bytes:
    """Damage bytes in one to four places: flip, drop, double, overwrite, insert, cut short."""
    damaged = bytearray(body)
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(damaged) + 1)
        stop = min(len(damaged), start + chance.choice((1, 1, 2, 4, 16, 256)))
        part = damaged[start:stop]
        damaged[start:stop] = chance.choice(
            (
                bytes(byte ^ 1 << chance.randrange(8) for byte in part),
                b"",
                part * 2,
                bytes([chance.choice((0, 127, 128, 255))]) * len(part),
                part + chance.randbytes(chance.choice((1, 4, 64))),
                chance.randbytes(len(part)),
            )
        )
        if chance.random() < 0.1:
            del damaged[chance.randrange(len(damaged) + 1) :]
    return bytes(damaged)


def _file(kind: str, image: NDArray[np.uint8]) -> Any:
    large = np.kron(image, np.ones((4, 4), np.uint8))
    whole = []
    for picture in (Image.fromarray(large), Image.fromarray(large).convert("RGB")):
        file = io.BytesIO()
        picture.save(file, kind)
        whole.append(file.getvalue())
    whole.append(png(image) if kind == "PNG" else whole[0])

    def make(chance: random.Random, _: NDArray[np.uint8]) -> Broken:
        headers = {"Content-Type": chance.choice(("application/octet-stream", "image/png", "x"))}
        return Broken(kind, PLAIN, mutate(chance, chance.choice(whole)), headers)

    return make


def _npy(chance: random.Random, image: NDArray[np.uint8]) -> Broken:
    arrays = (image, image.astype(np.float64), np.stack([image] * 3), image.astype("<U3"))
    body = npy(chance.choice(arrays))
    # Half of them in the header, which is a Python literal of a hundred bytes.
    at = 128 if chance.random() < 0.5 else len(body)
    return Broken(".npy", PLAIN, mutate(chance, body[:at]) + body[at:], {})


def _v1(chance: random.Random, image: NDArray[np.uint8]) -> Broken:
    document = {"instances": [{"b64": b64(png(image))}, image.tolist(), {"data": b64(b"7")}]}
    headers = {"Content-Type": "application/json"}
    return Broken("v1 JSON", V1, _json(chance, document), headers)


def _v2(chance: random.Random, image: NDArray[np.uint8]) -> Broken:
    data = image.ravel().tolist()
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 28, 28], "data": data}
    outputs = [{"name": "probabilities", "parameters": {"classification": 2}}]
    document = {"id": "1", "inputs": [tensor], "outputs": outputs}
    return Broken("v2 JSON", V2, _json(chance, document), {"Content-Type": "application/json"})


def _v2_binary(chance: random.Random, image: NDArray[np.uint8]) -> Broken:
    """Sizes that lie: of the header, the tensor, its shape and its elements."""
    encoded = png(image)
    raw = chance.choice((image.tobytes(), len(encoded).to_bytes(4, "little") + encoded))
    lies = (0, 1, -1, 783, 785, 2**31, 2**63, 2**64, 1e9, None, "784", True, [784], len(raw))
    shape = chance.choice(([1, 28, 28], [1], [2**31, 2**31, 4], [-1, 784], [0, 784], [1] * 99, 784))
    tensor = {
        "name": "images",
        "datatype": chance.choice(("UINT8", "FP32", "BYTES", "FP64", 8)),
        "shape": shape,
        "parameters": {"binary_data_size": chance.choice(lies)},
    }
    header = json.dumps({"inputs": [tensor]}).encode()
    told = chance.choice(
        (len(header), len(header) - 1, 0, -1, 10**9, 10**99, "0x10", "²", "", "+5")
    )
    body = header + chance.choice((raw, raw[:-1], raw * 2, mutate(chance, raw), b""))
    length = str(told).encode().decode("latin-1")
    return Broken("v2 binary", V2, body, {"Inference-Header-Content-Length": length})


def _form(chance: random.Random, image: NDArray[np.uint8]) -> Broken:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="data"; filename="a"\r\n\r\n'
    body = head.encode() + png(image) + f"\r\n--{BOUNDARY}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    return Broken("multipart", PLAIN, mutate(chance, body), headers, form=True)


def _packed(chance: random.Random, image: NDArray[np.uint8]) -> Broken:
    body = zlib.compress(png(image))
    if chance.random() < 0.8:
        body = mutate(chance, body)
    return Broken(
        "deflate", V1, body, {"Content-Encoding": chance.choice(("deflate", "gzip", "br"))}
    )


def _json(chance: random.Random, document: dict[str, Any]) -> bytes:
    """Damage a document's values, or its text."""
    if chance.random() < 0.3:
        return mutate(chance, json.dumps(document).encode())
    copy = json.loads(json.dumps(document))
    for _ in range(chance.randint(1, 3)):
        _replace(chance, copy)
    return json.dumps(copy).encode()


def _replace(chance: random.Random, holder: Any) -> None:
    """Put something else in the place of one value, at any depth."""
    others: tuple[Any, ...] = (
        None,
        True,
        -1,
        1.5,
        1e308,
        2**63,
        "",
        "images",
        [],
        {},
        [[]],
        "\0",
        "ü",
        [None] * 9,
    )
    while isinstance(holder, (dict, list)) and holder:
        key = chance.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        if not isinstance(holder[key], (dict, list)) or not holder[key] or chance.random() < 0.4:
            holder[key] = chance.choice(others)
            return
        holder = holder[key]
