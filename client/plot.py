"""The picture of served predictions: a grid of digits, each with what it is and what was said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from client.errors import Refused
from client.explain import Explanation, draw_heat
from client.prediction import Prediction
from evaluation.style import WRONG

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INCHES = 12


def grid_figure(  # noqa: PLR0913, PLR0917  (a picture of all of them)
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    predictions: Sequence[Prediction],
    rows: int,
    columns: int,
    explanations: Sequence[Explanation | None] | None = None,
) -> Figure:
    """Draw images row by row, titled `Actual: 7` and `Predicted: 7`; wrong ones bold and framed.

    Args:
        images: uint8 [N, 28, 28], N <= rows × columns.
        labels: int64 [N], 0..9.
        predictions: N of them; the confidence is shown where it is known.
        rows, columns: the grid's; the figure measures 12×12 inches.
        explanations: N of them, drawn over the images; None where there is none.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415  (slow; only pictures need it)

    figure = Figure(figsize=(INCHES, INCHES), layout="tight")
    size = min(12.0, 60 / max(rows, columns))  # points; small enough that titles do not touch
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set(xticks=[], yticks=[])
        axes.set_frame_on(False)
    reasons = explanations or [None] * len(images)
    drawn = zip(grid, images, labels, predictions, reasons, strict=False)
    for axes, image, label, prediction, explanation in drawn:
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)
        if explanation is not None:
            draw_heat(axes, explanation)
        axes.set_title(title(int(label), prediction), fontsize=size, loc="center")
        if prediction.digit != label:
            _mark_wrong(axes, size / 2)
    if explanations:
        figure.supxlabel("orange spoke for the predicted digit, blue against it", fontsize=size)
    return figure


def title(label: int, prediction: Prediction) -> str:
    """Return the two lines above a digit."""
    if prediction.digit is None:
        reason = prediction.error.code if isinstance(prediction.error, Refused) else "no answer"
        return f"Actual: {label}\nPredicted: – ({reason})"
    confidence = prediction.confidence
    known = "" if confidence is None else f" ({confidence:.1%})"
    return f"Actual: {label}\nPredicted: {prediction.digit}{known}"


def _mark_wrong(axes: Axes, width: float) -> None:
    axes.title.set(color=WRONG, fontweight="bold")
    axes.set_frame_on(True)
    axes.spines[:].set_visible(True)
    for spine in axes.spines.values():
        spine.set(edgecolor=WRONG, linewidth=width)
