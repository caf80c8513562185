"""Requests in, answers out, without a server: each protocol, each way to be refused."""

from __future__ import annotations

import io
import json
import logging
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import orjson
import pytest
from captum.attr import IntegratedGradients
from numpy.typing import NDArray

from handler import service
from handler.arrays import MAX_IMAGES
from handler.explain import MAX_ERROR, METHOD
from handler.model import DigitModel
from handler.preprocessing import to_tensor
from handler.protocols import Answer, Headers, Request
from handler.service import answer_batch
from tests.images import b64, malformed, npy, png

Mnist = tuple[NDArray[np.uint8], NDArray[np.int64]]
PREDICTIONS = Headers(url_path="", explain="False")  # the headers that TorchServe adds
KSERVE = Headers(explain="False")


def ask(model: DigitModel, body: bytes, headers: dict[str, str] = PREDICTIONS) -> Answer:
    (answer,) = answer_batch(model, [Request({"body": bytearray(body)}, Headers(headers))])
    return answer


def ask_traced(
    model: DigitModel, body: bytes, headers: dict[str, str] = PREDICTIONS
) -> tuple[Answer, int]:
    """The answer, and the most bytes that Python held for it at one time."""
    tracemalloc.start()
    try:
        answer = ask(model, body, headers)
        return answer, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def infer(model: DigitModel, document: dict[str, Any]) -> Answer:
    return ask(model, orjson.dumps(document), KSERVE)


def test_headers_are_found_in_any_casing() -> None:
    headers = Headers({"Content-Type": "image/png", "content-type": "late", "data": {"a": "b"}})
    assert headers.lower == {"content-type": "image/png"}


@pytest.fixture(scope="module")
def digits(model: DigitModel, mnist_test: Mnist) -> list[int]:
    found: list[int] = model.predict(mnist_test[0][:100])[0].tolist()
    return found


def test_plain_forms(model: DigitModel, mnist_test: Mnist, digits: list[int]) -> None:
    images = mnist_test[0]
    assert ask(model, png(images[0])).body == str(digits[0]).encode()
    assert ask(model, npy(images[0])).body == str(digits[0]).encode()
    assert ask(model, npy(images[0].reshape(784))).body == str(digits[0]).encode()
    wide: list[Any] = [np.uint8, np.int64, np.dtype(">i4")]
    for form in [
        *(images[:9].astype(dtype) for dtype in wide),
        images[:9, None],
        images[:9].reshape(9, 784),
        np.asfortranarray(images[:9]),
        images[:9] / 255,
        (images[:9] / 255).astype(np.float16),
    ]:
        assert orjson.loads(ask(model, npy(form)).body) == digits[:9]


def test_one_bad_image_of_many_is_refused_in_its_place(
    model: DigitModel, mnist_test: Mnist, digits: list[int]
) -> None:
    images = mnist_test[0][:4] / np.float32(255)
    images[1] = 0
    images[2, 5, 5] = np.nan
    answer = ask(model, npy(images))
    first, blank, nan, last = orjson.loads(answer.body)
    assert (answer.status, first, last) == (200, digits[0], digits[3])
    assert blank["error"]["code"] == "no_digit"
    assert nan["error"]["code"] == "invalid_range"


def test_a_form_answers_by_field(model: DigitModel, mnist_test: Mnist, digits: list[int]) -> None:
    def form(**fields: bytes) -> Answer:
        (answer,) = answer_batch(model, [Request(fields, PREDICTIONS)])
        return answer

    one, two = png(mnist_test[0][0]), npy(mnist_test[0][1] / 255)
    assert form(data=one).body == str(digits[0]).encode()
    assert form(body=one).body == str(digits[0]).encode()
    assert orjson.loads(form(photo=one).body) == {"photo": digits[0]}
    assert orjson.loads(form(data=one, other=two).body) == {"data": digits[0], "other": digits[1]}
    bad = form(a=b"x", b=b"y")
    assert bad.status == 400
    assert set(orjson.loads(bad.body)) == {"a", "b"}
    assert form().status == 400


