"""The client library: images in, digits out, whatever happens on the way.

>>> from client import DigitClient
>>> with DigitClient() as client:                       # a server must run: make start
...     print(client.predict("seven.png")[0].digit)
7
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from client import explain, openinference, protocol
from client.errors import ClientError, Refused, ServerBusy, ServerUnreachable
from client.explain import Explanation
from client.images import Encoded, ImageLike, Pixels, as_items, encode, size
from client.keys import Keys
from client.prediction import Prediction, raise_lost
from client.transport import Transport

DEFAULT_URL = "http://127.0.0.1:8080"
PIXELS_PER_REQUEST = 1000  # images: 0.8 MB of uint8, 3.1 MB of float32
ENCODED_PER_REQUEST = 64
BYTES_PER_REQUEST = 2_000_000  # of encoded images; TorchServe's default limit is 6.5 MB
CONNECTIONS = 4

Progress = Callable[[int, int], None]
"""Called as `progress(done, total)`, in images, from the thread that called `predict`."""


class DigitClient:
    """Predicts digits on a server. Safe to use from several threads.

    It finds the server and the key by itself. Each of them is looked for in the arguments, then
    in the environment (MNIST_URL, MNIST_KEY, MNIST_KEY_FILE, MNIST_MANAGEMENT_URL), then where
    `make start` puts them: http://127.0.0.1:8080, and key_file.json in the working directory or
    in the repository's root. A key that has expired is renewed through the management API, which
    is looked for on the server's next port (8081).

    Args:
        url: the server's inference address.
        key: the inference key.
        key_file: the key file that TorchServe wrote.
        timeout: seconds that one attempt of one request may take.
        deadline: seconds that all attempts of one request may take together.
        connections: requests that are under way at the same time, at most.
        images_per_request: an upper limit; 1 sends each image alone.

    Raises:
        ValueError: the URL is none.
    """

    def __init__(  # noqa: PLR0913  (settings with defaults, by keyword)
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        key_file: str | os.PathLike[str] | None = None,
        timeout: float = 10.0,
        deadline: float = 60.0,
        connections: int = CONNECTIONS,
        images_per_request: int = PIXELS_PER_REQUEST,
    ) -> None:
        self.url = _http_url(url or os.environ.get("MNIST_URL") or DEFAULT_URL)
        management = os.environ.get("MNIST_MANAGEMENT_URL") or _management_url(self.url)
        keys = Keys(key, Path(key_file) if key_file else None, self.url, _http_url(management))
        self._transport = Transport(self.url, keys, timeout, deadline)
        self._pool = ThreadPoolExecutor(connections, thread_name_prefix="digit-client")
        self._images_per_request = images_per_request

    def __enter__(self) -> DigitClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:  # interrupted or lost: do not wait for what is under way
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._transport.close()

    def close(self) -> None:
        """Wait for the requests under way and close the connections."""
        self._pool.shutdown()
        self._transport.close()

    def predict(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        probabilities: bool = False,
        progress: Progress | None = None,
    ) -> list[Prediction]:
        """Predict one image or a hundred thousand; the answers are in the order of the images.

        28×28 arrays travel a thousand to a request, encoded images up to 64. A refused image
        never costs its neighbours their answers. If the server is lost half-way, the images
        that had no answer say so in their `error`.

        Args:
            images: one image, many, or an iterable of single ones. One image is a path (`str` or
                `os.PathLike`), the bytes of an image file, a Pillow image, or an array or tensor:
                [28, 28] (also with a channel dimension, or [784]), any other [H, W], or
                [H, W, 3 or 4]. An array [N, 28, 28], [N, 1, 28, 28] or [N, 784] is many.
                Numbers are integers 0..255 or floats 0..1.
            probabilities: ask for them too (Open Inference Protocol v2).
            progress: called with the images done and all of them.

        Raises:
            TypeError, ValueError: something is no image, before anything is sent.
            ServerUnreachable, ServerFailed, Unauthorized, NotOffered: no image had an answer.

        >>> images = np.zeros((2, 28, 28), np.uint8)
        >>> images[:, 5:23, 13:15] = 255
        >>> [prediction.digit for prediction in DigitClient().predict(images)]
        [1, 1]
        """
        items = as_items(images)
        results: list[Prediction] = [Prediction(None)] * len(items)
        stop = threading.Event()  # the server is lost, or the caller interrupted
        busy = threading.Event()  # an image has waited until its deadline: no other waits as long
        lost: ClientError | None = None
        jobs: dict[Future[list[Prediction]], list[int]] = {}
        done = 0
        try:
            for indices in self._chunks(items):
                chunk = [items[index] for index in indices]
                job = self._pool.submit(self._predict_chunk, chunk, probabilities, stop, busy)
                jobs[job] = indices
            for job in as_completed(jobs):
                indices = jobs[job]
                try:
                    answers = job.result()
                except ClientError as error:
                    stop.set()
                    lost = lost or error
                    answers = [Prediction(None, error=lost)] * len(indices)
                for index, answer in zip(indices, answers, strict=True):
                    results[index] = answer
                done += len(indices)
                if progress:
                    progress(done, len(items))
        finally:
            stop.set()
        if all(result.failure for result in results):
            raise_lost(results)
        return results

    def explain(self, image: ImageLike, *, target: int | None = None) -> Explanation:
        """Ask which pixels spoke for a digit. It costs the server as much as a hundred predictions.

        Args:
            image: one image, in any form that `predict` takes.
            target: the digit to explain, 0..9; by default the predicted one.

        Raises:
            TypeError, ValueError: it is not one image.
            Refused: the image shows no digit, cannot be read, or there is no such target.
            ServerUnreachable, ServerFailed, Unauthorized, NotOffered: there was no answer.
        """
        items = as_items(image)
        if len(items) != 1:
            raise ValueError(f"expected one image, got {len(items)}")
        item = items[0]
        body = protocol.npy(item) if isinstance(item, np.ndarray) else encode(item)
        request = explain.request(body, target)
        return explain.explanation(self._transport.post(request, threading.Event()))

    def _chunks(self, items: list[Pixels | Encoded]) -> Iterator[list[int]]:
        """Split into requests: the indices of images of one kind, within the limits."""
        chunks: dict[str, list[int]] = {}
        volumes: dict[str, int] = {}
        for index, item in enumerate(items):
            if isinstance(item, np.ndarray):
                kind, limit, volume = item.dtype.name, PIXELS_PER_REQUEST, 0
            else:
                kind, limit, volume = "encoded", ENCODED_PER_REQUEST, size(item)
            chunk = chunks.setdefault(kind, [])
            full = len(chunk) >= min(limit, self._images_per_request)
            if chunk and (full or volumes[kind] + volume > BYTES_PER_REQUEST):
                yield chunk
                chunk = chunks[kind] = []
            chunk.append(index)
            volumes[kind] = (volumes[kind] if len(chunk) > 1 else 0) + volume
        yield from chunks.values()

    def _predict_chunk(
        self, items: list[Any], probabilities: bool, stop: threading.Event, busy: threading.Event
    ) -> list[Prediction]:
        """Predict images of one kind, in a thread of the pool."""
        _check(stop)
        if isinstance(items[0], np.ndarray):
            return self._ask(np.stack(items), probabilities, stop, busy)
        bodies: list[bytes] = []
        refused: dict[int, Prediction] = {}
        for index, item in enumerate(items):
            try:
                bodies.append(encode(item))
            except Refused as error:
                refused[index] = Prediction(None, error=error)
        answers = iter(self._ask(bodies, probabilities, stop, busy)) if bodies else iter(())
        return [refused.get(index) or next(answers) for index in range(len(items))]

    def _ask(
        self,
        images: list[bytes] | Pixels,
        probabilities: bool,
        stop: threading.Event,
        busy: threading.Event,
    ) -> list[Prediction]:
        """Send one request; if it is refused as a whole, halve it until the culprits are alone.

        Images that the server had no time for, beside those that it answered, are sent again.
        """
        request, read = protocol.request, protocol.predictions
        if probabilities:
            request, read = openinference.request, openinference.predictions
        alone = len(images) == 1
        try:
            answer = self._transport.post(request(images), stop, alone and not busy.is_set())
        except (Refused, ServerBusy) as error:
            if alone:
                if isinstance(error, ServerBusy):
                    busy.set()
                return [Prediction(None, error=error)]
        else:
            predictions = read(answer, len(images))
            left = [i for i, each in enumerate(predictions) if isinstance(each.error, ServerBusy)]
            if 0 < len(left) < len(images):  # it gets on
                _check(stop)
                again = (
                    images[left] if isinstance(images, np.ndarray) else [images[i] for i in left]
                )
                answers = self._ask(again, probabilities, stop, busy)
                for index, prediction in zip(left, answers, strict=True):
                    predictions[index] = prediction
            return predictions
        _check(stop)
        half = len(images) // 2
        return [
            *self._ask(images[:half], probabilities, stop, busy),
            *self._ask(images[half:], probabilities, stop, busy),
        ]


def _check(stop: threading.Event) -> None:
    if stop.is_set():
        raise ServerUnreachable("not sent: the server was lost, or the call interrupted")


def _http_url(url: str) -> str:
    """Accept `host:port` as well, and check that there is a host."""
    url = (url if "://" in url else f"http://{url}").rstrip("/")
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # the port is no number
        valid = False
    if not valid:
        raise ValueError(f"expected a URL such as {DEFAULT_URL}, got {url!r}")
    return url


def _management_url(url: str) -> str:
    """TorchServe's management API: by default, and by `make start`, on the next port."""
    parts = urlsplit(url)
    host, _, _ = parts.netloc.rpartition(":") if parts.port else (parts.netloc, "", "")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"{parts.scheme}://{host}:{port + 1}"
