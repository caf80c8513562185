"""The client library against a real TorchServe: all of MNIST, and a worker that is killed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from client import DigitClient
from client.server import Server
from handler.model import DigitModel
from tests.conftest import serving
from tests.served.test_predictions import worker_pids

Images = NDArray[np.uint8]


@pytest.fixture(scope="module")
def images(mnist_test: tuple[Images, NDArray[np.int64]]) -> Images:
    return mnist_test[0]


@pytest.fixture(scope="module")
def expected(model: DigitModel, images: Images) -> list[int]:
    digits: list[int] = model.predict(images)[0].tolist()
    return digits


@pytest.fixture
def own_server(archive: Path) -> Iterator[Server]:
    """A server whose worker may be killed."""
    with serving(archive) as running:
        yield running


def test_all_of_mnist_in_bulk(server: Server, images: Images, expected: list[int]) -> None:
    with DigitClient(server.url, server.key) as client:
        client.predict(images[:1000])
        start = time.perf_counter()
        predictions = client.predict(images)
        seconds = time.perf_counter() - start
    assert [prediction.digit for prediction in predictions] == expected
    # Measured, not asserted: it is the machine's as much as ours. `pytest -rP` shows it.
    print(f"10,000 images in {seconds:.2f} s")


def test_probabilities_are_the_models(server: Server, images: Images, model: DigitModel) -> None:
    with DigitClient(server.url, server.key) as client:
        predictions = client.predict(images[:1000], probabilities=True)
    served = np.array([prediction.probabilities for prediction in predictions])
    assert np.allclose(served, model.predict(images[:1000])[1], atol=1e-6)


def test_a_worker_killed_half_way_costs_no_image(
    own_server: Server, images: Images, expected: list[int]
) -> None:
    (worker,) = worker_pids(own_server)
    reports: list[int] = []

    def kill_half_way(done: int, total: int) -> None:
        if done >= total // 2 > max(reports, default=0):
            psutil.Process(worker).kill()
        reports.append(done)

    with DigitClient(own_server.url, own_server.key, images_per_request=100) as client:
        predictions = client.predict(images, progress=kill_half_way)
    assert not psutil.pid_exists(worker)
    assert reports[-1] == 10_000
    assert [prediction.digit for prediction in predictions] == expected
    assert worker_pids(own_server).isdisjoint({worker})
