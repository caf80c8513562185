"""One look for every picture: colours that any eye tells apart, on a light page or a dark one.

>>> with theme(dark=True):
...     figure = Figure(layout="constrained")
...     save(figure, Path("picture.png"), Path("picture.svg"))
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

# Okabe and Ito's palette (https://jfly.uni-koeln.de/color).
BLUE, SKY, GREEN = "#0072B2", "#56B4E9", "#009E73"
ORANGE, VERMILION, PURPLE = "#E69F00", "#D55E00", "#CC79A7"

WRONG = VERMILION
"""What is wrong; always with a second sign, such as a frame or bold type."""

HEAT = ListedColormap([SKY, "#FF9147"])
"""Against and for, over an image whose ink is white; how transparent it is says how much."""

DOTS_PER_INCH = 100


def theme(*, dark: bool = False) -> AbstractContextManager[None]:
    """Figures that are made and saved in this context have the project's look."""
    paper, text, faint = "white", "#1B1F24", "#9AA2AD"
    if dark:
        paper, text, faint = "#16191E", "#ECEFF3", "#7C8794"
    lines = [SKY if dark else BLUE, VERMILION, GREEN, PURPLE, ORANGE]
    settings: Any = {
        "figure.facecolor": paper,
        "axes.facecolor": paper,
        "savefig.facecolor": paper,
        "savefig.dpi": DOTS_PER_INCH,
        "text.color": text,
        "axes.labelcolor": text,
        "axes.titlecolor": text,
        "axes.titlelocation": "left",
        "axes.titlesize": 11,
        "axes.edgecolor": faint,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": cycler(color=lines),
        "xtick.color": text,
        "ytick.color": text,
        "grid.color": faint,
        "grid.alpha": 0.3,
        "legend.frameon": False,
        "legend.labelcolor": text,
        "font.family": ["DejaVu Sans"],  # matplotlib brings it along: the same everywhere
        "svg.hashsalt": "served-digits",  # the same picture is the same file
    }
    return mpl.rc_context(settings)


def save(figure: Figure, *paths: Path) -> None:
    """Save a figure under each of the paths, in the format that its suffix names.

    Raises:
        ValueError: a suffix that matplotlib does not know.
        OSError: a path that cannot be written.
    """
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        undated = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, metadata=undated)


def text() -> str:
    """Return the theme's colour of text, which stands out most from the page."""
    colour: str = mpl.rcParams["text.color"]
    return colour
