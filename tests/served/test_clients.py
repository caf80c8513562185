"""Other people's clients get the digits of the model, alone and all at once."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from kserve import InferenceRESTClient, RESTConfig
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from client.server import REPOSITORY, Server
from handler.model import DigitModel
from tests.images import b64, png
from tests.served.clients import BATCH, CLIENTS, Images, authorization, in_form, kserve_infer
from tests.served.test_predictions import worker_pids

COUNT = 1000


@pytest.fixture(scope="module")
def images(mnist_test: tuple[Images, NDArray[np.int64]]) -> Images:
    return mnist_test[0][:COUNT]


@pytest.fixture(scope="module")
def expected(model: DigitModel, images: Images) -> list[int]:
    digits: list[int] = model.predict(images)[0].tolist()
    return digits


def ask(server: Server, name: str, images: Images) -> list[int]:
    """All the images, a batch after the other."""
    digits: list[int] = []
    for start in range(0, len(images), BATCH):
        digits += CLIENTS[name](server, images[start : start + BATCH])
    return digits


@pytest.mark.parametrize("name", CLIENTS)
def test_each_client_alone(server: Server, images: Images, expected: list[int], name: str) -> None:
    assert ask(server, name, images) == expected


def test_all_clients_at_once(server: Server, images: Images, expected: list[int]) -> None:
    worker = worker_pids(server)
    with ThreadPoolExecutor(len(CLIENTS)) as pool:
        jobs = {name: pool.submit(ask, server, name, images) for name in CLIENTS}
    wrong = [name for name, job in jobs.items() if job.result() != expected]
    assert wrong == []
    assert worker_pids(server) == worker


@pytest.fixture
def client(server: Server) -> Any:
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as opened:
        yield opened


def tensor(images: Images) -> Any:
    """Images as tritonclient's input tensor."""
    given = triton.InferInput("images", list(images.shape), "UINT8")
    given.set_data_from_numpy(images)
    return given


def test_triton_reads_outputs_and_classes(
    client: Any, server: Server, images: Images, model: DigitModel
) -> None:
    digits, probabilities = model.predict(images[:10])
    headers = authorization(server)
    whole = client.infer("mnist", [tensor(images[:10])], headers=headers, request_id="a")
    assert whole.get_response()["id"] == "a"
    assert np.array_equal(whole.as_numpy("digit"), digits)
    assert np.allclose(whole.as_numpy("probabilities"), probabilities, atol=1e-6)
    for binary in (True, False):
        top = triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=3)
        answer = client.infer("mnist", [tensor(images[:10])], outputs=[top], headers=headers)
        assert answer.as_numpy("digit") is None
        classes = np.asarray(answer.as_numpy("probabilities"), str)
        assert classes.shape == (10, 3)
        for row, digit, chances in zip(classes, digits, probabilities, strict=True):
            value, index, label = row[0].split(":")
            assert int(index) == int(label) == digit
            assert float(value) == pytest.approx(float(chances.max()), abs=1e-6)


def test_refusals_become_the_clients_own_exceptions(
    client: Any, server: Server, images: Images
) -> None:
    blank = np.zeros((1, 28, 28), np.uint8)
    with pytest.raises(InferenceServerException) as raised:
        client.infer("mnist", [tensor(blank)], headers=authorization(server))
    assert raised.value.status() == "422"
    assert raised.value.message().startswith("no_digit: image 0: ")
    with pytest.raises(httpx.HTTPStatusError, match="expected at least one instance"):
        kserve_infer(server, "v1", {"instances": []})
    with pytest.raises(InferenceServerException, match="Token Authorization failed"):
        client.infer("mnist", [tensor(images[:1])])


def test_kserve_explains(server: Server, images: Images) -> None:
    async def explain() -> Any:
        async with InferenceRESTClient(RESTConfig(protocol="v1")) as client:
            files, _ = in_form(images[:2], "base64")
            body = {"instances": [{"b64": file} for file in files]}
            return await client.explain(server.url, "mnist", body, authorization(server))

    explanations = asyncio.run(explain())["explanations"]
    assert np.shape([explanation["attributions"] for explanation in explanations]) == (2, 28, 28)


def test_the_code_in_the_docs(
    server: Server, images: Images, expected: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    text = (REPOSITORY / "docs" / "protocols.md").read_text()
    v1, v2 = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {"key": server.key, "pixels": images, "image_as_base64": b64(png(images[0]))}
    for code in (v1, v2):
        exec(code.replace("127.0.0.1:8080", server.url.removeprefix("http://")), names)  # noqa: S102
    assert capsys.readouterr().out == f"{{'predictions': [{expected[0]}]}}\n"
    answer: Any = names["answer"]
    assert answer.as_numpy("digit").tolist() == expected
    names["client"].close()  # type: ignore[attr-defined]


def test_what_torchserve_does_not_answer(client: Any, server: Server) -> None:
    """docs/protocols.md lists these; should one begin to work, it is wrong."""
    headers = authorization(server)
    assert not client.is_server_live(headers=headers)
    assert not client.is_server_ready(headers=headers)
    assert not client.is_model_ready("mnist", headers=headers)
    for missing in (
        client.get_server_metadata,
        lambda **k: client.get_model_metadata("mnist", **k),
    ):
        with pytest.raises(InferenceServerException, match="Requested resource is not found"):
            missing(headers=headers)
    with pytest.raises(InferenceServerException, match="Requested resource is not found"):
        client.infer("mnist", [tensor(np.zeros((1, 28, 28), np.uint8))], "1.0", headers=headers)

    async def statuses(protocol: str) -> list[int]:
        found = []
        async with InferenceRESTClient(RESTConfig(protocol=protocol)) as kserve:
            questions: list[Callable[[], Awaitable[Any]]] = [
                lambda: kserve.is_server_live(server.url, authorization(server)),
                lambda: kserve.is_model_ready(server.url, "mnist", authorization(server)),
            ]
            for question in questions:
                try:
                    found.append(200 if await question() else 0)
                except httpx.HTTPStatusError as error:
                    found.append(error.response.status_code)
        return found

    assert asyncio.run(statuses("v1")) == [405, 404]
    assert asyncio.run(statuses("v2")) == [404, 0]