@pytest.mark.parametrize("name", malformed(np.zeros((28, 28), np.uint8)))
def test_malformed_bodies(model: DigitModel, mnist_test: Mnist, name: str) -> None:
    status, body = malformed(mnist_test[0][0])[name]
    answer = ask(model, body)
    assert answer.status == status
    assert set(orjson.loads(answer.body)["error"]) == {"code", "message"}


@pytest.mark.parametrize(
    ("instance", "code"),
    [
        ([[1, 2], [3]], "invalid_shape"),
        ([["a"] * 28] * 28, "unreadable"),
        ([[True] * 28] * 28, "unreadable"),
        ([[None] * 28] * 28, "unreadable"),
        (["7"] * 784, "unreadable"),
        ([0] * 783 + [[0]], "invalid_shape"),
        ([[0] * 784, 0], "invalid_shape"),
        ([[[[[0] * 784]]]], "invalid_shape"),
        ([[256] * 28] * 28, "invalid_range"),
        ([[-1] * 28] * 28, "invalid_range"),
        ([[1.5] * 28] * 28, "invalid_range"),
        ([[0] * 28] * 28, "no_digit"),
        ([[10**30] * 28] * 28, "invalid_range"),
        ([[[0] * 28] * 28] * 2, "invalid_shape"),
        ([], "invalid_shape"),
        (7, "unreadable"),
        ("seven", "unreadable"),
        ({"b64": 7}, "unreadable"),
        ({"b64": ""}, "unreadable"),
        ({"b64": "AAAA", "data": "AAAA"}, "unreadable"),
    ],
)
def test_bad_instances(model: DigitModel, mnist_test: Mnist, instance: Any, code: str) -> None:
    good = {"b64": b64(png(mnist_test[0][0]))}
    answer = ask(model, json.dumps({"instances": [instance, good]}).encode())
    bad, digit = orjson.loads(answer.body)["predictions"]
    assert (answer.status, digit) == (200, 7)
    assert bad["error"]["code"] == code


def test_base64_may_have_line_breaks(model: DigitModel, mnist_test: Mnist) -> None:
    text = b64(png(mnist_test[0][0]))
    wrapped = "\n".join(text[i : i + 76] for i in range(0, len(text), 76))
    answer = ask(model, orjson.dumps({"instances": [{"data": wrapped}]}))
    assert orjson.loads(answer.body) == {"predictions": [7]}


@pytest.mark.parametrize("instances", [None, 7, {}, "x", [], [0] * (MAX_IMAGES + 1)])
def test_bad_lists_of_instances(model: DigitModel, instances: Any) -> None:
    answer = ask(model, orjson.dumps({"instances": instances}))
    assert answer.status in (400, 413, 422)


def test_open_inference_json(model: DigitModel, mnist_test: Mnist, digits: list[int]) -> None:
    images = mnist_test[0][:3]
    _, probabilities = model.predict(images)
    for shape in ([3, 28, 28], [3, 1, 28, 28], [3, 784]):
        for datatype, data in (("UINT8", images), ("FP32", images / 255)):
            tensor = {"name": "images", "shape": shape, "datatype": datatype}
            for form in (data.ravel(), data.reshape(shape)):
                answer = infer(model, {"id": "a7", "inputs": [tensor | {"data": form.tolist()}]})
                document = orjson.loads(answer.body)
                assert answer.status == 200
                assert document["id"] == "a7"
                assert (document["model_name"], document["model_version"]) == ("mnist", "1.0")
                digit, probability = document["outputs"]
                assert digit == {
                    "name": "digit",
                    "shape": [3],
                    "datatype": "INT64",
                    "data": digits[:3],
                }
                assert (probability["shape"], probability["datatype"]) == ([3, 10], "FP32")
                assert np.allclose(probability["data"], probabilities.ravel(), atol=1e-5)


