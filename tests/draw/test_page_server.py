"""The page's server without a browser: what it answers, and to whom."""

from __future__ import annotations

from collections.abc import Iterator
from http.client import HTTPConnection

import numpy as np
import pytest
import requests
from numpy.typing import NDArray

from client import DigitClient
from client.draw import MAX_BYTES, DrawServer
from client.errors import UsageError
from client.server import REPOSITORY, Server
from handler.model import DigitModel
from handler.preprocessing import prepare_image
from tests.draw.conftest import drawing
from tests.images import npy, png

FIVE = (REPOSITORY / "docs" / "five-on-paper.jpg").read_bytes()


@pytest.fixture
def lonely() -> Iterator[DrawServer]:
    """One whose TorchServe is down."""
    with DigitClient("http://127.0.0.1:1", "key", deadline=1) as client, drawing(client) as it:
        yield it


def test_a_photo_gets_its_digit_and_what_was_seen(
    page_server: DrawServer, model: DigitModel
) -> None:
    answer = requests.post(f"{page_server.url}predict", FIVE, timeout=20)
    assert answer.status_code == 200
    seen = prepare_image(FIVE)
    digits, probabilities = model.predict(seen[None])
    assert answer.json()["digit"] == digits[0] == 5
    assert np.allclose(answer.json()["probabilities"], probabilities[0], atol=1e-6)
    assert answer.json()["seen"] == seen.ravel().tolist()


def test_an_explanation_is_of_that_digit(page_server: DrawServer) -> None:
    answer = requests.post(f"{page_server.url}explain", FIVE, timeout=20).json()
    assert answer["target"] == 5
    assert len(answer["attributions"]) == 784


def test_a_refusal_has_its_reason(page_server: DrawServer) -> None:
    answer = requests.post(f"{page_server.url}predict", b"seven", timeout=20)
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "unreadable"


def test_a_file_that_is_no_picture_is_refused_as_one(page_server: DrawServer) -> None:
    """The model's server takes arrays as well; the page has nothing to show of them."""
    answer = requests.post(f"{page_server.url}predict", npy(prepare_image(FIVE)), timeout=20)
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "unreadable"


def test_the_key_stays_here(page_server: DrawServer, server: Server) -> None:
    for path in ("", "draw.js", "draw.css", "health"):
        answer = requests.get(f"{page_server.url}{path}", timeout=20)
        assert answer.status_code == 200
        assert server.key not in answer.text + str(answer.headers)
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ],
)
@pytest.mark.parametrize("path", ["", "health", "predict"])
def test_other_sites_are_refused(
    page_server: DrawServer, headers: dict[str, str], path: str
) -> None:
    method = "POST" if path == "predict" else "GET"
    answer = requests.request(
        method, page_server.url + path, headers=headers, data=FIVE, timeout=20
    )
    assert answer.status_code == 403
    assert answer.json()["error"]["message"] == f"this page is for {page_server.url} alone"


def test_its_own_page_is_not(page_server: DrawServer) -> None:
    """The counterpart of the above: it is the headers that are refused."""
    for host in page_server.hosts:
        headers = {"Host": host, "Origin": f"http://{host}"}
        answer = requests.post(f"{page_server.url}predict", FIVE, headers=headers, timeout=20)
        assert answer.json()["digit"] == 5


@pytest.mark.parametrize(
    ("length", "status"), [(str(MAX_BYTES + 1), 413), ("-1", 411), ("many", 411), (None, 411)]
)
def test_a_body_is_bounded_before_it_is_read(
    page_server: DrawServer, length: str | None, status: int
) -> None:
    connection = HTTPConnection("127.0.0.1", page_server.server_port, timeout=20)
    connection.putrequest("POST", "/predict")
    if length is not None:
        connection.putheader("Content-Length", length)
    connection.endheaders()
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("Connection")) == (status, "close")
    connection.close()


def test_nothing_else_is_served(page_server: DrawServer) -> None:
    for path in ("draw.py", "../draw.py", "key_file.json"):
        assert requests.get(page_server.url + path, timeout=20).status_code == 404
    assert requests.post(f"{page_server.url}health", b"", timeout=20).status_code == 404


def test_a_lost_server_is_told(lonely: DrawServer) -> None:
    for answer in (
        requests.get(f"{lonely.url}health", timeout=20),
        requests.post(f"{lonely.url}predict", FIVE, timeout=20),
        requests.post(f"{lonely.url}explain", FIVE, timeout=20),
    ):
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "server_unreachable"
        assert "make start" in answer.json()["error"]["message"]


def test_a_port_in_use_is_one_line(page_server: DrawServer) -> None:
    with pytest.raises(UsageError, match="is in use; end what listens there, or choose another"):
        DrawServer(page_server.client, page_server.server_port)


def test_a_test_digit_is_seen_as_it_is(
    page_server: DrawServer, mnist_test: tuple[NDArray[np.uint8], NDArray[np.int64]]
) -> None:
    image = mnist_test[0][0]
    answer = requests.post(f"{page_server.url}predict", png(image), timeout=20).json()
    assert answer["seen"] == image.ravel().tolist()
