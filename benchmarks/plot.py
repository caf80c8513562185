"""The results as a plot: throughput and latency over the number of connections."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.measure import CONNECTIONS
from benchmarks.results import Results

# Okabe and Ito's palette, told apart with any colour vision (https://jfly.uni-koeln.de/color);
# the markers tell the lines apart without colour.
_STYLES = {
    "project": ("#0072B2", "o"),
    "low latency": ("#56B4E9", "v"),
    "stock": ("#000000", "X"),
    "mosec": ("#D55E00", "s"),
    "fastapi": ("#009E73", "^"),
    "litserve": ("#CC79A7", "D"),
}


def draw(results: Results, stem: Path) -> None:
    """Write `stem`.png and `stem`.svg: one row a model, throughput beside latency."""
    models = results.models
    figure = Figure(figsize=(10, 4.2 * len(models)), layout="constrained")
    grid = figure.subplots(len(models), 2, squeeze=False)
    for row, model in zip(grid, models, strict=True):
        _panel(row[0], results, model, "images_per_s@", f"{model}: images/s (higher is better)")
        _panel(row[1], results, model, "p50_ms@", f"{model}: p50 latency, ms (lower is better)")
    grid[0][0].legend(frameon=False)
    stem.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(stem.with_suffix(".png"), dpi=130)
    with mpl.rc_context({"svg.hashsalt": "benchmarks"}):
        figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None})


def _panel(axes: Axes, results: Results, model: str, prefix: str, title: str) -> None:
    for server in results.servers(model):
        colour, marker = _STYLES.get(server, ("#999999", "."))
        points = [
            (count, median)
            for count in CONNECTIONS
            if (median := results.median(model, server, f"{prefix}{count}"))
        ]
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, label=server)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(CONNECTIONS, [str(count) for count in CONNECTIONS])
    axes.set_xlabel("connections")
    axes.set_title(title, loc="left")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
