"""The page in a real Chromium: strokes of a pen, photos, the camera, a server that goes away.

SCREENSHOTS=folder keeps the pictures that the README shows.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from client import DigitClient
from client.draw import MAX_BYTES, DrawServer
from client.server import REPOSITORY, Server
from tests.conftest import free_ports, make_home
from tests.draw.conftest import drawing
from tests.draw.strokes import Point, thin, trace

Mnist = tuple[NDArray[np.uint8], NDArray[np.int64]]
FIVE = REPOSITORY / "docs" / "five-on-paper.jpg"
DESKTOP = {"viewport": {"width": 1000, "height": 590}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
ONE = [[(14, y) for y in range(5, 24)]]
WAIT = 15_000  # ms for what is polled


@pytest.fixture
def page(browser: Any, page_server: DrawServer) -> Iterator[Any]:
    """The page, freshly opened; no error may be left in its console."""
    context = browser.new_context(**DESKTOP)
    context.set_default_timeout(WAIT)
    opened = context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(page_server.url)
    yield opened
    context.close()
    assert errors == []


def draw(page: Any, strokes: list[list[Point]]) -> None:
    """Move the mouse as a hand does: down, along, up."""
    box = page.locator("#pad").bounding_box()
    for stroke in strokes:
        for index, (x, y) in enumerate(smooth(stroke)):
            page.mouse.move(
                box["x"] + (x + 0.5) / 28 * box["width"], box["y"] + (y + 0.5) / 28 * box["height"]
            )
            if index == 0:
                page.mouse.down()
        page.mouse.up()


def smooth(stroke: list[Point]) -> list[tuple[float, float]]:
    """A hand does not follow pixels: the mean of each point and its neighbours."""
    line = np.array([stroke[0], *stroke, stroke[-1]], float)
    return [(float(x), float(y)) for x, y in (line[:-2] + line[1:-1] + line[2:]) / 3]


def shows(page: Any, digit: object) -> None:
    """Wait until the page shows this answer to what is drawn."""
    page.wait_for_function(
        "d => document.querySelector('#digit').textContent === d", arg=str(digit)
    )


def is_painted(page: Any, canvas: str) -> bool:
    return bool(
        page.evaluate(
            "id => document.getElementById(id).getContext('2d')"
            ".getImageData(0, 0, 28, 28).data.some((v) => v > 0)",
            canvas,
        )
    )


def test_a_trace_is_thin_and_covers_the_digit(mnist_test: Mnist) -> None:
    """The strokes are the test's own measure: they must lie on the ink, and along all of it."""
    for image in mnist_test[0][:20]:
        points = {point for stroke in trace(image) for point in stroke}
        assert all(image[y, x] > 100 for x, y in points)
        assert len(points) >= 0.8 * thin(image > 100).sum()


def test_drawn_digits_are_recognised(page: Any, mnist_test: Mnist) -> None:
    images, labels = mnist_test
    # The first of each digit, and each of them drawn as strokes, not pasted.
    first = [int(np.flatnonzero(labels == digit)[0]) for digit in range(10)]
    right, milliseconds = 0, []
    for index in first:
        page.locator("#clear").click()
        draw(page, trace(images[index]))
        page.wait_for_function("() => document.querySelector('#digit').textContent !== '–'")
        page.wait_for_function("() => document.querySelector('#target').textContent !== 'Why'")
        right += page.locator("#digit").inner_text() == str(labels[index])
        milliseconds.append(
            int(re.findall(r"in (\d+) ms", page.locator("#reason").inner_text())[0])
        )
    # Measured, not asserted: it is the machine's as much as ours. `pytest -rP` shows it.
    print(f"pen up to digit: median {statistics.median(milliseconds)} ms, all {milliseconds}")
    assert right >= 9
    assert is_painted(page, "seen")
    assert is_painted(page, "why")


def test_an_empty_page_shows_nothing(page: Any) -> None:
    """The measures above can fail: before a stroke there is no digit and nothing painted."""
    assert page.locator("#digit").inner_text() == "–"
    assert not is_painted(page, "seen")
    assert not is_painted(page, "why")


def test_a_photo_from_the_disk(page: Any) -> None:
    page.locator("#file").set_input_files(FIVE)
    shows(page, 5)
    assert page.locator("#bars .best").inner_text().split()[0] == "5"
    # Drawing begins afresh.
    draw(page, ONE)
    shows(page, 1)


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_photo_dropped_or_pasted(page: Any, event: str) -> None:
    page.evaluate(
        """async ([bytes, event]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], 'five.jpg', {type: 'image/jpeg'}));
            document.body.dispatchEvent(event === 'drop'
                ? new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true})
                : new ClipboardEvent('paste', {clipboardData: data, bubbles: true}));
        }""",
        [list(FIVE.read_bytes()), event],
    )
    shows(page, 5)


def test_the_camera(page: Any) -> None:
    page.locator("#camera").click()
    page.wait_for_function("() => document.querySelector('#video').videoWidth > 0")
    page.get_by_text("Take the picture").click()
    shows(page, 5)
    assert not page.locator("#lens").is_visible()
    # Closing it takes no picture, though the last time did.
    page.locator("#clear").click()
    page.locator("#camera").click()
    page.wait_for_function("() => document.querySelector('#lens').open")
    page.keyboard.press("Escape")
    page.wait_for_function("() => !document.querySelector('#video').srcObject.active")
    assert page.locator("#digit").inner_text() == "–"


