"""`python -m client`: what it prints, where, and its exit codes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

from client import commands
from client.__main__ import main
from client.server import REPOSITORY
from tests.client.conftest import pixels
from tests.client.stub import Answer, Asked, Stub, respond

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _found(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNIST_URL", stub.url)


def save(path: Path, digit: int) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(10)[digit]).save(path)
    return str(path)


def start(*arguments: str) -> subprocess.Popen[bytes]:
    """The command in a process of its own, as a shell starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", "client", *arguments],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_predict_prints_a_line_each(tmp_path: Path, capsys: Output) -> None:
    names = [save(tmp_path / f"{digit}.png", digit) for digit in (3, 1, 4)]
    assert main(["predict", *names]) == 0
    assert capsys.readouterr().out == "".join(
        f"{name}\t{digit}\n" for name, digit in zip(names, (3, 1, 4), strict=True)
    )


def test_predict_walks_folders_in_order(tmp_path: Path, capsys: Output) -> None:
    for digit, name in enumerate(("a.png", "b/c.JPG", "b/d.png", "e.gif")):
        save(tmp_path / "in" / name, digit)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    (tmp_path / "in" / ".hidden.png").write_bytes(b"no image")
    assert main(["predict", "in", "--json"]) == 1  # the stub reads no JPEG, no GIF
    names = [json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()]
    assert names == ["in/a.png", "in/b/c.JPG", "in/b/d.png", "in/e.gif"]


@pytest.mark.parametrize("key", ["-LOVfZw8", "--url"])
def test_a_key_may_look_like_an_option(
    key: str, stub: Stub, tmp_path: Path, capsys: Output
) -> None:
    # One in 64 of TorchServe's keys starts with -.
    save(tmp_path / "7.png", 7)
    assert main(["predict", "--key", key, "7.png"]) == 0
    assert capsys.readouterr().out == "7.png\t7\n"
    assert [asked.headers["Authorization"] for asked in stub.asked] == [f"Bearer {key}"]


def test_after_two_dashes_everything_is_a_file(tmp_path: Path, capsys: Output) -> None:
    Path(save(tmp_path / "7.png", 7)).rename(tmp_path / "--key")
    save(tmp_path / "3.png", 3)
    assert main(["predict", "--", "--key", "3.png"]) == 0
    assert capsys.readouterr().out == "--key\t7\n3.png\t3\n"


def test_predict_reads_standard_input(
    tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = Path(save(tmp_path / "7.png", 7)).read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(body)))
    assert main(["predict", "-"]) == 0
    assert capsys.readouterr().out == "-\t7\n"


def test_a_refusal_is_one_line_on_stderr_and_exit_code_1(tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "blank.png").write_bytes(b"nothing")
    save(tmp_path / "5.png", 5)
    assert main(["predict", "blank.png", "5.png", "missing.png"]) == 1
    output = capsys.readouterr()
    assert output.out == "5.png\t5\n"
    assert output.err.splitlines() == [
        "blank.png: nothing[31m legible",
        "missing.png: cannot be read: No such file or directory",
    ]


def test_json_has_an_object_for_each_image(tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "blank.png").write_bytes(b"nothing")
    save(tmp_path / "5.png", 5)
    assert main(["predict", "--json", "blank.png", "5.png"]) == 1
    output = capsys.readouterr()
    assert output.err == ""
    assert [json.loads(line) for line in output.out.splitlines()] == [
        {
            "name": "blank.png",
            "error": {"code": "no_digit", "message": "nothing[31m legible"},
        },
        {"name": "5.png", "digit": 5},
    ]


