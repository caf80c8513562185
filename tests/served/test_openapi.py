"""The live server against its OpenAPI document: every form of answer, and forms made at random."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import requests
import schemathesis
import yaml
from hypothesis import HealthCheck, settings
from jsonschema import Draft202012Validator
from numpy.typing import NDArray
from openapi_spec_validator import validate
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from client.server import REPOSITORY, Server
from handler.archive import MODEL_NAME, VERSION
from handler.labels import LABELS
from tests.conftest import TIMEOUT
from tests.images import b64, malformed, npy, png
from tests.served.test_predictions import worker_pids

FILE = REPOSITORY / "handler" / "openapi.yaml"
DOCUMENT: dict[str, Any] = yaml.safe_load(FILE.read_text())
EXAMPLES = 30  # made at random, for each operation

PREDICTIONS, EXPLANATIONS = "/predictions/mnist", "/explanations/mnist"
PREDICT, EXPLAIN = "/v1/models/mnist:predict", "/v1/models/mnist:explain"
INFER = "/v2/models/mnist/infer"
BLANK = png(np.zeros((28, 28), np.uint8))


class Ask(NamedTuple):
    """One request, and the status that it must get."""

    status: int
    path: str
    body: Any = None  # bytes as they are, a dict as JSON
    files: dict[str, bytes] | None = None
    key: str | None = None


def asks(digits: NDArray[np.uint8]) -> dict[str, Ask]:
    """Every form of request by name; `digits` is [N,28,28]."""
    good, bad = {"b64": b64(png(digits[0]))}, {"b64": b64(BLANK)}
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 784], "data": digits[0].tolist()}
    top = {"name": "probabilities", "parameters": {"classification": 3}}
    binary = {"name": "digit", "parameters": {"binary_data": True}}
    blank = tensor | {"data": [0] * 784}
    return {
        "image": Ask(200, PREDICTIONS, png(digits[0])),
        "npy of one": Ask(200, PREDICTIONS, npy(digits[0])),
        "npy of many": Ask(200, PREDICTIONS, npy(digits)),
        "npy of many, one blank": Ask(
            200, PREDICTIONS, npy(digits * (np.arange(2) > 0)[:, None, None])
        ),
        "field": Ask(200, PREDICTIONS, files={"data": png(digits[0])}),
        "fields": Ask(200, PREDICTIONS, files={"a": png(digits[0]), "b": BLANK}),
        "fields, all blank": Ask(422, PREDICTIONS, files={"a": BLANK, "b": BLANK}),
        "instances": Ask(200, PREDICTIONS, {"instances": [good, bad]}),
        "tensor": Ask(200, PREDICTIONS, {"inputs": [tensor], "id": "a"}),
        "v1": Ask(200, PREDICT, {"instances": [good, bad, digits[0].tolist()]}),
        "v1, all blank": Ask(422, PREDICT, {"instances": [bad]}),
        "v1, no list": Ask(400, PREDICT, {"instances": 1}),
        "v1, no JSON": Ask(400, PREDICT, b"{"),
        "v1, empty": Ask(422, PREDICT, {"instances": []}),
        "v1, too many": Ask(413, PREDICT, {"instances": [0] * 10_001}),
        "v1 explain": Ask(200, EXPLAIN, {"instances": [good, bad], "target": 3}),
        "v1 explain, all blank": Ask(422, EXPLAIN, {"instances": [bad]}),
        "v1 explain, too many": Ask(413, EXPLAIN, {"instances": [good] * 33}),
        "v2": Ask(200, INFER, {"inputs": [tensor]}),
        "v2, outputs": Ask(200, INFER, {"inputs": [tensor], "outputs": [top, binary], "id": ""}),
        "v2, all binary": Ask(
            200, INFER, {"inputs": [tensor], "parameters": {"binary_data_output": True}}
        ),
        "v2, blank": Ask(422, INFER, {"inputs": [blank]}),
        "v2, no JSON": Ask(400, INFER, b"seven"),
        "explanation": Ask(200, EXPLANATIONS, png(digits[0])),
        "explanation of another": Ask(
            200, EXPLANATIONS, files={"data": png(digits[0]), "target": b"3"}
        ),
        "explanation of nothing": Ask(422, EXPLANATIONS, BLANK),
        "no key": Ask(400, PREDICTIONS, png(digits[0]), key=""),
        "wrong key": Ask(400, INFER, {"inputs": [tensor]}, key="wrong"),
    } | {
        name: Ask(status, PREDICTIONS, body)
        for name, (status, body) in malformed(digits[0]).items()
    }


NAMES = list(asks(np.zeros((2, 28, 28), np.uint8)))


def validator(*steps: str) -> Draft202012Validator:
    """A validator for the schema at a place in the document, references followed."""
    place = DOCUMENT
    pointer = "#"
    for step in steps:
        if "$ref" in place:
            pointer = place["$ref"]
            place = DOCUMENT["components"]["responses"][pointer.rpartition("/")[2]]
        place = place[step]
        pointer += "/" + step.replace("~", "~0").replace("/", "~1")
    return Draft202012Validator({**DOCUMENT, "$ref": pointer})


def responses(path: str, answer: requests.Response, method: str = "post") -> Draft202012Validator:
    """The validator for the document's response to such an answer."""
    status = str(answer.status_code)
    content = ("content", answer.headers["Content-Type"], "schema")
    return validator("paths", path, method, "responses", status, *content)


