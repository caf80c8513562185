"""`DigitClient.explain` and `python -m client explain`: the request, the numbers, the picture."""

from __future__ import annotations

import base64
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from PIL import Image

from client import Explanation, Refused, ServerFailed
from client.__main__ import main
from client.explain import Explained, heat_figure
from client.images import ImageLike
from tests.client.conftest import Connect, pixels
from tests.client.stub import Answer, Asked, Stub

SEVEN = np.zeros((28, 28), np.uint8)
SEVEN[6, 8:20] = SEVEN[6:22, 18:20] = 255
VALUES = np.linspace(-1, 2, 784, dtype=np.float32).reshape(28, 28)
BUSY = {"error": {"code": "busy", "message": "later"}}


def respond(asked: Asked) -> Answer:
    """Explain every image as a seven, and refuse what is no file."""
    assert asked.path == "/explanations/mnist"
    body = json.loads(asked.body)
    if base64.b64decode(body["instances"][0]["b64"]) == b"nothing":
        refusal = {"error": {"code": "no_digit", "message": "nothing legible"}}
        return Answer(422, {"explanations": [refusal]} | refusal)
    target = 7 if body["target"] is None else body["target"]
    found = {"digit": 7, "target": target, "attributions": VALUES.tolist()}
    return Answer(200, {"explanations": [found | {"completeness_error": 0.004, "steps": 128}]})


@pytest.fixture(autouse=True)
def _explaining(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    stub.respond = respond
    monkeypatch.setenv("MNIST_URL", stub.url)


def save(path: str) -> str:
    Image.fromarray(SEVEN).save(path, "PNG")
    return path


def test_every_form_of_image(connect: Connect, stub: Stub) -> None:
    forms: list[ImageLike] = [
        save("7.png"),
        Path("7.png").read_bytes(),
        Image.fromarray(SEVEN),
        SEVEN,
    ]
    for form in forms:
        explanation = connect().explain(form)
        assert (explanation.digit, explanation.target, explanation.steps) == (7, 7, 128)
        assert explanation.completeness_error == pytest.approx(0.004)
        assert explanation.attributions.dtype == np.float32
        assert np.array_equal(explanation.attributions, VALUES)
    sent = base64.b64decode(json.loads(stub.asked[-1].body)["instances"][0]["b64"])
    assert np.array_equal(np.load(io.BytesIO(sent)), SEVEN)


def test_a_target_is_passed_on(connect: Connect) -> None:
    assert connect().explain(SEVEN, target=0).target == 0


def test_many_images_are_no_image(connect: Connect) -> None:
    with pytest.raises(ValueError, match="expected one image, got 2"):
        connect().explain(pixels(2))


def test_what_is_refused_is_raised(connect: Connect, stub: Stub) -> None:
    with pytest.raises(Refused, match="nothing legible") as raised:
        connect().explain(b"nothing")
    assert (raised.value.code, raised.value.status) == ("no_digit", 422)
    bodies: list[Any] = [[], {"explanations": []}, {"explanations": [{"digit": 7}]}]
    for body in bodies:
        stub.respond = lambda _, body=body: Answer(200, body)  # type: ignore[misc]
        with pytest.raises(ServerFailed, match="expected an explanation"):
            connect().explain(SEVEN)


def test_a_busy_server_is_asked_again(connect: Connect, stub: Stub) -> None:
    busy, left = Answer(503, {"explanations": [BUSY]} | BUSY), [1, 2]
    stub.respond = lambda asked: busy if left and left.pop() else respond(asked)
    assert connect().explain(SEVEN).digit == 7
    assert len(stub.asked) == 3


def test_the_command_prints_lines_and_draws(capsys: pytest.CaptureFixture[str]) -> None:
    names = [save("a.png"), save("$b^.png"), save("tab\t.png")]
    assert main(["explain", *names, "--target", "1", "--output", "pictures/why.png"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "a.png\t7\t1",
        "$b^.png\t7\t1",
        "tab\\t.png\t7\t1",
        "pictures/why.png: 3 of 3 explained",
    ]
    with Image.open("pictures/why.png") as picture:
        assert picture.size == (600, 750)


def test_refused_files_are_told_and_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    Path("blank.png").write_bytes(b"nothing")
    assert main(["explain", "blank.png", "missing.png"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines() == [
        "blank.png: nothing legible",
        "missing.png: cannot be read: No such file or directory",
    ]
    assert not Path("explanation.png").exists()
    assert main(["explain", "blank.png", save("7.png")]) == 1
    assert capsys.readouterr().out.endswith("explanation.png: 1 of 2 explained\n")
    assert Path("explanation.png").is_file()


@pytest.mark.parametrize("arguments", [["x.png", "--target", "10"], ["x.png", "--target", "a"], []])
def test_usage_errors(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["explain", *arguments])
    assert raised.value.code == 64


def test_too_many_files_and_no_such_picture(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", *["x.png"] * 65]) == 64
    assert main(["explain", save("7.png"), "--output", "why.xyz"]) == 64
    assert capsys.readouterr().err.count("\n") == 2


def test_orange_lies_where_a_pixel_spoke_for_it_and_blue_where_against() -> None:
    values = np.zeros((28, 28), np.float32)
    values[3, 4], values[5, 6] = 2, -1
    explained = Explained("7.png", SEVEN, Explanation(7, 3, values, 0.0, 128))
    figure = heat_figure([explained, explained])
    first = figure.axes[0]
    assert first.get_title() == "7.png\nPredicted: 7\nWhy 3?"
    digit, heat = first.images
    assert np.array_equal(np.asarray(digit.get_array()), SEVEN)
    colors = np.asarray(heat.to_rgba(np.asarray(heat.get_array())))
    assert tuple(colors[3, 4, :3]) == to_rgba("#FF9147")[:3]
    assert colors[5, 6, 2] > colors[5, 6, 0]
    alpha = np.asarray(heat.get_alpha())
    assert (alpha[3, 4], alpha[0, 0]) == (1.0, 0.0)
    name = os.fsdecode(b"\t\xff.png")
    blank = Explained(name, SEVEN, Explanation(7, 7, np.zeros((28, 28), np.float32), 0.0, 128))
    figure = heat_figure([blank])
    figure.canvas.draw()
    assert figure.axes[0].get_title().startswith("??.png\n")
