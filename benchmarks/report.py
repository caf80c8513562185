"""The results as Markdown: medians, ratios with their spread, and the promises."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks import bars
from benchmarks.results import IN_PROCESS, Results

_TITLES = {"cnn": "The default model (cnn)", "mlp": "The small one (mlp)"}


def markdown(results: Results) -> str:
    """The whole page."""
    facts = results.facts
    parts = [
        "# Benchmarks",
        f"Written by `make bench` on {facts['date']}: {facts['processor']}, {facts['cores']} "
        f"cores, {facts['memory_gb']} GB, Python {facts['python']}, "
        + ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
        + ".",
        f"Medians of {facts['rounds']} rounds that visit the servers in turn, one alive at a "
        f"time; {facts['warm_up']:g} s of load before anything counts, then "
        f"{facts['seconds']:g} s a load from `wrk -t1` on the same machine, 28×28 PNGs. "
        "In brackets: the lowest and the highest round. Every server has given the model's "
        "own digits before it was timed.",
    ]
    promises = list(bars.check(results))
    if promises:
        parts += ["## What is promised", _promises(promises)]
    for model in results.models:
        parts += [f"## {_TITLES.get(model, model)}", *_model(results, model)]
    parts += ["## Settings", _settings(results)]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, the first column to the left and numbers to the right."""
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def number(value: float | None) -> str:
    """Three significant digits, thousands separated; a dash for what was not measured."""
    if value is None:
        return "–"
    if abs(value) >= 100:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"


def _promises(promises: Iterable[bars.Bar]) -> str:
    return table(
        ("promise", "model", "seen", "limit", "holds"),
        (
            (
                bar.promise,
                bar.model,
                f"{bar.seen:.3g}",
                f"{bar.limit:g}",
                "yes" if bar.holds else "**no**",
            )
            for bar in promises
        ),
    )


def _model(results: Results, model: str) -> Iterable[str]:
    connections = _suffixes(results, model, "images_per_s@")
    yield "### One image a request"
    yield _table(results, model, "images/s at", "images_per_s@", connections)
    if "mosec" in results.servers(model) and "project" in results.servers(model):
        yield "Throughput of the project over each of the others, round by round:"
        yield _ratios(results, model, connections)
    yield _table(results, model, "p50 ms at", "p50_ms@", connections)
    yield _table(results, model, "p99 ms at", "p99_ms@", connections)
    if any(s.value for s in results.samples if s.model == model and s.metric[:7] == "errors@"):
        yield "Requests without a good answer; where they pass 1 % no latency is given:"
        yield _table(results, model, "errors at", "errors@", connections)
    sizes = _suffixes(results, model, "bulk_images_per_s@")
    if sizes:
        yield "### Many images a request (`.npy`, one connection)"
        yield _table(results, model, "images/s with", "bulk_images_per_s@", sizes)
    yield "### Start and memory"
    yield table(
        ("server", "first prediction, s", "MB at rest", "MB after load"),
        (
            (
                server,
                *(
                    number(results.median(model, server, metric))
                    for metric in ("first_prediction_s", "memory_rest_mb", "memory_load_mb")
                ),
            )
            for server in results.servers(model)
        ),
    )
    yield f"Memory is the {results.facts['memory']} of all processes of a server, in 10⁶ bytes."
    limits = [s.metric for s in results.samples if (s.model, s.server) == (model, IN_PROCESS)]
    if limits:
        yield "### Limits on one thread, without a server"
        yield table(
            ("what (@ batch)", "images/s"),
            (
                (metric, number(results.median(model, IN_PROCESS, metric)))
                for metric in dict.fromkeys(limits)
            ),
        )


def _suffixes(results: Results, model: str, prefix: str) -> list[int]:
    return sorted(
        {
            int(sample.metric.removeprefix(prefix))
            for sample in results.samples
            if sample.model == model and sample.metric.startswith(prefix)
        }
    )


def _table(results: Results, model: str, title: str, prefix: str, columns: Sequence[int]) -> str:
    rows = []
    for server in results.servers(model):
        cells = []
        for column in columns:
            values = results.rounds(model, server, f"{prefix}{column}").values()
            median = results.median(model, server, f"{prefix}{column}")
            spread = f" ({number(min(values))}–{number(max(values))})" if len(values) > 1 else ""
            cells.append(number(median) + spread)
        rows.append((server, *cells))
    return table((title, *(f"{column:,}" for column in columns)), rows)


def _ratios(results: Results, model: str, connections: Sequence[int]) -> str:
    rows = []
    for server in results.servers(model):
        if server != "project":
            ratios = (
                results.ratio(model, f"images_per_s@{count}", "project", server)
                for count in connections
            )
            rows.append((server, *(str(ratio) if ratio else "–" for ratio in ratios)))
    return table(("project over", *(str(count) for count in connections)), rows)


def _settings(results: Results) -> str:
    lines = []
    for model, servers in results.facts["settings"].items():
        for server, settings in servers.items():
            said = ", ".join(f"`{key}` → `{value}`" for key, value in settings.items())
            lines.append(f"- {model}, {server}: {said or 'as shipped'}")
    return "\n".join(lines)
