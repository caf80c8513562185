"""The contract's rows on a real TorchServe, with the habits of real clients."""

from __future__ import annotations

import json
import random
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import requests
from numpy.typing import NDArray

from client.server import Server
from handler.model import DigitModel
from tests.conftest import TIMEOUT, workers_of
from tests.images import b64, malformed, npy, png

Mnist = tuple[NDArray[np.uint8], NDArray[np.int64]]


def predict(session: requests.Session, server: Server, body: bytes) -> requests.Response:
    return session.post(f"{server.url}/predictions/mnist", data=body, timeout=TIMEOUT)


@pytest.fixture(scope="module")
def expected(model: DigitModel, mnist_test: Mnist) -> NDArray[np.int64]:
    return model.predict(mnist_test[0])[0]


def test_every_test_image_as_png_gets_the_digit_of_the_model(
    server: Server, session: requests.Session, mnist_test: Mnist, expected: NDArray[np.int64]
) -> None:
    bodies = [png(image) for image in mnist_test[0]]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda body: predict(session, server, body), bodies))
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["Content-Type"] for answer in answers} == {"application/json"}
    served = np.array([answer.json() for answer in answers])
    assert int((served == expected).sum()) == 10_000


def test_bulk_npy_gets_the_digits_of_the_model(
    server: Server, session: requests.Session, mnist_test: Mnist, expected: NDArray[np.int64]
) -> None:
    images = mnist_test[0]
    forms: list[NDArray[Any]] = [
        images,
        images[:, None],
        images.reshape(-1, 784),
        images / np.float32(255),
    ]
    for form in forms:
        answer = predict(session, server, npy(form))
        assert answer.status_code == 200
        assert answer.json() == expected.tolist()


def test_instances_get_the_digits_of_the_model(
    server: Server, session: requests.Session, mnist_test: Mnist, expected: NDArray[np.int64]
) -> None:
    served: list[int] = []
    for start in range(0, 10_000, 1000):
        images = mnist_test[0][start : start + 1000]
        instances = [{"b64": b64(png(image))} for image in images]
        answer = session.post(
            f"{server.url}/v1/models/mnist:predict", json={"instances": instances}, timeout=TIMEOUT
        )
        served += answer.json()["predictions"]
    assert served == expected.tolist()


def test_each_form_of_an_instance(
    server: Server, session: requests.Session, mnist_test: Mnist, expected: NDArray[np.int64]
) -> None:
    one, two, three, four, five = mnist_test[0][:5]
    instances = [
        {"b64": b64(png(one))},
        {"data": b64(png(two))},
        three.tolist(),
        [(four / 255).tolist()],
        five.ravel().tolist(),
        {"b64": "%%%"},
        {"unknown": 1},
    ]
    for address in ("predictions/mnist", "v1/models/mnist:predict"):
        answer = session.post(
            f"{server.url}/{address}", json={"instances": instances}, timeout=TIMEOUT
        )
        predictions = answer.json()["predictions"]
        assert answer.status_code == 200
        assert predictions[:5] == expected[:5].tolist()
        assert [bad["error"]["code"] for bad in predictions[5:]] == ["unreadable", "unreadable"]


def test_the_habits_of_clients(
    server: Server,
    session: requests.Session,
    mnist_test: Mnist,
    expected: NDArray[np.int64],
    tmp_path: Path,
) -> None:
    file = tmp_path / "digit.png"
    file.write_bytes(png(mnist_test[0][0]))
    url = f"{server.url}/predictions/mnist"
    digit = str(expected[0])
    key = f"Authorization: Bearer {server.key}"
    for habit in (["-T", file], ["-F", f"data=@{file}"], ["-F", f"body=@{file}"]):
        command = ["curl", "--silent", "--max-time", str(TIMEOUT), "-H", key, *habit, url]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert printed == digit
    body = file.read_bytes()
    for content_type in ("image/png", "text/plain", "application/json", "nonsense"):
        headers = {"Content-Type": content_type}
        answer = session.post(url, data=body, headers=headers, timeout=TIMEOUT)
        assert answer.text == digit


