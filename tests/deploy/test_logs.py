"""The log of a real server as JSON: every line an object, with the ids that clients were given."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from numpy.typing import NDArray

from client.checks import ServerError, cause
from client.server import Server
from handler import archive as archiver
from handler.logs import JsonLines, access
from tests.conftest import TIMEOUT, free_ports, make_home, serving
from tests.fragile import fragile_archive
from tests.images import b64, npy, png

Line = dict[str, Any]


@pytest.fixture(scope="module")
def talking(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that can fail and logs each request, all of it as JSON."""
    archive = fragile_archive(model_file, tmp_path_factory.mktemp("talking"))
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("LOG_FORMAT", "json")
            environment.setenv("ACCESS_LOG", "info")
            running = stack.enter_context(serving(archive))
        yield running


def lines(server: Server, done: Callable[[list[Line]], bool]) -> list[Line]:
    """Every whole line of the log, parsed, once they are as asked for: it is written behind.

    But for what TorchServe's launcher and Java print about themselves before it has started.
    """
    deadline = time.monotonic() + 10
    while True:
        _, started, text = server.log.read_text().partition("Model server started.\n")
        assert started
        *whole, _ = text.split("\n")
        parsed = [json.loads(line) for line in whole]
        if done(parsed) or time.monotonic() > deadline:
            return parsed
        time.sleep(0.05)


def post(server: Server, body: bytes, path: str = "/predictions/mnist") -> requests.Response:
    headers = {"Authorization": f"Bearer {server.key}"}
    return requests.post(server.url + path, data=body, headers=headers, timeout=TIMEOUT)


def test_every_line_is_an_object_and_every_id_is_the_clients(
    talking: Server, mnist_test: tuple[NDArray[np.uint8], NDArray[np.int64]]
) -> None:
    image = mnist_test[0][0]
    fatal = image.copy()
    fatal[0, 0] = 1
    v1 = json.dumps({"instances": [{"b64": b64(png(image))}, {"b64": "seven"}]}).encode()
    answers = [
        post(talking, png(image)),
        post(talking, b'no "image"\n'),
        post(talking, v1, "/v1/models/mnist:predict"),
        post(talking, npy(fatal)),
    ]
    statuses = {answer.headers["x-request-id"]: answer.status_code for answer in answers}
    assert [*statuses.values()] == [200, 400, 200, 500]

    def said(log: list[Line]) -> dict[str, int]:
        """The status of each request of this test that the worker has a line of."""
        of = {line["request"]: line["status"] for line in log if line["logger"] == "handler.access"}
        return {key: status for key, status in of.items() if key in statuses}

    def asked(log: list[Line]) -> list[int]:
        """The status of each request so far, of which the start has sent some, too."""
        messages = [line["message"] for line in log if line["logger"] == "ACCESS_LOG"]
        return [int(message.split('"')[2].split()[0]) for message in messages]

    def done(log: list[Line]) -> bool:
        return said(log) == statuses and asked(log)[-4:] == [*statuses.values()]

    log = lines(talking, done)
    assert said(log) == statuses
    assert asked(log)[-4:] == [*statuses.values()]
    assert all(
        {"time", "level", "logger", "message"} <= line.keys() and line["time"].startswith("20")
        for line in log
    )
    # A fault: its traceback is one line of the worker's, the ids are in its next; the front end
    # writes in between.
    worker = [line for line in log if line["logger"].startswith("handler")]
    (fault,) = [line for line in worker if "requests" in line]
    assert fault["requests"] == [answers[-1].headers["x-request-id"]]
    assert fault["level"] == "ERROR"
    before = worker[worker.index(fault) - 1]
    assert "broken on purpose" in before["exception"]
    assert before["exception"].startswith("Traceback")


def test_without_asking_for_it_there_is_neither_json_nor_a_line_for_a_request(
    server: Server, mnist_test: tuple[NDArray[np.uint8], NDArray[np.int64]]
) -> None:
    """And so the test above can tell."""
    answer = post(server, png(mnist_test[0][0]))
    assert answer.status_code == 200
    log = server.log.read_text()
    assert answer.headers["x-request-id"] not in log
    assert "POST" not in log
    with pytest.raises(ValueError, match="line 1 column"):
        lines(server, lambda _: True)
    assert not access.isEnabledFor(logging.INFO)


def test_a_record_is_one_line_whatever_is_in_it() -> None:
    record = logging.LogRecord("handler", logging.ERROR, "", 0, 'a "b"\n%s', ("\x00\u2028",), None)
    record.fields = {"request": "3\n"}
    line = JsonLines().format(record)
    assert "\n" not in line
    document = json.loads(line)
    assert (document["message"], document["request"]) == ('a "b"\n\x00\u2028', "3\n")


def test_a_start_that_fails_names_its_cause_from_json_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOG_FORMAT", "json")
    (tmp_path / "mnist.pt").write_bytes(b"no model")
    broken = archiver.build(tmp_path / "mnist.pt", tmp_path)
    home = make_home(broken)
    try:
        with pytest.raises(ServerError, match=r"the model cannot be loaded: \S") as caught:
            Server(home, free_ports()).start()
    finally:
        shutil.rmtree(home)
    assert '"' not in str(caught.value)
    assert cause('{"logger": "MODEL_LOG", "message": "ModelError: a \\"b\\""}') == 'a "b"'
