"""The results as a plot: throughput and latency over the number of connections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.measure import CONNECTIONS
from benchmarks.results import Results
from evaluation import style

# The markers tell the lines apart without colour; None is the theme's colour of text.
_STYLES: dict[str, tuple[str | None, str]] = {
    "project": (style.BLUE, "o"),
    "low latency": (style.SKY, "v"),
    "stock": (None, "X"),
    "mosec": (style.VERMILION, "s"),
    "fastapi": (style.GREEN, "^"),
    "litserve": (style.PURPLE, "D"),
}


def draw(results: Results, stem: Path) -> None:
    """Write `stem`.png and .svg, and the same for a dark page: `stem`-dark.png and .svg.

    One row a model, throughput beside latency.
    """
    for dark in (False, True):
        with style.theme(dark=dark):
            name = f"{stem.name}-dark" if dark else stem.name
            paths = [stem.with_name(f"{name}.{suffix}") for suffix in ("png", "svg")]
            style.save(_figure(results), *paths)


def _figure(results: Results) -> Figure:
    models = results.models
    figure = Figure(figsize=(10, 4.2 * len(models)), layout="constrained")
    grid = figure.subplots(len(models), 2, squeeze=False)
    for row, model in zip(grid, models, strict=True):
        _panel(row[0], results, model, "images_per_s@", f"{model}: images/s (higher is better)")
        _panel(row[1], results, model, "p50_ms@", f"{model}: p50 latency, ms (lower is better)")
    grid[0][0].legend()
    return figure


def _panel(axes: Axes, results: Results, model: str, prefix: str, title: str) -> None:
    for server in results.servers(model):
        colour, marker = _STYLES.get(server, ("#999999", "."))
        look: dict[str, Any] = {"color": colour or style.text(), "marker": marker, "label": server}
        points = [
            (count, median)
            for count in CONNECTIONS
            if (median := results.median(model, server, f"{prefix}{count}"))
        ]
        if points:
            axes.plot(*zip(*points, strict=True), **look)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(CONNECTIONS, [str(count) for count in CONNECTIONS])
    axes.set_xlabel("connections")
    axes.set_title(title)
    axes.grid()
