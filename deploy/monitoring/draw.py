"""Draw the dashboard as a picture, without Grafana: its own panels and queries, from Prometheus.

    python deploy/monitoring/draw.py http://127.0.0.1:9090 dashboard.png --minutes 60

Reads what `dashboard.json` uses of Grafana's format: places, titles, queries, legends, units,
stacking. With `--dark`, for a dark page.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import requests
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, DateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter
from numpy.typing import NDArray

from evaluation import style

DASHBOARD = Path(__file__).with_name("dashboard.json")
POINTS = 240  # in each line
TIMEOUT = 60
COLUMNS = 24  # Grafana's grid is so many units wide
UNIT_INCHES = 0.55, 0.4


class Line(NamedTuple):
    """One line of a panel: its legend, and float64 [POINTS], NaN where it has no value."""

    legend: str
    values: NDArray[np.float64]


class Window(NamedTuple):
    """A stretch of time, in seconds since 1970, and the window of its rates."""

    start: float
    end: float
    rate_interval: str

    def times(self) -> NDArray[np.float64]:
        """When each point is, float64 [POINTS]."""
        return np.linspace(self.start, self.end, POINTS)


def lines(url: str, panel: dict[str, Any], window: Window) -> list[Line]:
    """Ask Prometheus a panel's queries, with the variables filled in: every server.

    Raises:
        requests.RequestException: Prometheus does not answer, or does not take a query.
    """
    step = (window.end - window.start) / (POINTS - 1)
    found = []
    for target in panel["targets"]:
        expression = target["expr"].replace("$__rate_interval", window.rate_interval)
        answer = requests.get(
            f"{url}/api/v1/query_range",
            params={
                "query": expression.replace("$instance", ".*"),
                "start": f"{window.start:.3f}",
                "end": f"{window.end + step / 2:.3f}",  # so that rounding cannot cost the last
                "step": f"{step:.6f}",
            },
            timeout=TIMEOUT,
        )
        answer.raise_for_status()
        for series in answer.json()["data"]["result"]:
            values = np.full(POINTS, np.nan)
            for at, value in series["values"]:
                index = round((at - window.start) / step)
                if 0 <= index < POINTS:
                    values[index] = float(value)
            found.append(Line(_legend(target["legendFormat"], series["metric"]), values))
    return found


def fill(url: str, window: Window) -> list[tuple[dict[str, Any], list[Line]]]:
    """Each panel of the dashboard with its lines; raises as `lines` does."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [(panel, lines(url, panel, window)) for panel in panels]


def _legend(template: str, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda name: labels.get(name[1], ""), template)


def draw(filled: Sequence[tuple[dict[str, Any], Sequence[Line]]], window: Window) -> Figure:
    """One picture of panels with their lines, placed as Grafana places them."""
    places = [panel["gridPos"] for panel, _ in filled]
    height = max(place["y"] + place["h"] for place in places)
    width, row = UNIT_INCHES
    figure = Figure(figsize=(COLUMNS * width, height * row), layout="constrained")
    grid = figure.add_gridspec(height, COLUMNS)
    dates = date2num(window.times().astype("datetime64[s]"))  # type: ignore[no-untyped-call]
    for panel, drawn in filled:
        place = panel["gridPos"]
        x, y = place["x"], place["y"]
        axes = figure.add_subplot(grid[y : y + place["h"], x : x + place["w"]])
        _panel(axes, panel, drawn, dates)
    return figure


def _panel(
    axes: Axes, panel: dict[str, Any], drawn: Sequence[Line], dates: NDArray[np.float64]
) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    legends = [line.legend for line in drawn]
    colours = _colours(len(drawn))
    if defaults["custom"]["stacking"]["mode"] == "normal":
        stacked = [np.nan_to_num(line.values) for line in drawn]
        if stacked:
            axes.stackplot(dates, stacked, labels=legends, colors=colours, alpha=0.85)
    else:
        for line, colour in zip(drawn, colours, strict=True):
            axes.plot(dates, line.values, label=line.legend, color=colour)
    axes.set(title=panel["title"], xlim=(dates[0], dates[-1]))
    axes.set_ylim(defaults.get("min"), defaults.get("max"))
    _show_unit(axes, defaults["unit"])
    axes.xaxis.set_major_locator(AutoDateLocator(minticks=3, maxticks=6))  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M"))  # type: ignore[no-untyped-call]
    axes.grid()
    if drawn:
        columns = 5 if max(map(len, legends)) < 9 else 4  # as many as fit
        axes.legend(
            *axes.get_legend_handles_labels(),
            loc="upper left",
            bbox_to_anchor=(0, -0.12),
            borderaxespad=0,
            ncols=min(columns, len(drawn)),
            fontsize="small",
            handlelength=1,
            columnspacing=1,
        )


def _colours(count: int) -> list[Any]:
    """The theme's colours; for more lines than it has, shades in their order."""
    colours = mpl.rcParams["axes.prop_cycle"].by_key()["color"]
    if count > len(colours):
        colours = mpl.colormaps["viridis"](np.linspace(0.15, 0.95, count))
    return list(colours[:count])


def _show_unit(axes: Axes, unit: str) -> None:
    if unit == "percentunit":
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    elif unit == "s":
        axes.yaxis.set_major_formatter(EngFormatter("s"))
    elif unit == "reqps":
        axes.yaxis.set_major_formatter("{x:g} req/s")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prometheus", metavar="URL", help="Prometheus' address")
    parser.add_argument("picture", type=Path, help="the file to write: .png or .svg")
    parser.add_argument("--minutes", type=float, default=60, help="up to now (60)")
    parser.add_argument("--rate", default="1m", help="the window of rates: 4 scrapes (1m)")
    parser.add_argument("--dark", action="store_true")
    options = parser.parse_args(arguments)
    window = Window(time.time() - 60 * options.minutes, time.time(), options.rate)
    try:
        filled = fill(options.prometheus, window)
    except requests.RequestException as error:
        print(
            f"error: expected a Prometheus at {options.prometheus}, got {type(error).__name__}: "
            "prometheus --config.file=deploy/monitoring/prometheus.yml starts one",
            file=sys.stderr,
        )
        return 1
    with style.theme(dark=options.dark):
        style.save(draw(filled, window), options.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
