"""Many images in one request: a `.npy` file of uint8 [N,28,28], one request at a time."""

from __future__ import annotations

import http.client
import io
import statistics
import time

import numpy as np
from numpy.typing import NDArray

from benchmarks.processes import BenchmarkError, Running

SIZES = (1, 100, 1000, 5000)


def to_npy(images: NDArray[np.uint8]) -> bytes:
    """Images as the bytes of a `.npy` file."""
    buffer = io.BytesIO()
    np.save(buffer, images)
    return buffer.getvalue()


def measure(server: Running, images: NDArray[np.uint8], seconds: float) -> float:
    """Post the same file again and again on one connection.

    Args:
        images: [N,28,28].
        seconds: how long.

    Returns:
        Images a second at the median time of a request, sent to answered.

    Raises:
        BenchmarkError: an answer is not 200.
    """
    body = to_npy(images)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    times: list[float] = []
    try:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(times) < 3:
            begun = time.perf_counter()
            connection.request("POST", server.path, body, server.headers)
            answer = connection.getresponse()
            content = answer.read()
            times.append(time.perf_counter() - begun)
            if answer.status != 200:
                raise BenchmarkError(f"{server.name} answered {answer.status}: {content[:200]!r}")
    finally:
        connection.close()
    return len(images) / statistics.median(times)
