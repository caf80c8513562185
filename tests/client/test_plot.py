"""The picture: its size, its titles, and how a wrong digit looks."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from client import Prediction, Refused, ServerUnreachable
from client.explain import Explained, Explanation, heat_figure
from client.plot import grid_figure
from evaluation import style
from evaluation.style import WRONG
from tests.client.conftest import pixels

LABELS = np.arange(16) % 10


def sure_of(digit: int) -> Prediction:
    probabilities = np.full(10, 0.01, np.float32)
    probabilities[digit] = 0.91
    return Prediction(digit, probabilities)


def is_marked(axes: Axes) -> bool:
    red_title = to_hex(axes.title.get_color()) == WRONG.lower()
    frame = axes.get_frame_on() and all(
        to_hex(spine.get_edgecolor()) == WRONG.lower()
        and spine.get_linewidth() >= 5
        and spine.get_visible()
        for spine in axes.spines.values()
    )
    assert red_title == frame
    return red_title


def test_sixteen_right_ones() -> None:
    predictions = [Prediction(int(label)) for label in LABELS]
    figure = grid_figure(pixels(16), LABELS, predictions, 4, 4)
    assert tuple(figure.get_size_inches()) == (12, 12)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [f"Actual: {label}\nPredicted: {label}" for label in LABELS]
    assert not any(is_marked(axes) for axes in figure.axes)
    for axes, image in zip(figure.axes, pixels(16), strict=True):
        assert (np.asarray(axes.images[0].get_array()) == image).all()
        assert axes.images[0].get_clim() == (0, 255)


def test_wrong_and_missing_answers_are_unmistakable() -> None:
    predictions = [
        sure_of(0),
        sure_of(7),
        Prediction(None, error=Refused("blank", "no_digit")),
        Prediction(None, error=ServerUnreachable("gone")),
    ]
    figure = grid_figure(pixels(4), LABELS[:4], predictions, 2, 2)
    assert [axes.get_title() for axes in figure.axes] == [
        "Actual: 0\nPredicted: 0 (91.0%)",
        "Actual: 1\nPredicted: 7 (91.0%)",
        "Actual: 2\nPredicted: – (no_digit)",
        "Actual: 3\nPredicted: – (no answer)",
    ]
    assert [is_marked(axes) for axes in figure.axes] == [False, True, True, True]


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 6), (5, 2)])
def test_other_grids(rows: int, columns: int) -> None:
    count = rows * columns
    figure = grid_figure(
        pixels(count), LABELS[:count], [sure_of(i) for i in range(count)], rows, columns
    )
    grid = figure.axes[0].get_gridspec()
    assert grid is not None
    assert (grid.nrows, grid.ncols) == (rows, columns)
    figure.canvas.draw()


def cut_off(figure: Figure) -> list[str]:
    """The texts of a figure that reach beyond its edge."""
    FigureCanvasAgg(figure).draw()  # type: ignore[no-untyped-call]
    page = figure.bbox
    return [
        text.get_text()
        for text in figure.findobj(Text)
        if isinstance(text, Text)
        and text.get_text()
        and not (
            (box := text.get_window_extent()).x0 >= page.x0 - 1
            and box.x1 <= page.x1 + 1
            and box.y0 >= page.y0 - 1
            and box.y1 <= page.y1 + 1
        )
    ]


@pytest.mark.parametrize("count", [1, 2, 6])
def test_no_label_is_cut_off(count: int) -> None:
    why = Explanation(7, 3, np.ones((28, 28), np.float32), 0.0, 128)
    with style.theme():
        heat = heat_figure([Explained("a/rather/long/path/of/an.png", pixels(1)[0], why)] * count)
        grid = grid_figure(
            pixels(count), LABELS[:count], [sure_of(0)] * count, 1, count, [why] * count
        )
    assert cut_off(heat) == []
    assert cut_off(grid) == []


def test_a_label_that_is_cut_off_is_noticed() -> None:
    figure = Figure(figsize=(1, 1))
    figure.text(0.5, 0.5, "far too long for this page")
    assert cut_off(figure) == ["far too long for this page"]
