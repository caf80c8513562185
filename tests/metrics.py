"""Reading a server's metrics as Prometheus does, and sending it requests of every kind."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable

import numpy as np
import orjson
import requests
from numpy.typing import NDArray

from client.server import REPOSITORY, Server
from handler.metrics import LABEL_NAMES
from tests.conftest import TIMEOUT
from tests.images import b64, png

Series = tuple[str, str]
"""A counter's name, and the value of its one label, or of none."""

LINE = re.compile(r"(\w+)\{(.*)\} (\S+)")
LABEL = re.compile(r'(\w+)="([^"]*)"')
PHOTO = (REPOSITORY / "docs" / "five-on-paper.jpg").read_bytes()


def metrics_address(server: Server) -> str:
    assert server.port is not None
    return f"127.0.0.1:{server.port + 2}"


def read(server: Server) -> dict[Series, float]:
    """Every counter of the metrics address, without the labels that TorchServe adds."""
    answer = requests.get(f"http://{metrics_address(server)}/metrics", timeout=TIMEOUT)
    assert answer.status_code == 200
    counters = {}
    # Not prometheus_client's parser: it appends _total to counters' names, which Prometheus keeps.
    for line in answer.text.splitlines():
        if not line.startswith("#"):
            name, labels, value = LINE.fullmatch(line).groups()  # type: ignore[union-attr]
            label = dict(LABEL.findall(labels)).get(LABEL_NAMES.get(name), "")
            counters[name, label] = float(value)
    return counters


def read_until(server: Server, done: Callable[[dict[Series, float]], bool]) -> dict[Series, float]:
    """Every counter once they are as asked for, or else when no report can be on its way any more.

    The worker reports once a second, and a report can be read half-way.
    """
    deadline = time.monotonic() + 10
    while True:
        counters = read(server)
        if done(counters) or time.monotonic() > deadline:
            return counters
        time.sleep(0.1)


def npy(images: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    np.save(file, images)
    return file.getvalue()


def send_every_kind(server: Server, images: NDArray[np.uint8]) -> list[requests.Response]:
    """Nine requests, of every protocol, with images[:9] and a photo; the last is a form."""
    encoded = [b64(png(image)) for image in images[:9]]
    tensor = {"name": "images", "shape": [2], "datatype": "BYTES", "data": encoded[2:4]}
    requests_ = [
        ("/predictions/mnist", png(images[0])),
        ("/predictions/mnist", PHOTO),
        ("/predictions/mnist", npy(images[4:8])),
        ("/predictions/mnist", b"no image"),
        ("/predictions/mnist", b'{"broken": '),
        ("/v1/models/mnist:predict", {"instances": [{"b64": encoded[1]}, {"b64": "seven"}]}),
        ("/v2/models/mnist/infer", {"inputs": [tensor]}),
        ("/explanations/mnist", png(images[8])),
    ]
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {server.key}"
        return [
            session.post(
                server.url + path,
                data=body if isinstance(body, bytes) else orjson.dumps(body),
                headers={} if isinstance(body, bytes) else {"Content-Type": "application/json"},
                timeout=TIMEOUT,
            )
            for path, body in requests_
        ] + [
            session.post(
                f"{server.url}/predictions/mnist",
                files={"a": png(images[0]), "b": png(images[1])},
                timeout=TIMEOUT,
            )
        ]