def test_several_fields_answer_by_name(
    server: Server, session: requests.Session, mnist_test: Mnist, expected: NDArray[np.int64]
) -> None:
    url = f"{server.url}/predictions/mnist"
    files = {"left": png(mnist_test[0][0]), "right": png(mnist_test[0][1]), "bad": b"seven"}
    answer = session.post(url, files=files, timeout=TIMEOUT)
    assert answer.status_code == 200
    assert answer.json()["left"] == expected[0]
    assert answer.json()["right"] == expected[1]
    assert answer.json()["bad"]["error"]["code"] == "unreadable"
    alone = session.post(url, files={"photo": png(mnist_test[0][0])}, timeout=TIMEOUT)
    assert alone.json() == {"photo": expected[0]}


def test_a_form_that_torchserve_drops_is_explained(
    server: Server, session: requests.Session
) -> None:
    answer = session.post(
        f"{server.url}/predictions/mnist",
        data=b"x",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
        timeout=TIMEOUT,
    )
    assert answer.status_code == 400
    assert "curl -T" in answer.json()["error"]["message"]


def test_bad_requests_disturb_nobody(
    server: Server, session: requests.Session, mnist_test: Mnist, expected: NDArray[np.int64]
) -> None:
    """1,000 good and 1,000 malformed requests in the same batches."""
    images = mnist_test[0]
    bad = list(malformed(images[0]).values())
    jobs: list[tuple[int, bytes]] = [(int(expected[i]), png(images[i])) for i in range(1000)]
    jobs += [bad[i % len(bad)] for i in range(1000)]
    random.Random(0).shuffle(jobs)
    worker = worker_pids(server)
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda job: predict(session, server, job[1]), jobs))
    for (wanted, _), answer in zip(jobs, answers, strict=True):
        if wanted < 10:
            assert (answer.status_code, answer.text) == (200, str(wanted))
        else:
            assert answer.status_code == wanted
            assert len(answer.json()["error"]["message"]) > 20
    assert worker_pids(server) == worker


@pytest.mark.parametrize("name", malformed(np.zeros((28, 28), np.uint8)))
def test_each_malformed_body_gets_its_status_and_a_reason(
    server: Server, session: requests.Session, mnist_test: Mnist, name: str
) -> None:
    status, body = malformed(mnist_test[0][0])[name]
    answer = predict(session, server, body)
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/json"
    error = answer.json()["error"]
    assert set(error) == {"code", "message"}
    assert "Traceback" not in answer.text


def test_a_body_over_the_limit_is_refused(server: Server, session: requests.Session) -> None:
    assert predict(session, server, bytes(34_000_000)).status_code == 413


def test_client_headers_change_nothing(
    server: Server, session: requests.Session, mnist_test: Mnist, expected: NDArray[np.int64]
) -> None:
    for headers in ({"explain": "True"}, {"Explain": "True"}, {"describe": "True"}, {"body": "x"}):
        answer = session.post(
            f"{server.url}/predictions/mnist",
            data=png(mnist_test[0][0]),
            headers=headers,
            timeout=TIMEOUT,
        )
        assert answer.text == str(expected[0])


def test_no_key_no_answer(server: Server, mnist_test: Mnist) -> None:
    body = png(mnist_test[0][0])
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        url = f"{server.url}/predictions/mnist"
        answer = requests.post(url, data=body, headers=headers, timeout=TIMEOUT)
        assert answer.status_code == 400
        assert "Token Authorization failed" in answer.text


def test_models_cannot_be_registered(server: Server) -> None:
    management = f"http://127.0.0.1:{(server.port or 0) + 1}"
    keys = json.loads((server.home / "key_file.json").read_text())
    answer = requests.post(
        f"{management}/models",
        params={"url": "mnist.mar"},
        headers={"Authorization": f"Bearer {keys['management']['key']}"},
        timeout=TIMEOUT,
    )
    assert answer.status_code == 405


def test_the_archive_serves_its_own_code(server: Server) -> None:
    """The worker runs in the unpacked archive, not in a checkout that happens to be importable."""
    (pid,) = worker_pids(server)
    assert Path(psutil.Process(pid).cwd()).is_relative_to(server.run_dir)


def worker_pids(server: Server) -> set[int]:
    return {worker.pid for worker in workers_of(server)}
