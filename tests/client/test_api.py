"""`DigitClient.predict`: every form of image, in order, in few requests, with nothing lost."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from client import (
    DigitClient,
    NotOffered,
    Refused,
    ServerBusy,
    ServerFailed,
    ServerUnreachable,
)
from client.images import ImageLike
from client.server import REPOSITORY
from tests.client.conftest import Connect, pixels
from tests.client.stub import REFUSED, Answer, Asked, Stub, respond

SEVEN = pixels(8)[7]


def test_every_form_of_one_image(connect: Connect, tmp_path: Path) -> None:
    file = tmp_path / "seven.png"
    Image.fromarray(SEVEN).save(file)
    wide = np.full((40, 30), 7, np.uint8)
    forms: list[ImageLike] = [
        str(file),
        file,
        file.read_bytes(),
        bytearray(file.read_bytes()),
        Image.open(file),
        SEVEN,
        SEVEN.astype(np.int64),
        SEVEN[None],
        SEVEN[:, :, None],
        SEVEN.reshape(784),
        torch.from_numpy(SEVEN),
        torch.from_numpy(SEVEN)[None].requires_grad_(False),
        wide,
        wide.astype(np.float64) / 255,
        np.stack([wide] * 3, axis=2),
        Image.fromarray(np.stack([wide] * 4, axis=2)[:, :, :3]).convert("CMYK"),
    ]
    client = connect()
    for form in forms:
        assert [p.digit for p in client.predict(form)] == [7], f"{type(form)} {form!r:.60}"
    assert [p.digit for p in client.predict(forms)] == [7] * len(forms)
    assert [p.digit for p in client.predict(iter(forms), probabilities=True)] == [7] * len(forms)


def test_a_photo_is_turned_as_its_camera_was_held(connect: Connect, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # orientation: upside down
    Image.fromarray(SEVEN[::-1, ::-1].copy()).save(tmp_path / "7.png", exif=exif)
    with Image.open(tmp_path / "7.png") as photo:
        assert connect().predict(photo)[0].digit == 7


def test_floats_and_requires_grad_keep_their_values(connect: Connect, stub: Stub) -> None:
    tensor = torch.full((2, 1, 28, 28), 0.25, requires_grad=True)
    assert [p.digit for p in connect().predict(tensor)] == [0, 0]
    sent = np.load(io.BytesIO(stub.asked[0].body))
    assert sent.dtype == np.float32
    assert sent.shape == (2, 28, 28)
    assert (sent == 0.25).all()


@pytest.mark.parametrize("shape", [(-1, 28, 28), (-1, 1, 28, 28), (-1, 784)])
@pytest.mark.parametrize("probabilities", [False, True])
def test_2500_arrays_go_as_three_requests_in_order(
    connect: Connect, stub: Stub, shape: tuple[int, ...], probabilities: bool
) -> None:
    seen: list[tuple[int, int]] = []
    predictions = connect().predict(
        pixels(2500).reshape(shape),
        probabilities=probabilities,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert [p.digit for p in predictions] == [i % 10 for i in range(2500)]
    assert sorted(len(asked.images) for asked in stub.asked) == [500, 1000, 1000]
    assert len(seen) == 3
    assert seen[-1] == (2500, 2500)
    assert seen == sorted(seen)


def test_probabilities_come_when_asked_for(connect: Connect) -> None:
    (plain,) = connect().predict(SEVEN)
    assert plain.probabilities is None
    assert plain.confidence is None
    (full,) = connect().predict(SEVEN, probabilities=True)
    assert full.probabilities is not None
    assert full.probabilities.shape == (10,)
    assert full.probabilities.dtype == np.float32
    assert full.confidence == pytest.approx(0.91)


def test_probabilities_may_come_as_json(connect: Connect, stub: Stub) -> None:
    outputs = [
        {"name": "probabilities", "datatype": "FP32", "shape": [1, 10], "data": [0.1] * 10},
        {"name": "digit", "datatype": "INT64", "shape": [1], "data": [4]},
    ]
    stub.respond = lambda _: Answer(200, {"outputs": outputs})
    (prediction,) = connect().predict(SEVEN, probabilities=True)
    assert prediction.digit == 4
    assert prediction.confidence == pytest.approx(0.1)


def test_encoded_images_share_requests_within_limits(connect: Connect, stub: Stub) -> None:
    bodies = [b"digit %d" % (i % 10) for i in range(100)]
    bodies[50] += b" " * 1_999_999
    predictions = connect().predict(bodies)
    assert [p.digit for p in predictions] == [i % 10 for i in range(100)]
    assert sorted(len(asked.images) for asked in stub.asked) == [1, 49, 50]


def test_images_per_request_of_one_sends_each_alone(connect: Connect, stub: Stub) -> None:
    predictions = connect(images_per_request=1).predict([b"digit 1", b"digit 2", SEVEN])
    assert [p.digit for p in predictions] == [1, 2, 7]
    assert len(stub.asked) == 3


def test_requests_run_together_but_not_more_than_connections(connect: Connect, stub: Stub) -> None:
    together = threading.Barrier(3, timeout=10)

    def wait_for_two_others(asked: Asked) -> Answer:
        together.wait()
        return respond(asked)

    stub.respond = wait_for_two_others
    predictions = connect(connections=3, images_per_request=10).predict(pixels(120))
    assert [p.digit for p in predictions] == [i % 10 for i in range(120)]
    assert len(stub.asked) == 12
    assert stub.most_under_way == 3


@pytest.mark.parametrize("probabilities", [False, True])
def test_a_refused_image_costs_its_neighbours_nothing(
    connect: Connect, stub: Stub, probabilities: bool
) -> None:
    images = pixels(1000)
    images[[3, 777], 0, 0] = REFUSED
    predictions = connect().predict(images, probabilities=probabilities)
    for index, prediction in enumerate(predictions):
        if index in (3, 777):
            assert prediction.digit is None
            assert isinstance(prediction.error, Refused)
            assert prediction.error.code == "no_digit"
        else:
            assert (prediction.digit, prediction.error) == (index % 10, None)
    assert len(stub.asked) <= 45  # halving, not a thousand single requests


BUSY = {"error": {"code": "busy", "message": "send less"}}


@pytest.mark.parametrize("probabilities", [False, True])
def test_a_server_that_is_too_busy_for_all_is_asked_for_less(
    connect: Connect, stub: Stub, probabilities: bool
) -> None:
    """At once, and without asking again for what it will never have the time for."""
    whole = {"error": "busy: send less"} if probabilities else BUSY

    def answer(asked: Asked) -> Answer:
        return respond(asked) if len(asked.images) < 100 else Answer(503, whole)

    stub.respond = answer
    predictions = connect().predict(pixels(1000), probabilities=probabilities)
    assert [p.digit for p in predictions] == [i % 10 for i in range(1000)]
    assert len(stub.asked) == 31


@pytest.mark.parametrize("kind", ["pixels", "encoded"])
def test_images_that_it_had_no_time_for_are_sent_again(
    connect: Connect, stub: Stub, kind: str
) -> None:
    def answer(asked: Asked) -> Answer:
        digits: list[object] = [*asked.images]
        digits[20:] = [BUSY] * len(digits[20:])
        return Answer(200, {"predictions": digits} if kind == "encoded" else digits)

    stub.respond = answer
    images = pixels(50) if kind == "pixels" else [b"digit %d" % (i % 10) for i in range(50)]
    predictions = connect().predict(images)
    assert [p.digit for p in predictions] == [i % 10 for i in range(50)]
    assert [len(asked.images) for asked in stub.asked] == [50, 30, 10]


@pytest.mark.parametrize("status", [200, 503])
def test_one_image_that_it_never_has_time_for_costs_the_others_nothing(
    connect: Connect, stub: Stub, status: int
) -> None:
    def answer(asked: Asked) -> Answer:
        if asked.images == [3]:
            return Answer(status, [BUSY] if status == 200 else BUSY)
        return Answer(200, [BUSY if image == 3 else image for image in asked.images])

    stub.respond = answer
    predictions = connect(deadline=0.5).predict(pixels(5))
    assert [p.digit for p in predictions] == [0, 1, 2, None, 4]
    assert isinstance(predictions[3].error, ServerBusy)
    with pytest.raises(ServerBusy):
        connect(deadline=0.5).predict(pixels(5)[3])


def test_a_server_that_stays_too_busy_is_waited_for_once(connect: Connect, stub: Stub) -> None:
    """Not once for each of a thousand images."""
    stub.respond = lambda _: Answer(503, BUSY)
    with pytest.raises(ServerBusy):
        connect(deadline=0.5, connections=1).predict(pixels(64))
    halved = 1 + 2 + 4 + 8 + 16 + 32 + 64
    assert len(stub.asked) < 2 * halved


def test_refusals_are_reported_one_by_one(connect: Connect, tmp_path: Path) -> None:
    images: list[ImageLike] = [b"digit 1", tmp_path / "missing.png", b"nothing", b"digit 4"]
    first, missing, nothing, last = connect().predict(images)
    assert (first.digit, last.digit) == (1, 4)
    assert isinstance(missing.error, Refused)
    assert missing.error.code == "unreadable_file"
    assert "No such file" in str(missing.error)
    assert isinstance(nothing.error, Refused)
    assert str(nothing.error) == "nothing[31m legible"  # one line, no control characters


def test_nothing_to_predict_asks_nothing(connect: Connect, stub: Stub) -> None:
    assert connect().predict([]) == []
    assert connect().predict(np.zeros((0, 28, 28), np.uint8)) == []
    assert stub.asked == []


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (7, TypeError),
        ([7], TypeError),
        (None, TypeError),
        (np.array(["7"]), ValueError),
        (np.zeros((28, 28), bool), ValueError),
        (np.zeros((3, 20, 30), np.uint8), ValueError),
        (np.zeros((0, 5), np.uint8), ValueError),
        (np.full((28, 28), 256), ValueError),
        (np.full((28, 28), -1), ValueError),
        (np.full((30, 30), 2.0), ValueError),
        (np.full((30, 30), np.nan), ValueError),
        ([pixels(2)], ValueError),
    ],
)
def test_what_is_no_image_is_an_error_before_anything_is_sent(
    connect: Connect, stub: Stub, image: ImageLike, error: type[Exception]
) -> None:
    with pytest.raises(error, match="expected"):
        connect().predict(image)
    assert stub.asked == []


def test_a_server_lost_half_way_keeps_the_answers_that_came(connect: Connect, stub: Stub) -> None:
    def lost_after_two(asked: Asked) -> Answer | None:
        return respond(asked) if len(stub.asked) <= 2 else None

    stub.respond = lost_after_two
    client = connect(connections=1, images_per_request=10, deadline=0.5)
    predictions = client.predict(pixels(100))
    assert [p.digit for p in predictions[:20]] == [i % 10 for i in range(20)]
    assert all(isinstance(p.error, ServerUnreachable) for p in predictions[20:])
    stub.respond = respond
    assert [p.digit for p in client.predict(pixels(30))] == [i % 10 for i in range(30)]


def test_nothing_is_lost_when_every_third_request_fails(connect: Connect, stub: Stub) -> None:
    def unsteady(asked: Asked) -> Answer | None:
        count = len(stub.asked)
        if count % 3 == 0:
            return None if count % 2 else Answer(507, {"message": "Worker died."})
        return respond(asked)

    stub.respond = unsteady
    predictions = connect(images_per_request=50).predict(pixels(2000))
    assert [p.digit for p in predictions] == [i % 10 for i in range(2000)]


@pytest.mark.parametrize("body", [b"", b"<html>", {"digit": 7}, "7", [1, 2], 7.5, None])
def test_an_answer_outside_the_contract_is_the_servers_fault(
    connect: Connect, stub: Stub, body: object
) -> None:
    stub.respond = lambda _: Answer(200, body)
    with pytest.raises(ServerFailed, match="expected"):
        connect().predict(SEVEN)


@pytest.mark.parametrize("answer", [Answer(200, 7), Answer(404, b""), Answer(501, b"")])
def test_a_server_without_probabilities_says_so(
    connect: Connect, stub: Stub, answer: Answer
) -> None:
    stub.respond = lambda _: answer
    with pytest.raises(NotOffered):
        connect().predict(SEVEN, probabilities=True)


def test_probabilities_of_the_wrong_number_are_the_servers_fault(
    connect: Connect, stub: Stub
) -> None:
    output = {"name": "digit", "datatype": "INT64", "shape": [2], "data": [1, 2]}
    stub.respond = lambda _: Answer(200, {"outputs": [output]})
    with pytest.raises(ServerFailed, match="expected 1"):
        connect().predict(SEVEN, probabilities=True)


@pytest.mark.parametrize("url", ["http://", "ftp://host", "http://host:port", "http://host:0"])
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(ValueError, match="expected a URL"):
        DigitClient(url)


def test_the_url_comes_from_the_environment(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNIST_URL", stub.url.removeprefix("http://") + "/")
    with DigitClient() as client:
        assert client.url == stub.url
        assert client.predict(SEVEN)[0].digit == 7


def test_importing_the_client_is_light() -> None:
    code = (
        "import client, sys; print([m for m in ('torch', 'matplotlib', 'cv2') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
