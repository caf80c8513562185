"""A small server that speaks the contract, remembers what it was asked, and fails on demand.

Its "model" reads the digit off an image's first pixel: 0..9 are digits, 255 is refused. The bytes
of an encoded image may also be plain text, `digit 7` or `nothing`.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

REFUSED = 255
HEADER_LENGTH = "Inference-Header-Content-Length"
KEY_ERROR = {
    "code": 400,
    "type": "InvalidKeyException",
    "message": "Token Authorization failed. Token either incorrect, expired, or not provided",
}


@dataclass(frozen=True)
class Asked:
    """A request that came."""

    method: str
    path: str
    headers: Message
    body: bytes

    @property
    def images(self) -> list[int]:
        """The first pixel of each image."""
        if HEADER_LENGTH in self.headers:
            return self._tensor_images()
        if self.body.startswith(b"\x93NUMPY"):
            array = np.load(io.BytesIO(self.body))
            return [int(image[0, 0]) for image in array]
        if self.body.startswith(b'{"instances"'):
            instances = json.loads(self.body)["instances"]
            return [first_pixel(base64.b64decode(instance["b64"])) for instance in instances]
        return [first_pixel(self.body)]

    def _tensor_images(self) -> list[int]:
        end = int(self.headers[HEADER_LENGTH])
        (tensor,) = json.loads(self.body[:end])["inputs"]
        raw = self.body[end:]
        assert tensor["parameters"]["binary_data_size"] == len(raw)
        if tensor["datatype"] == "BYTES":
            images = []
            while raw:
                (length,) = struct.unpack("<I", raw[:4])
                images.append(first_pixel(raw[4 : 4 + length]))
                raw = raw[4 + length :]
            return images
        dtype = {"UINT8": "u1", "FP32": "<f4"}[tensor["datatype"]]
        return [int(image[0, 0]) for image in np.frombuffer(raw, dtype).reshape(tensor["shape"])]


def first_pixel(body: bytes) -> int:
    """What the stub's model sees in an encoded image."""
    if body.startswith(b"\x89PNG"):
        with Image.open(io.BytesIO(body)) as image:
            return int(np.asarray(image.convert("L"))[0, 0])
    return int(body[6:]) if body.startswith(b"digit ") else REFUSED


@dataclass(frozen=True)
class Answer:
    """A response to send; `None` in its place drops the connection."""

    status: int
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)


Respond = Callable[[Asked], Answer | None]


def respond(asked: Asked) -> Answer:
    """Answer as the contract says."""
    if asked.path == "/v2/models/mnist/infer":
        return _respond_v2(asked.images)
    if asked.path != "/predictions/mnist":
        return Answer(404, {"code": 404, "type": "ResourceNotFoundException", "message": "?"})
    refusal = {"error": {"code": "no_digit", "message": "nothing\x1b[31m\nlegible"}}
    answers = [refusal if image == REFUSED else image for image in asked.images]
    if asked.body.startswith(b'{"instances"'):
        return Answer(200, {"predictions": answers})
    if asked.body.startswith(b"\x93NUMPY"):
        return Answer(422, refusal) if answers == [refusal] else Answer(200, answers)
    return Answer(422, refusal) if refusal in answers else Answer(200, answers[0])


def _respond_v2(images: list[int]) -> Answer:
    if REFUSED in images:
        return Answer(422, {"error": "no_digit: image 0: nothing legible"})
    digits = np.array(images, "<i8")
    probabilities = np.full((len(images), 10), 0.01, "<f4")
    probabilities[np.arange(len(images)), digits] = 0.91
    tensors = {"digit": ("INT64", digits), "probabilities": ("FP32", probabilities)}
    outputs = [
        {
            "name": name,
            "datatype": datatype,
            "shape": array.shape,
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, (datatype, array) in tensors.items()
    ]
    head = json.dumps({"model_name": "mnist", "outputs": outputs}).encode()
    body = head + digits.tobytes() + probabilities.tobytes()
    return Answer(200, body, {HEADER_LENGTH: str(len(head))})


class Stub:
    """The running server; set `respond` to make it misbehave."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.respond: Respond = respond
        self.under_way = 0
        self.most_under_way = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fail(self, count: int, answer: Answer | None) -> None:
        """Give this answer to the next `count` requests, then behave again."""
        left = [answer] * count

        def failing(asked: Asked) -> Answer | None:
            with self._lock:
                if left:
                    return left.pop()
            return respond(asked)

        self.respond = failing

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Headers and body go out together, or the client's delayed ACK costs 40 ms each time.
            wbufsize = -1

            def do_GET(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                self._answer()

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                asked = Asked(self.command, self.path, self.headers, body)
                with stub._lock:
                    stub.asked.append(asked)
                    stub.under_way += 1
                    stub.most_under_way = max(stub.most_under_way, stub.under_way)
                try:
                    answer = stub.respond(asked)
                finally:
                    with stub._lock:
                        stub.under_way -= 1
                if answer is None:
                    self.close_connection = True
                    return
                content = answer.body
                if not isinstance(content, bytes):
                    content = json.dumps(content).encode()
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        return Handler