def test_probabilities_as_columns_and_as_json(tmp_path: Path, capsys: Output) -> None:
    save(tmp_path / "2.png", 2)
    assert main(["predict", "--probabilities", "2.png"]) == 0
    columns = ["0.0100"] * 10
    columns[2] = "0.9100"
    assert capsys.readouterr().out.rstrip("\n").split("\t") == ["2.png", "2", *columns]
    assert main(["predict", "--probabilities", "--json", "2.png"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["confidence"] == pytest.approx(0.91)
    assert record["probabilities"] == pytest.approx([float(p) for p in columns])


def test_strange_file_names_stay_on_one_line(tmp_path: Path) -> None:
    name = os.fsdecode(b"tab\tnew\nline\xff.png")
    save(tmp_path / "1.png", 1)
    (tmp_path / "1.png").rename(tmp_path / name)
    process = start("predict", name)
    stdout, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert stdout == b"tab\\tnew\\nline\xff.png\t1\n"


def test_no_server_is_one_line_and_exit_code_2(tmp_path: Path, capsys: Output) -> None:
    name = save(tmp_path / "1.png", 1)
    for command in (["predict", name], ["plot"], ["evaluate"]):
        assert main([*command, "--url", "http://127.0.0.1:1"]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.count("\n") == 1
        assert "Nobody answers at http://127.0.0.1:1" in output.err


def test_a_server_lost_half_way_keeps_the_lines_that_came(
    tmp_path: Path, stub: Stub, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "FILES_AT_ONCE", 2)
    for digit in range(4):
        save(tmp_path / "in" / f"{digit}.png", digit)
    stub.respond = lambda asked: respond(asked) if len(stub.asked) == 1 else None
    assert main(["predict", "in", "--deadline", "0.5"]) == 2
    output = capsys.readouterr()
    assert output.out == "in/0.png\t0\nin/1.png\t1\n"
    assert "is lost" in output.err
    assert output.err.count("\n") == 1


def test_a_request_lost_among_others_keeps_their_lines(
    tmp_path: Path, stub: Stub, capsys: Output
) -> None:
    for index in range(65):  # one more than share a request
        save(tmp_path / "in" / f"{index:02}.png", index % 10)
    stub.respond = lambda asked: respond(asked) if len(asked.images) == 64 else None
    assert main(["predict", "in", "--deadline", "0.5"]) == 2
    output = capsys.readouterr()
    assert output.out.splitlines() == [f"in/{i:02}.png\t{i % 10}" for i in range(64)]
    assert output.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["predict"],
        ["draw", "--port", "x"],
        ["draw", "--port", "99999"],
        ["doctor", "--port", "x"],
        ["plot", "--grid", "4"],
        ["plot", "--grid", "0x4"],
        ["plot", "--grid", "100x100"],
        ["plot", "--seed", "-1"],
        ["plot", "--timeout", "0"],
        ["plot", "--timeout", "soon"],
    ],
)
def test_usage_errors_are_exit_code_64(arguments: list[str], capsys: Output) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 64
    assert "usage: python -m client" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "x.png", "--url", "http://"],
        ["predict", "x.png", "--key", "two\nlines"],
        ["predict", "x.png", "--key", "€"],
        ["predict", "empty"],
        ["plot", "--data-dir", "empty"],
        ["plot", "--output", "picture.xyz"],
        ["plot", "--output", "file/picture.png"],
        ["evaluate", "empty"],
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_64(
    arguments: list[str], tmp_path: Path, capsys: Output
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    assert main(arguments) == 64
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1


def test_help_tells_the_exit_codes(capsys: Output) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["--help"])
    assert raised.value.code == 0
    output = capsys.readouterr().out
    for word in ("exit codes", "MNIST_URL", "MNIST_KEY_FILE", "64"):
        assert word in output


def test_plot_sends_sixteen_png_files_alone_and_together(
    stub: Stub, tmp_path: Path, capsys: Output
) -> None:
    together = threading.Barrier(16, timeout=20)

    def wait_for_all(asked: Asked) -> Answer:
        together.wait()
        return respond(asked)

    stub.respond = wait_for_all
    assert main(["plot", "--seed", "5", "--output", "pictures/digits.png"]) == 0
    assert len(stub.asked) == 16
    assert all(b"\x89PNG" in asked.body for asked in stub.asked)
    assert capsys.readouterr().out.startswith("pictures/digits.png: ")
    with Image.open(tmp_path / "pictures" / "digits.png") as picture:
        assert picture.size == (1200, 1200)


