"""The report's pictures, drawn without a display and without pyplot's global state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from evaluation.metrics import calibration_bins, expected_calibration_error

SIDE = 112  # pixels of one image on a contact sheet
COLUMNS = 6


@dataclass(frozen=True)
class Miss:
    """A cell of the contact sheet: images uint8 [H, W] or [H, W, 3], and one or two lines."""

    image: npt.NDArray[np.uint8]
    normalised: npt.NDArray[np.uint8]
    caption: str


def draw_confusion(matrix: npt.NDArray[np.int64], path: Path) -> None:
    """Draw counts [10, 11] (last column: refused). Only the mistakes are coloured."""
    mistakes = matrix.astype(np.float64)
    np.fill_diagonal(mistakes, 0)
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(mistakes, cmap="Reds", vmin=0, vmax=max(1.0, 1.5 * float(mistakes.max())))
    for (row, column), count in np.ndenumerate(matrix):
        if count:
            axes.text(column, row, str(count), ha="center", va="center", fontsize=8)
    axes.set_xticks(range(11), [*map(str, range(10)), "refused"])
    axes.set_yticks(range(10))
    axes.set_xlabel("predicted")
    axes.set_ylabel("actual")
    figure.savefig(path, dpi=120)


def draw_calibration(
    labels: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float32], path: Path
) -> None:
    """Draw accuracy against confidence, and below it how many predictions each bin holds."""
    bins = calibration_bins(labels, probabilities) if len(labels) else []
    figure = Figure(figsize=(6, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 1], [0, 1], color="grey", linestyle="--", label="confidence = accuracy")
    upper.plot([b.confidence for b in bins], [b.accuracy for b in bins], marker="o", label="model")
    error = expected_calibration_error(labels, probabilities)
    upper.set_title(f"expected calibration error {error:.2%}")
    upper.set_ylabel("accuracy")
    upper.legend()
    lower.bar(
        [b.low for b in bins],
        [b.count for b in bins],
        width=[b.high - b.low for b in bins],
        align="edge",
    )
    if bins:
        lower.set_yscale("log")
    lower.set_xlabel("confidence")
    lower.set_ylabel("images")
    figure.savefig(path, dpi=120)


def draw_misses(misses: Sequence[Miss], path: Path) -> None:
    """Draw every miss as its input beside what the model saw, its caption below."""
    font = ImageFont.load_default(size=14)
    width, height = 2 * SIDE + 24, SIDE + 52
    columns = min(COLUMNS, len(misses))
    rows = -(-len(misses) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    for index, miss in enumerate(misses):
        x, y = index % columns * width + 8, index // columns * height + 8
        sheet.paste(_fit(miss.image), (x, y))
        sheet.paste(_fit(miss.normalised), (x + SIDE + 4, y))
        draw.multiline_text((x, y + SIDE + 2), miss.caption, fill="black", font=font)
    sheet.save(path)


def _fit(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    """Enlarge or shrink to the cell's square, aspect kept, on grey."""
    image = Image.fromarray(pixels).convert("RGB")
    scale = SIDE / max(image.size)
    small = scale > 1  # pixels of a small image stay visible as pixels
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    resampling = Image.Resampling.NEAREST if small else Image.Resampling.BOX
    cell = Image.new("RGB", (SIDE, SIDE), "grey")
    cell.paste(image.resize(size, resampling), ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return cell
