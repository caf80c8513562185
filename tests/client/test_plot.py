"""The picture: its size, its titles, and how a wrong digit looks."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from client import Prediction, Refused, ServerUnreachable
from client.plot import grid_figure
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