def test_the_document_is_valid_and_about_this_model() -> None:
    validate(DOCUMENT)
    assert DOCUMENT["info"]["version"] == VERSION
    assert all(MODEL_NAME in path for path in DOCUMENT["paths"] if path != "/ping")
    assert DOCUMENT["components"]["schemas"]["Digit"]["maximum"] == len(LABELS) - 1


@pytest.mark.parametrize("name", NAMES)
def test_each_form_of_answer_is_in_the_document(
    server: Server,
    session: requests.Session,
    mnist_test: tuple[NDArray[np.uint8], NDArray[np.int64]],
    name: str,
) -> None:
    ask = asks(mnist_test[0][:2])[name]
    if isinstance(ask.body, dict) and ask.status == 200:
        body = ("requestBody", "content", "application/json", "schema")
        validator("paths", ask.path, "post", *body).validate(ask.body)
    if ask.key is not None:
        session.headers["Authorization"] = f"Bearer {ask.key}"
    sent = {"json": ask.body} if isinstance(ask.body, dict) else {"data": ask.body}
    answer = session.post(server.url + ask.path, **sent, files=ask.files, timeout=TIMEOUT)
    assert answer.status_code == ask.status
    schema = responses(ask.path, answer)
    if answer.headers["Content-Type"] == "application/json":
        schema.validate(answer.json())
    else:
        end = int(answer.headers["Inference-Header-Content-Length"])
        header = json.loads(answer.content[:end])
        validator("components", "schemas", "InferResponse").validate(header)


def test_the_documents_examples_are_a_seven(server: Server, session: requests.Session) -> None:
    """Whoever copies them sees an answer; made at random, hardly any request is a digit."""
    count = 0
    for path, item in DOCUMENT["paths"].items():
        media = item.get("post", {}).get("requestBody", {}).get("content", {})
        for example in media.get("application/json", {}).get("examples", {}).values():
            name = example["$ref"].rpartition("/")[2]
            body = DOCUMENT["components"]["examples"][name]["value"]
            answer = session.post(server.url + path, json=body, timeout=TIMEOUT)
            assert answer.status_code == 200
            assert "7" in answer.text
            responses(path, answer).validate(answer.json())
            count += 1
    assert count == 7


def test_ping_is_in_the_document(server: Server, session: requests.Session) -> None:
    answer = session.get(f"{server.url}/ping", timeout=TIMEOUT)
    assert answer.json() == {"status": "Healthy"}
    responses("/ping", answer, "get").validate(answer.json())


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/x-www-form-urlencoded", b"a=%zz"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name=""\r\n\r\nx',
        ),
    ],
)
def test_forms_that_torchserve_cannot_read_are_its_own_500(
    server: Server, session: requests.Session, content_type: str, body: bytes
) -> None:
    """Its front end reads forms, and knows no 400 for them: no handler ever sees these."""
    headers = {"Content-Type": content_type}
    answer = session.post(server.url + PREDICTIONS, data=body, headers=headers, timeout=TIMEOUT)
    assert (answer.status_code, answer.json()["type"]) == (500, "ErrorDataDecoderException")
    validator("components", "schemas", "TorchServeError").validate(answer.json())


def test_an_answer_outside_the_document_is_seen() -> None:
    """The tests above can fail."""
    digit = validator("components", "schemas", "DigitOrRefusal")
    assert digit.is_valid(7)
    assert not digit.is_valid(10)
    assert not digit.is_valid({"error": "seven"})


# Without the phase that walks along every boundary: one of them is 10,000 instances.
CONFIG = schemathesis.Config.from_dict(
    {"phases": {"coverage": {"enabled": False}}, "generation": {"mode": "all"}}
)
api = schemathesis.openapi.from_path(FILE, config=CONFIG)


@api.hook
def filter_case(_: schemathesis.HookContext, case: schemathesis.Case[Any]) -> bool:
    """Leave out forms that TorchServe cannot read: see the test of them above."""
    form = case.body if case.media_type == "multipart/form-data" else None
    return not (isinstance(form, dict) and "" in form)


# Left out, as they hold requirements that no schema of images can meet or TorchServe does not:
# random bytes in the place of an image are refused (positive_data_acceptance); TorchServe answers
# 400 to a missing key (ignored_auth), and to any method as to POST (unsupported_method).
CHECKS: list[Callable[..., bool | None]] = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


@api.parametrize()
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_whatever_is_sent_the_answer_is_in_the_document(
    case: schemathesis.Case[Any], server: Server
) -> None:
    worker = worker_pids(server)
    case.call_and_validate(
        base_url=server.url,
        headers={"Authorization": f"Bearer {server.key}"},
        checks=CHECKS,
        timeout=TIMEOUT,
    )
    assert worker_pids(server) == worker