def test_plot_as_json_finds_the_misses(
    tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.arange(50) % 10
    labels[:3] = 9
    monkeypatch.setattr("client.testset.read_test_set", lambda _: (pixels(50), labels))
    arguments = ["plot", "--seed", "5", "--only-misses", "--dark", "--json", "--output", "m.svg"]
    assert main(arguments) == 0
    record = json.loads(capsys.readouterr().out)
    # Three are missed, fewer than the grid holds.
    assert record == {"output": "m.svg", "right": 0, "images": 3, "seed": 5}
    assert "<svg" in (tmp_path / "m.svg").read_text()


def test_version_and_completion(capsys: Output) -> None:
    for option, word in (
        (["--version"], "digits"),
        (["--print-completion", "bash"], "--only-misses"),
    ):
        with pytest.raises(SystemExit) as raised:
            main(option)
        assert raised.value.code == 0
        assert word in capsys.readouterr().out


@pytest.mark.parametrize(("terminal", "red"), [(True, True), (False, False)])
def test_colours_only_on_a_terminal(
    terminal: bool, red: bool, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    commands.complain("wrong")
    assert ("\x1b[31m" in capsys.readouterr().err) == red


def test_evaluate_as_json(tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.arange(50) % 10
    monkeypatch.setattr("client.evaluate.read_test_set", lambda _: (pixels(50), labels))
    assert main(["evaluate", "--output", "reports", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["images"], record["accuracy"], record["misses"]) == (50, 1.0, 0)
    assert (tmp_path / record["report"]).with_name("mnist-served-confusion.svg").is_file()


def test_plot_does_without_probabilities(stub: Stub, capsys: Output) -> None:
    stub.respond = lambda a: respond(a) if a.path == "/predictions/mnist" else Answer(404)
    assert main(["plot", "--seed", "5", "--grid", "1x2"]) == 0
    first = capsys.readouterr().out
    assert first.startswith("predictions.png: ")
    assert first.endswith("of 2 right (seed 5)\n")
    assert main(["plot", "--grid", "2x1"]) == 0
    assert "(seed " in capsys.readouterr().out


def test_show_without_a_display_says_where_the_picture_is(
    capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert main(["plot", "--grid", "1x1", "--show"]) == 0
    assert "predictions.png" in capsys.readouterr().err


def test_show_opens_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[int, int]] = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(Image.Image, "show", lambda self: shown.append(self.size))
    assert main(["plot", "--grid", "1x1", "--show"]) == 0
    assert shown == [(1200, 1200)]


def test_evaluate_a_folder(tmp_path: Path, capsys: Output) -> None:
    folder = tmp_path / "drawn"
    for digit in range(4):
        save(folder / f"anna__{digit}.png", digit)
    (folder / "blank.png").write_bytes(b"nothing")
    rows = [f"anna__{digit}.png\t{min(digit, 2)}" for digit in range(4)]
    (folder / "LABELS.tsv").write_text("\n".join([*rows, "blank.png\t7", ""]))
    assert main(["evaluate", "drawn", "--output", "reports"]) == 1
    output = capsys.readouterr().out
    assert "drawn, served: 60.00%" in output
    report = (tmp_path / "reports" / "drawn-served.md").read_text()
    assert "| blank.png | 7 | refused: " in report
    assert (tmp_path / "reports" / "drawn-served-misses.png").is_file()


def test_reports_that_would_overwrite_each_other(tmp_path: Path, capsys: Output) -> None:
    for place in "ab":
        save(tmp_path / place / "drawn" / "7.png", 7)
        (tmp_path / place / "drawn" / "LABELS.tsv").write_text("7.png\t7\n")
    assert main(["evaluate", "a/drawn", "b/drawn", "--output", "reports"]) == 64
    assert "two folders are called drawn" in capsys.readouterr().err
    assert not (tmp_path / "reports").exists()


def test_evaluate_mnist(tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.arange(50) % 10
    labels[:5] = 9
    monkeypatch.setattr("client.evaluate.read_test_set", lambda _: (pixels(50), labels))
    assert main(["evaluate", "--output", "reports"]) == 0
    assert "MNIST test set, served: 90.00%" in capsys.readouterr().out
    assert (tmp_path / "reports" / "mnist-served.md").is_file()


def test_a_closed_pipe_ends_it_quietly(tmp_path: Path) -> None:
    save(tmp_path / "1.png", 1)
    process = start("predict", "1.png")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(20) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.parametrize(("closed", "image", "code"), [(">&-", "7.png", 0), ("2>&-", "none", 1)])
def test_a_closed_stream_is_not_missed(tmp_path: Path, closed: str, image: str, code: int) -> None:
    save(tmp_path / "7.png", 7)
    command = f'exec "$0" -m client predict {image} {closed}'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")


def test_ctrl_c_ends_it_at_once_and_quietly(tmp_path: Path, stub: Stub) -> None:
    asked, release = threading.Event(), threading.Event()

    def hang(_: Asked) -> None:
        asked.set()
        release.wait(20)

    stub.respond = hang
    save(tmp_path / "1.png", 1)
    process = start("predict", "1.png", "--timeout", "15")
    assert asked.wait(20)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=5)
    release.set()
    assert process.returncode == -signal.SIGINT
    assert (stdout, stderr) == (b"", b"")


def test_draw_serves_a_page_until_it_is_interrupted(stub: Stub) -> None:
    process = start("draw", "--port", "0", "--no-browser", "--json")
    assert process.stdout is not None
    printed = json.loads(process.stdout.readline())
    assert printed["server"] == stub.url
    page = requests.get(printed["url"], timeout=20)
    assert "<title>Draw a digit</title>" in page.text
    page.close()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert (process.returncode, stderr) == (0, b"")