def test_open_inference_binary(model: DigitModel, mnist_test: Mnist, digits: list[int]) -> None:
    files = [png(image) for image in mnist_test[0][:3]]
    raw = b"".join(struct.pack("<I", len(file)) + file for file in files)
    header = orjson.dumps(
        {
            "inputs": [
                {
                    "name": "images",
                    "shape": [3],
                    "datatype": "BYTES",
                    "parameters": {"binary_data_size": len(raw)},
                }
            ],
            "outputs": [
                {"name": "probabilities", "parameters": {"binary_data": True}},
                {"name": "digit"},
                {"name": "probabilities", "parameters": {"classification": 2}},
            ],
        }
    )
    headers = KSERVE | {"inference-Header-content-length": str(len(header))}
    answer = ask(model, header + raw, headers)
    assert answer.content_type == "application/octet-stream"
    length = int(answer.headers["Inference-Header-Content-Length"])
    document = orjson.loads(answer.body[:length])
    probabilities, digit, top = document["outputs"]
    assert probabilities["parameters"] == {"binary_data_size": 3 * 10 * 4}
    assert digit["data"] == digits[:3]
    values = np.frombuffer(answer.body[length:], "<f4").reshape(3, 10)
    assert np.array_equal(values, model.predict(mnist_test[0][:3])[1])
    assert top["shape"] == [3, 2]
    value, index, label = top["data"][0].split(":")
    assert (index, label) == ("7", "7")
    assert float(value) == pytest.approx(float(values[0, 7]), abs=1e-6)


GOOD_TENSOR: dict[str, Any] = {
    "name": "images",
    "shape": [1, 784],
    "datatype": "UINT8",
    "data": [0] * 300 + [255] * 40 + [0] * 444,
}


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": None},
        {"inputs": []},
        {"inputs": [GOOD_TENSOR, GOOD_TENSOR]},
        {"inputs": [GOOD_TENSOR | {"name": "x"}]},
        {"inputs": [GOOD_TENSOR | {"shape": [2, 784]}]},
        {"inputs": [GOOD_TENSOR | {"shape": [-1, 784]}]},
        {"inputs": [GOOD_TENSOR | {"shape": [2**62, 2**62]}]},
        {"inputs": [GOOD_TENSOR | {"shape": "x"}]},
        {"inputs": [GOOD_TENSOR | {"datatype": "INT32"}]},
        {"inputs": [GOOD_TENSOR | {"datatype": ["UINT8"]}]},
        {"inputs": [GOOD_TENSOR | {"shape": [0, 2**63], "data": []}]},
        {"inputs": [GOOD_TENSOR | {"shape": [1] * 70}]},
        {"inputs": [GOOD_TENSOR | {"data": ["0"] * 784}]},
        {"inputs": [GOOD_TENSOR | {"data": [0.5] * 784}]},
        {"inputs": [GOOD_TENSOR | {"data": None}]},
        {"inputs": [GOOD_TENSOR | {"data": [300] * 784}]},
        {"inputs": [GOOD_TENSOR | {"data": [0] * 784}]},
        {"inputs": [GOOD_TENSOR | {"parameters": {"binary_data_size": 784}}]},
        {"inputs": [GOOD_TENSOR | {"parameters": 7}]},
        {"inputs": [{"name": "images", "shape": [1], "datatype": "BYTES", "data": ["%"]}]},
        {"inputs": [{"name": "images", "shape": [2], "datatype": "BYTES", "data": [""]}]},
        {"id": 7},
        {"outputs": [{"name": "x"}]},
        {"outputs": 7},
        {"outputs": [{"name": "digit"}, {"name": "digit", "parameters": {"binary_data": True}}]},
        {"outputs": [{"name": "digit", "parameters": {"classification": 3}}]},
        {"outputs": [{"name": "digit", "parameters": {"binary_data": 3}}]},
        {"parameters": {"binary_data_output": "yes"}},
    ],
)
def test_bad_open_inference_requests(model: DigitModel, change: dict[str, Any]) -> None:
    assert infer(model, {"inputs": [GOOD_TENSOR]}).status == 200
    answer = infer(model, {"inputs": [GOOD_TENSOR]} | change)
    assert answer.status in (400, 413, 422)
    assert isinstance(orjson.loads(answer.body)["error"], str)


