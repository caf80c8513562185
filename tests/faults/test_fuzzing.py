"""Broken requests in the same batches as good ones: the good are answered, the bad get a reason."""

from __future__ import annotations

import collections
import json
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psutil
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.server import Server
from handler.model import DigitModel
from tests.conftest import TIMEOUT
from tests.faults.bodies import PLAIN, V1, V2, Broken, broken
from tests.faults.conftest import Report, worker_of
from tests.images import png

Mnist = tuple[NDArray[np.uint8], NDArray[np.int64]]
AT_ONCE = 32
GROWTH = 32_000_000  # bytes that a process may grow by in the second half: noise of allocators
# TorchServe's own 500 to a form that it cannot parse, before the handler sees it.
FRONT_END = ("ErrorDataDecoderException", "ArrayIndexOutOfBoundsException")


class Sender:
    """Sends good and broken requests side by side, and judges the answers."""

    def __init__(self, server: Server, session: requests.Session, good: list[Any]) -> None:
        self.server, self.session, self.good = server, session, good
        self.counts: collections.Counter[tuple[str, str]] = collections.Counter()
        self.wrong: list[str] = []

    def send(self, sent: list[Broken]) -> None:
        """Send each request with a good one beside it."""
        jobs: list[Any] = [*sent, *(self.good[i % len(self.good)] for i in range(len(sent)))]
        random.Random(len(jobs)).shuffle(jobs)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for job, answer in zip(jobs, pool.map(self._post, jobs), strict=True):
                self.judge(job, answer)

    def _post(self, job: Any) -> requests.Response:
        if not isinstance(job, Broken):
            job = Broken("good", PLAIN, job[0], {})
        url = f"{self.server.url}/{job.address}"
        return self.session.post(url, data=job.body, headers=job.headers, timeout=TIMEOUT)

    def judge(self, job: Any, answer: requests.Response) -> None:
        """Count the answer, and note it where it is not what it must be."""
        status = answer.status_code
        if not isinstance(job, Broken):
            self.counts["good", str(status)] += 1
            right = (status, answer.text) == (200, str(job[1]))
        elif job.form and status == 500 and answer.json().get("type") in FRONT_END:
            self.counts[job.kind, f"front end's 500 {answer.json()['type']}"] += 1
            return
        else:
            self.counts[job.kind, str(status)] += 1
            right = status == 200 or (status in (400, 413, 422) and _has_reason(answer))
        if not right:
            self.wrong.append(f"{job!r:.900} {status} {answer.text[:300]}")


def _has_reason(answer: requests.Response) -> bool:
    body = answer.json()
    if not {"error", "message"} & set(body):  # a form's fields, each with its own
        body = next(iter(body.values()))
    error = body.get("error", body)  # TorchServe's own refusals have no `error` around them
    reason = error["message"] if isinstance(error, dict) else error
    return len(reason) > 10 and "Traceback" not in reason


@pytest.fixture
def sender(
    server: Server, session: requests.Session, mnist_test: Mnist, model: DigitModel
) -> Sender:
    images = mnist_test[0][:200]
    digits = model.predict(images)[0].tolist()
    return Sender(
        server, session, [(png(image), digit) for image, digit in zip(images, digits, strict=True)]
    )


def test_mutated_files_and_documents(
    sender: Sender, server: Server, mnist_test: Mnist, soak: bool, report: Report
) -> None:
    count = 20_000 if soak else 1800
    requests_ = list(broken(count, 0, mnist_test[0][0]))
    worker = worker_of(server)
    half = count // 2
    sender.send(requests_[:half])
    processes = {"worker": worker, "front end": psutil.Process(server.pid)}
    before = {name: process.memory_info().rss for name, process in processes.items()}
    sender.send(requests_[half:])
    for name, process in processes.items():
        grown = process.memory_info().rss - before[name]
        report(f"fuzzing: {name} {before[name] / 1e6:.0f} MB, {grown / 1e6:+.1f} MB in 2nd half")
        assert grown < GROWTH
    report(f"fuzzing: {sorted(sender.counts.items())}")
    assert sender.wrong == []
    assert sender.counts["good", "200"] == count
    assert worker_of(server).pid == worker.pid
    # They reached what they were made for, and many were damaged.
    assert {kind for kind, _ in sender.counts} == {"good", *(sent.kind for sent in requests_)}
    refused = sum(n for (_, status), n in sender.counts.items() if status[0] == "4")
    assert refused > count // 3


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)
DOCUMENTS = st.lists(
    st.tuples(
        st.sampled_from((PLAIN, V1, V2)),
        st.sampled_from(("instances", "inputs", "")),
        JSON | st.binary(max_size=200),
    ),
    min_size=16,
    max_size=16,
)


def test_made_up_documents(sender: Sender, server: Server, soak: bool, report: Report) -> None:
    worker = worker_of(server)

    @settings(
        max_examples=250 if soak else 12,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(DOCUMENTS)
    def send(documents: list[tuple[str, str, Any]]) -> None:
        sender.send([_document(*document) for document in documents])
        assert sender.wrong == []

    send()
    report(f"made-up documents: {sorted(sender.counts.items())}")
    assert worker_of(server).pid == worker.pid


def _document(address: str, name: str, value: Any) -> Broken:
    if isinstance(value, bytes):
        return Broken("bytes", address, value, {})
    # As Python writes it: with NaN, infinities and lone surrogates, as clients send them.
    body = json.dumps({name: value} if name else value).encode()
    return Broken("JSON", address, body, {"Content-Type": "application/json"})


def test_a_wrong_answer_would_be_noticed(sender: Sender) -> None:
    """The judge itself: a good request with another digit's answer, a bad one without a reason."""
    answer = requests.Response()
    answer.status_code = 200
    answer._content = b"8"
    sender.judge((b"", 7), answer)
    answer.status_code = 503
    sender.judge(Broken("PNG", PLAIN, b"", {}), answer)
    assert len(sender.wrong) == 2
