"""Explanations on a real TorchServe: Captum's own numbers, and no burden to predictions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import requests
import torch
from captum.attr import IntegratedGradients
from numpy.typing import NDArray

from client.server import Server
from handler.explain import LEAST_CHANGE, MAX_ERROR, METHOD
from handler.model import DigitModel
from handler.preprocessing import to_tensor
from tests.conftest import TIMEOUT
from tests.images import b64, npy, png
from tests.served.test_predictions import worker_pids

Images = NDArray[np.uint8]
COUNT = 100


@pytest.fixture(scope="module")
def images(mnist_test: tuple[Images, NDArray[np.int64]]) -> Images:
    return mnist_test[0]


@pytest.fixture(scope="module")
def expected(model: DigitModel, images: Images) -> list[int]:
    digits: list[int] = model.predict(images[:1000])[0].tolist()
    return digits


def explain(session: requests.Session, server: Server, image: Images) -> dict[str, Any]:
    url = f"{server.url}/explanations/mnist"
    answer = session.post(url, data=png(image), timeout=TIMEOUT)
    assert answer.status_code == 200
    explanation: dict[str, Any] = answer.json()
    return explanation


def in_process(model: DigitModel, image: Images, explanation: dict[str, Any]) -> torch.Tensor:
    """Captum's attributions of the same target, with as many steps as the server took."""
    tensor = to_tensor(image[None])
    attributions: torch.Tensor = IntegratedGradients(model._network).attribute(
        tensor,
        torch.zeros_like(tensor),
        target=explanation["target"],
        n_steps=explanation["steps"],
        method=METHOD,
        internal_batch_size=256,
    )
    return attributions[0, 0].detach()


def test_explanations_are_captums_and_complete(
    server: Server,
    session: requests.Session,
    images: Images,
    model: DigitModel,
    expected: list[int],
) -> None:
    blank = np.zeros((1, 28, 28), np.uint8)
    with torch.no_grad():
        baseline = model._network(to_tensor(blank))[0]
        logits = model._network(to_tensor(images[:COUNT]))
    for index in range(COUNT):
        explanation = explain(session, server, images[index])
        digit = explanation["digit"]
        assert digit == explanation["target"] == expected[index]
        served = torch.tensor(explanation["attributions"])
        assert served.shape == (28, 28)
        own = in_process(model, images[index], explanation)
        assert float((served - own).abs().max()) <= 1e-4
        change = float(logits[index, digit] - baseline[digit])
        gap = abs(float(served.sum()) - change)
        assert gap <= MAX_ERROR * max(abs(change), LEAST_CHANGE) + 1e-4
        assert explanation["completeness_error"] == pytest.approx(gap / abs(change), abs=1e-2)


def test_another_target_and_the_v1_form(
    server: Server, session: requests.Session, images: Images, model: DigitModel
) -> None:
    instances = [{"b64": b64(png(image))} for image in images[:3]]
    answer = session.post(
        f"{server.url}/v1/models/mnist:explain",
        json={"instances": instances, "target": 3},
        timeout=TIMEOUT,
    )
    explanations = answer.json()["explanations"]
    assert [explanation["target"] for explanation in explanations] == [3, 3, 3]
    for image, explanation in zip(images[:3], explanations, strict=True):
        served = torch.tensor(explanation["attributions"])
        assert torch.allclose(served, in_process(model, image, explanation), atol=1e-4)
    files = {"data": png(images[0]), "target": b"3"}
    form = session.post(f"{server.url}/explanations/mnist", files=files, timeout=TIMEOUT).json()
    assert form == explanations[0]


def test_explanations_of_other_digits_are_complete_as_well(
    model: DigitModel, images: Images, expected: list[int]
) -> None:
    """Also where the network hardly has an opinion on the digit that is asked for."""
    blank = np.zeros((1, 28, 28), np.uint8)
    with torch.no_grad():
        changes = model._network(to_tensor(images[:COUNT])) - model._network(to_tensor(blank))
    for index in range(COUNT):
        target = (expected[index] + 1 + index % 9) % 10
        attribution = model.explain(images[index : index + 1], target)
        change = float(changes[index, target])
        gap = abs(float(attribution.values.sum()) - change)
        assert gap <= MAX_ERROR * max(abs(change), LEAST_CHANGE) + 1e-4


def test_explanations_do_not_disturb_predictions(
    server: Server, session: requests.Session, images: Images, expected: list[int]
) -> None:
    """1,000 predictions and 5 explanations at once, in the same batches."""
    worker = worker_pids(server)
    alone = [explain(session, server, image) for image in images[:5]]

    def predict(image: Images) -> requests.Response:
        url = f"{server.url}/predictions/mnist"
        return session.post(url, data=npy(image), timeout=TIMEOUT)

    with ThreadPoolExecutor(16) as pool:
        explained = pool.map(lambda image: explain(session, server, image), images[:5])
        predicted = list(pool.map(predict, images[:1000]))
        assert list(explained) == alone
    assert {answer.status_code for answer in predicted} == {200}
    assert [answer.json() for answer in predicted] == expected
    assert worker_pids(server) == worker


def test_more_explanations_than_fit_are_refused_in_time(
    server: Server, session: requests.Session, images: Images, expected: list[int]
) -> None:
    """All in one batch, these would keep the worker silent for longer than TorchServe allows."""
    worker = worker_pids(server)
    instances = [{"b64": b64(png(image))} for image in images[:32]]
    body = {"instances": instances, "target": 3}  # most need many steps: it is not their digit

    def explain_all(_: int) -> list[dict[str, Any]]:
        url = f"{server.url}/v1/models/mnist:explain"
        answer = session.post(url, json=body, timeout=TIMEOUT)
        assert answer.status_code in (200, 503)
        explanations: list[dict[str, Any]] = answer.json()["explanations"]
        return explanations

    def predict(image: Images) -> int:
        url = f"{server.url}/predictions/mnist"
        digit: int = session.post(url, data=npy(image), timeout=TIMEOUT).json()
        return digit

    with ThreadPoolExecutor(16) as pool:
        asked = pool.map(explain_all, range(8))
        assert list(pool.map(predict, images[:100])) == expected[:100]
        explanations = [explanation for answer in asked for explanation in answer]
    assert len(explanations) == 8 * 32
    codes = {item["error"]["code"] for item in explanations if "error" in item}
    assert codes == {"busy"}
    assert any("attributions" in item for item in explanations)
    assert worker_pids(server) == worker
