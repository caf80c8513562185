"""Draw the dashboard's picture of docs/operating.md: a real server, four minutes, varied requests.

python -m tests.deploy.live --model model_store/mnist.pt docs/dashboard.png docs/dashboard-dark.png

What happens in them: digits of every protocol all the time, at a rate that swells; in the second
minute photos and doubtful digits, in the third requests to be refused, in the fourth a burst.
"""

from __future__ import annotations

import argparse
import io
import math
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import requests
from numpy.typing import NDArray
from PIL import Image

from client.server import REPOSITORY, Server
from deploy.monitoring import draw
from evaluation import style
from handler import archive
from tests.conftest import TIMEOUT, serving
from tests.deploy.prometheus import prometheus
from tests.images import b64, malformed, npy, png
from tests.metrics import metrics_address
from training.data import read_mnist

SECONDS = 240
WARM_UP = 15  # left out of the picture: the first photo and explanation import what they need
RATE = 8  # seconds that rates are taken over
CLIENTS = 16
Send = Callable[[], object]


def photo(digit: NDArray[np.uint8], random: np.random.Generator) -> bytes:
    """A JPEG of dark ink on light, grainy paper, with a shadow from left to right."""
    ink = Image.fromarray(digit).resize((160, 160), Image.Resampling.BICUBIC)
    paper = np.linspace(235, 190, 240) + random.normal(0, 4, (240, 240))
    paper[30:190, 50:210] -= 0.75 * np.asarray(ink)
    file = io.BytesIO()
    Image.fromarray(paper.clip(0, 255).astype(np.uint8)).save(file, "JPEG")
    return file.getvalue()


def shares(second: float) -> dict[str, float]:
    """How often each kind of request is sent at this time, in parts of their sum."""
    photos, refusals = 60 <= second < 110, 130 <= second < 170
    return {
        "digit": 6,
        "array": 1,
        "form": 1,
        "v1": 2,
        "v2": 2,
        "explain": 0.1,
        "photo": 20 if photos else 0.3,
        "doubtful": 6 if photos else 0.1,
        "malformed": 5 if refusals else 0.1,
    }


def rate(second: float) -> float:
    """Requests a second at this time."""
    return 150 if 200 <= second < 215 else 25 + 15 * math.sin(second / 15)


class Load:
    """Sends requests of each kind with images of MNIST's test set."""

    def __init__(self, server: Server, seed: int = 0) -> None:
        self._images = read_mnist("test")[0]
        self._random = np.random.default_rng(seed)
        self._bad = [body for _, body in malformed(self._images[0]).values()]
        self._url = server.url
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {server.key}"
        self._session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=CLIENTS))

    def run(self, seconds: float = SECONDS) -> int:
        """Send for so long, at the rate above whatever the answers take; how many were sent."""
        sent = 0
        with ThreadPoolExecutor(CLIENTS) as clients:
            begun = due = time.monotonic()
            while due < begun + seconds:
                time.sleep(max(0.0, due - time.monotonic()))
                kinds = shares(due - begun)
                chances = np.array([*kinds.values()]) / sum(kinds.values())
                clients.submit(self.request(str(self._random.choice([*kinds], p=chances))))
                sent += 1
                due += 1 / rate(due - begun)
        return sent

    def request(self, kind: str) -> Send:
        """A request of that kind, to be called when it is to be sent."""
        some = self._images[self._random.integers(len(self._images), size=4)]
        encoded = [b64(png(image)) for image in some]
        predictions, explanations = "/predictions/mnist", "/explanations/mnist"
        if kind == "form":
            return self._post(predictions, files={"a": png(some[0]), "b": png(some[1])})
        if kind == "v1":
            document = {"instances": [{"b64": image} for image in encoded]}
            return self._post("/v1/models/mnist:predict", json=document)
        if kind == "v2":
            tensor = {"name": "images", "shape": [4], "datatype": "BYTES", "data": encoded}
            return self._post("/v2/models/mnist/infer", json={"inputs": [tensor]})
        bodies: dict[str, Callable[[], bytes]] = {
            "digit": lambda: png(some[0]),
            "explain": lambda: png(some[0]),
            "array": lambda: npy(some),
            "photo": lambda: photo(some[0], self._random),
            "doubtful": lambda: png(some[:2].mean(axis=0).astype(np.uint8)),
            "malformed": lambda: self._bad[self._random.integers(len(self._bad))],
        }
        path = explanations if kind == "explain" else predictions
        return self._post(path, data=bodies[kind]())

    def _post(self, path: str, **body: object) -> Send:
        return lambda: self._session.post(self._url + path, timeout=TIMEOUT, **body)  # type: ignore[arg-type]


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=REPOSITORY / "model_store" / "mnist.pt")
    parser.add_argument("light", type=Path)
    parser.add_argument("dark", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        with (
            serving(archive.build(options.model, store)) as server,
            prometheus(metrics_address(server), store) as url,
        ):
            load = Load(server)
            load.run(WARM_UP)
            begun = time.time() + RATE  # so that no rate looks back into it
            print(f"{load.run()} requests")
            window = draw.Window(begun, time.time(), f"{RATE}s")
            panels = draw.fill(url, window)
    for dark, path in ((False, options.light), (True, options.dark)):
        with style.theme(dark=dark):
            style.save(draw.draw(panels, window), path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
