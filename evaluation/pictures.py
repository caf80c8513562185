"""The report's pictures, drawn without a display and without pyplot's global state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from evaluation import style
from evaluation.metrics import calibration_bins, expected_calibration_error

COLUMNS = 6
CELL = 2.6, 1.75  # inches of a miss on the contact sheet: two images of 1.2 and a caption


@dataclass(frozen=True)
class Miss:
    """A cell of the contact sheet: images uint8 [H, W] or [H, W, 3], and one or two lines."""

    image: npt.NDArray[np.uint8]
    normalised: npt.NDArray[np.uint8]
    caption: str


def draw_confusion(matrix: npt.NDArray[np.int64], *paths: Path) -> None:
    """Draw counts [10, 11] (last column: refused). Only the mistakes are coloured."""
    mistakes = matrix.astype(np.float64)
    np.fill_diagonal(mistakes, 0)
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    # Transparent where there is none, so that it fits any page.
    strength = np.sqrt(mistakes / max(1.0, float(mistakes.max())))
    shade = np.zeros((*matrix.shape, 4))
    shade[..., :3], shade[..., 3] = to_rgb(style.ORANGE), 0.9 * strength
    axes.imshow(shade)
    for (row, column), count in np.ndenumerate(matrix):
        if count:
            # Above it black reads better on either page, below it the page's own colour.
            colour = "black" if strength[row, column] > 0.65 else style.text()
            weight = "bold" if row == column else "normal"
            middle: Any = {"ha": "center", "va": "center"}
            axes.text(column, row, str(count), size=9, color=colour, weight=weight, **middle)
    axes.set_xticks(range(11), [*map(str, range(10)), "refused"])
    axes.set_yticks(range(10), map(str, range(10)))
    axes.set(xlabel="predicted", ylabel="actual", title="Images, mistakes in orange")
    style.save(figure, *paths)


def draw_calibration(
    labels: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float32], *paths: Path
) -> None:
    """Draw accuracy against confidence, and below it how many predictions each bin holds."""
    bins = calibration_bins(labels, probabilities) if len(labels) else []
    figure = Figure(figsize=(6, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 1], [0, 1], color="grey", linestyle="--", label="confidence = accuracy")
    upper.plot([b.confidence for b in bins], [b.accuracy for b in bins], marker="o", label="model")
    error = expected_calibration_error(labels, probabilities)
    upper.set(title=f"Expected calibration error {error:.2%}", ylabel="accuracy")
    upper.legend()
    lower.bar(
        [b.low for b in bins],
        [b.count for b in bins],
        width=[b.high - b.low for b in bins],
        align="edge",
        edgecolor=figure.get_facecolor(),
    )
    if bins:
        lower.set_yscale("log")
    lower.set(xlabel="confidence", ylabel="images")
    style.save(figure, *paths)


def draw_misses(misses: Sequence[Miss], *paths: Path) -> None:
    """Draw every miss as its input beside what the model saw, its caption below."""
    columns = min(COLUMNS, len(misses))
    rows = -(-len(misses) // columns)
    width, height = CELL
    figure = Figure(figsize=(columns * width, rows * height))
    # One pair of axes for all, in inches from the upper left: a pair each takes seconds.
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for index, miss in enumerate(misses):
        x, y = index % columns * width + 0.08, index // columns * height + 0.08
        for left, pixels in ((x, miss.image), (x + 1.25, miss.normalised)):
            _fit(axes, pixels, left, y)
        axes.text(x, y + 1.24, miss.caption, size=9, va="top")
    axes.set(xlim=(0, columns * width), ylim=(rows * height, 0))
    style.save(figure, *paths)


def _fit(axes: Axes, pixels: npt.NDArray[np.uint8], left: float, top: float) -> None:
    """Put an image into the square of 1.2 inches, aspect kept, on grey."""
    side = 1.2
    axes.add_patch(Rectangle((left, top), side, side, facecolor="grey", linewidth=0))
    height, width = (side * n / max(pixels.shape[:2]) for n in pixels.shape[:2])
    left, top = left + (side - width) / 2, top + (side - height) / 2
    axes.imshow(
        pixels,
        cmap="gray",
        vmin=0,
        vmax=255,
        zorder=2,  # above the grey
        extent=(left, left + width, top + height, top),
        # Pixels of a small image stay visible as pixels.
        interpolation="nearest" if max(pixels.shape[:2]) < 60 else "antialiased",
    )
