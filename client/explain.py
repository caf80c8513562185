"""Explanations: which pixels spoke for a digit, asked of the server and drawn over the image.

An image goes as the one instance of JSON, `{"instances": [{"b64": …}], "target": 3}`, and comes
back as `{"explanations": [{"digit": 7, "attributions": 28×28 floats, …}]}`.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import requests
from numpy.typing import NDArray

from client.errors import ServerFailed
from client.transport import Request

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PATH = "/explanations/mnist"
INCHES = 3  # a side of each image in the picture
LETTERS = 30  # of a file's name, from its end: more would reach into the next image's


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why the model gave one digit its score, by integrated gradients from a black image.

    Attributes:
        digit: 0..9, the predicted one.
        target: 0..9, the digit that is explained.
        attributions: float32 [28, 28], of the image in MNIST's form; positive where a pixel spoke
            for the target. They sum up to its logit, less that of a black image.
        completeness_error: how far the sum is from that difference, as a share of it.
        steps: points on the way from black to the image.
    """

    digit: int
    target: int
    attributions: NDArray[np.float32]
    completeness_error: float
    steps: int


class Explained(NamedTuple):
    """One image of the picture: its name, its pixels uint8 [28, 28] in MNIST's form, and why."""

    name: str
    pixels: NDArray[np.uint8]
    explanation: Explanation


def request(image: bytes, target: int | None) -> Request:
    """Ask why an image shows `target`, by default the digit that is predicted.

    Args:
        image: an image file, or a `.npy` file of one image.
        target: 0..9.
    """
    body = {"instances": [{"b64": base64.b64encode(image).decode()}], "target": target}
    return Request(PATH, json.dumps(body).encode(), {"Content-Type": "application/json"})


def explanation(answer: requests.Response) -> Explanation:
    """Read the one explanation of an answer.

    Raises:
        ServerFailed: the answer is not what the contract says.
    """
    try:
        (found,) = answer.json()["explanations"]
        return Explanation(
            int(found["digit"]),
            int(found["target"]),
            np.array(found["attributions"], np.float32).reshape(28, 28),
            float(found["completeness_error"]),
            int(found["steps"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ServerFailed(f"expected an explanation, got {answer.text[:80]!r}") from error


def heat_figure(images: Sequence[Explained]) -> Figure:
    """Draw each image with its attributions over it: orange for the target, blue against it."""
    from matplotlib.figure import Figure  # noqa: PLC0415  (slow; only pictures need it)

    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    # Each image has three lines above it, the figure one below.
    height = (INCHES + 0.6) * rows + 0.3
    figure = Figure(figsize=(INCHES * columns, height))
    figure.subplots_adjust(0.02, 0.4 / height, 0.98, 1 - 0.65 / height, 0.05, 0.7 / INCHES)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set(xticks=[], yticks=[])
        axes.set_frame_on(False)
    for axes, (name, pixels, explained) in zip(grid, images, strict=False):
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=255)
        draw_heat(axes, explained)
        title = f"Predicted: {explained.digit}\nWhy {explained.target}?"
        # A file's name may hold what no font has, and dollars that are no formula.
        shown = "".join(c if c.isprintable() else "?" for c in name[-LETTERS:])
        axes.set_title(f"{shown}\n{title}", fontsize=9, loc="center", parse_math=False)
    figure.text(0.5, 0.15 / height, "orange spoke for it, blue against it", size=9, ha="center")
    return figure


def draw_heat(axes: Axes, explanation: Explanation) -> None:
    """Colour an image in proportion to what each pixel said, its strongest one fully."""
    from evaluation.style import HEAT  # noqa: PLC0415  (slow, as above)

    strongest = float(np.abs(explanation.attributions).max()) or 1.0
    share = explanation.attributions / strongest
    axes.imshow(share, cmap=HEAT, vmin=-1, vmax=1, alpha=np.sqrt(np.abs(share)))