def test_a_refused_image_shows_its_reason(page: Any, tmp_path: Path) -> None:
    Image.new("L", (200, 200), 255).save(tmp_path / "blank.png")
    page.locator("#file").set_input_files(tmp_path / "blank.png")
    page.wait_for_selector("#reason.refused")
    assert page.locator("#digit").inner_text() == "–"
    blank = page.locator("#reason").inner_text()
    (tmp_path / "words.png").write_text("seven")
    page.locator("#file").set_input_files(tmp_path / "words.png")
    page.get_by_text("the 5 bytes are not an image that can be read").wait_for()
    assert blank not in page.locator("#reason").inner_text()


def test_a_file_above_the_limit_is_told(page: Any, tmp_path: Path) -> None:
    (tmp_path / "film.bin").write_bytes(bytes(MAX_BYTES + 1))
    page.locator("#file").set_input_files(tmp_path / "film.bin")
    page.wait_for_selector("#reason.refused")
    assert "at most 32 MiB" in page.locator("#reason").inner_text()
    assert not page.locator("#down").is_visible()


def test_keyboard_alone(page: Any) -> None:
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    for _ in range(20):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    shows(page, 1)
    page.keyboard.press("Delete")
    shows(page, "–")
    # A further digit begins where the first did.
    top = page.locator("#pad").bounding_box()
    pen = page.locator("#pen").bounding_box()
    assert pen["x"] + pen["width"] / 2 == pytest.approx(top["x"] + top["width"] / 2, abs=1)
    assert pen["y"] + pen["height"] / 2 == pytest.approx(top["y"] + top["height"] / 4, abs=1)


def test_the_keyboard_shows_where_it_is(page: Any) -> None:
    """The pad's frame is marked as every control is, for the keyboard and not for the mouse."""
    outline = "id => getComputedStyle(document.getElementById(id)).outline.split(' ').slice(-2)"
    draw(page, ONE)
    assert page.evaluate(outline, "frame")[0] == "none"
    page.reload()
    page.keyboard.press("Tab")
    mark = page.evaluate(outline, "frame")
    assert mark == ["solid", "3px"]
    page.keyboard.press("Tab")
    assert page.evaluate(outline, "clear") == mark
    assert page.evaluate(outline, "frame")[0] == "none"


def test_a_narrow_window_still_tells_the_keys(page: Any) -> None:
    page.set_viewport_size({"width": 500, "height": 800})
    assert page.locator("#keys").is_visible()


def test_a_finger_draws_and_does_not_scroll(browser: Any, page_server: DrawServer) -> None:
    context = browser.new_context(**PHONE)
    page = context.new_page()
    page.goto(page_server.url)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert not page.locator("#keys").is_visible()  # for those who have some
    box = page.locator("#pad").bounding_box()
    touch = context.new_cdp_session(page)
    x = box["x"] + box["width"] / 2
    ways = [box["y"] + box["height"] * share for share in (0.2, 0.35, 0.5, 0.65, 0.8)]
    for kind, y in zip(["touchStart"] + ["touchMove"] * 4, ways, strict=True):
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    shows(page, 1)
    assert page.evaluate("scrollY") == 0
    context.close()


def test_a_lost_server_is_told_and_comes_back(browser: Any, archive: Path) -> None:
    home = make_home(archive)
    server = Server(home, free_ports())
    client = DigitClient(server.url, key_file=home / "key_file.json", timeout=2, deadline=1)
    context = browser.new_context()
    try:
        with client, drawing(client) as page_server:
            page = context.new_page()
            page.goto(page_server.url)
            page.wait_for_selector("#down:not([hidden])", timeout=WAIT)
            assert "make start" in page.locator("#down").inner_text()
            draw(page, ONE)
            with server.running():
                page.wait_for_selector("#down", state="hidden", timeout=60_000)
                shows(page, 1)  # what was drawn meanwhile is answered without a further stroke
            # Lost again: an answer to the last picture is none to this one.
            draw(page, [[(8, 8), (20, 8), (12, 24)]])
            shows(page, "–")
            assert "when the server is back" in page.locator("#reason").inner_text()
            assert page.locator("#bars .best").count() == 0
    finally:
        context.close()
        server.stop()
        shutil.rmtree(home)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("name", "device"), [("desktop", DESKTOP), ("phone", PHONE)])
def test_screenshots(  # noqa: PLR0917  (fixtures)
    browser: Any,
    page_server: DrawServer,
    mnist_test: Mnist,
    tmp_path: Path,
    name: str,
    device: Any,
    scheme: Any,
) -> None:
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path)
    context = browser.new_context(**device, color_scheme=scheme, device_scale_factor=2)
    page = context.new_page()
    page.goto(page_server.url)
    draw(page, trace(mnist_test[0][0]))
    shows(page, 7)
    page.wait_for_function("() => document.querySelector('#target').textContent === 'Why 7'")
    page.mouse.move(0, 0)
    path = folder / f"draw-{name}-{scheme}.png"
    page.screenshot(path=path, animations="disabled")
    size = device["viewport"]
    with Image.open(path) as picture:
        assert picture.size == (2 * size["width"], 2 * size["height"])
        mean = float(np.asarray(picture.convert("L")).mean())
    assert mean > 150 if scheme == "light" else mean < 100
    # Nothing is cut off to the right, and all of it is within a screen.
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
    assert page.evaluate("document.documentElement.scrollHeight") <= size["height"]
    context.close()