def test_texts_among_numbers_take_no_more_memory_than_they_came_in(model: DigitModel) -> None:
    """NumPy would make room for the longest of them as often as there are items: 4 GB."""
    body = orjson.dumps({"instances": [["A" * 10_000, *[""] * 100_000]]})
    answer, peak = ask_traced(model, body)
    assert answer.status == 400
    assert peak < 20_000_000


@pytest.mark.parametrize(
    ("before", "part", "after"),
    [
        (b'{"instances":[[', b"[0],", b"[0]]]}"),
        (b'{"instances":[', b"{},", b"{}]}"),
        (b'{"inputs":[{"name":"images","shape":[1],"datatype":"BYTES","data":[', b'"",', b'""]}]}'),
    ],
)
def test_json_of_many_small_parts_is_not_even_parsed(
    model: DigitModel, before: bytes, part: bytes, after: bytes
) -> None:
    """32 MB of them take seconds and a gigabyte, and 32 kB once deflated."""
    many = zlib.compress(before + part * 500_000 + after)
    answer, peak = ask_traced(model, many, KSERVE | {"Content-Encoding": "deflate"})
    assert answer.status == 413
    assert peak < 12_000_000


@pytest.mark.parametrize("elements", [0, 2, 8_000_000])
def test_bytes_elements_of_another_number_than_the_shape_says(
    model: DigitModel, elements: int
) -> None:
    raw = bytes(4 * elements)
    size = {"binary_data_size": len(raw)}
    tensor = {"name": "images", "shape": [1], "datatype": "BYTES", "parameters": size}
    header = orjson.dumps({"inputs": [tensor]})
    headers = KSERVE | {"Inference-Header-Content-Length": str(len(header))}
    answer = ask(model, header + raw, headers)
    got = "more" if elements else "0"
    expected = f"invalid_shape: expected 1 images for this shape, got {got}"
    assert (answer.status, orjson.loads(answer.body)) == (422, {"error": expected})


def test_a_refusal_has_the_form_of_what_was_sent(model: DigitModel) -> None:
    """To a KServe address, where only the body tells v1 from v2; compressed as well."""
    for body, v2 in (
        (b'{"instances": [', False),
        (b'{"inputs": [', True),
        (b'{"instance": [7]}', False),
        (b"seven", False),
    ):
        for sent, more in ((body, {}), (zlib.compress(body), {"Content-Encoding": "deflate"})):
            answer = ask(model, sent, KSERVE | more)
            error = orjson.loads(answer.body)["error"]
            assert answer.status == 400
            assert error.startswith("unreadable: ") if v2 else error["code"] == "unreadable"


@pytest.mark.parametrize("length", ["-1", "x", "", "99999", "٣", "9" * 40, "0"])
def test_header_lengths_that_lie(model: DigitModel, length: str) -> None:
    body = orjson.dumps({"inputs": [GOOD_TENSOR]})
    answer = ask(model, body, KSERVE | {"Inference-Header-Content-Length": length})
    assert answer.status == 400


def test_protocols_share_a_batch_and_faults_stay_alone(
    model: DigitModel, mnist_test: Mnist, digits: list[int]
) -> None:
    images = mnist_test[0]
    requests = [
        Request({"body": png(images[0])}, PREDICTIONS),
        Request({"body": b"seven"}, PREDICTIONS),
        Request({"body": npy(images[1:4] / 255)}, PREDICTIONS),
        Request({"body": orjson.dumps({"inputs": [GOOD_TENSOR]})}, KSERVE),
        Request({"body": orjson.dumps({"instances": [images[4].tolist()]})}, KSERVE),
    ]
    one, bad, bulk, v2, v1 = answer_batch(model, requests)
    assert orjson.loads(one.body) == digits[0]
    assert bad.status == 400
    assert orjson.loads(bulk.body) == digits[1:4]
    assert v2.status == 200
    assert orjson.loads(v1.body) == {"predictions": [digits[4]]}


def test_a_fault_of_the_server_is_a_500_and_logged(
    model: DigitModel,
    mnist_test: Mnist,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Also shows that the tests above would notice: an unforeseen exception is not a 4xx."""

    def broken(_: Request) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(service, "decode", broken)
    with caplog.at_level(logging.ERROR):
        answer = ask(model, png(mnist_test[0][0]))
    assert answer.status == 500
    assert b"ZeroDivisionError" not in answer.body
    assert "ZeroDivisionError" in caplog.text


def test_npy_headers_that_lie(model: DigitModel) -> None:
    def with_header(text: str) -> bytes:
        header = text.encode() + b"\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(784)

    for header in (
        "{'descr': '|u1', 'fortran_order': False, 'shape': (28, 28, 99999999999)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 784)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (True, 784)}",
        "{'descr': '|u1', 'fortran_order': False}",
        "{'descr': '<U196', 'fortran_order': False, 'shape': (1, 1)}",
        "__import__('os').abort()",
        "(" * 5000,
    ):
        assert ask(model, with_header(header)).status in (400, 422)
    # Of such, NumPy makes no array.
    for descr, shape in (
        ("'|u1'", (1,) * 65 + (28, 28)),
        ("'|u1'", (0, 2**62, 2**62)),
        ("'|u1'", (0,) * 70),
        ("'|u1'", (10**4200, 784)),
        ("('|u1', (28, 28))", (1,)),
    ):
        header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"
        assert ask(model, with_header(header)).status in (400, 413, 422)
    newest = io.BytesIO()
    np.lib.format.write_array(newest, np.zeros((28, 28), np.uint8), version=(3, 0))
    assert ask(model, newest.getvalue()).status == 400


EXPLAIN = Headers(url_path="", explain="True")


def test_an_explanation_is_captums(model: DigitModel, mnist_test: Mnist) -> None:
    image = mnist_test[0][0]
    answer = ask(model, png(image), EXPLAIN)
    explanation = orjson.loads(answer.body)
    assert (answer.status, explanation["digit"], explanation["target"]) == (200, 7, 7)
    assert explanation["completeness_error"] <= MAX_ERROR
    method = IntegratedGradients(model._network)
    expected = method.attribute(
        to_tensor(image[None]), target=7, n_steps=explanation["steps"], method=METHOD
    )
    assert np.allclose(explanation["attributions"], expected[0, 0], atol=1e-4)


def test_an_array_is_explained_as_the_image_is(model: DigitModel, mnist_test: Mnist) -> None:
    """As bytes, which nobody can write to, and PyTorch warns of: that is how requests come."""
    image = mnist_test[0][0]
    requests = [Request({"body": body}, EXPLAIN) for body in (npy(image), png(image))]
    first, second = answer_batch(model, requests)
    assert (first.status, first.body) == (200, second.body)


def test_explanations_name_their_target_and_refuse_in_place(
    model: DigitModel, mnist_test: Mnist
) -> None:
    good = {"b64": b64(png(mnist_test[0][0]))}
    body = orjson.dumps({"instances": [good, {"b64": "%"}], "target": 3})
    answer = ask(model, body, {"explain": "True"})
    first, second = orjson.loads(answer.body)["explanations"]
    assert (answer.status, first["digit"], first["target"]) == (200, 7, 3)
    assert second["error"]["code"] == "unreadable"
    (form,) = answer_batch(
        model, [Request({"data": png(mnist_test[0][0]), "target": b"9"}, EXPLAIN)]
    )
    assert orjson.loads(form.body)["target"] == 9


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"body": b""},
        {"body": b"{}"},
        {"body": b'{"instances": []}'},
        {"body": b'{"instances": [1]}'},
        {"body": orjson.dumps({"instances": [1] * 33})},
        {"target": b"3"},
        {"data": b"x", "target": b"ten"},
        {"data": b"x", "target": "٣".encode()},
        {"data": b"x", "other": b"x"},
        {"body": b'{"instances": [1], "target": true}'},
    ],
)
def test_bad_requests_for_explanations(model: DigitModel, fields: dict[str, bytes]) -> None:
    (answer,) = answer_batch(model, [Request(fields, EXPLAIN)])
    assert answer.status in (400, 413, 422)
    assert set(orjson.loads(answer.body)["error"]) == {"code", "message"}
