"""Medians, ratios within rounds, the promises, and the page written of them: exact values."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import bars, plot, report
from benchmarks.results import IN_PROCESS, Ratio, Results, Sample, machine

FACTS = {
    "date": "2026-01-02 03:04 UTC",
    "processor": "A processor",
    "cores": 2,
    "memory_gb": 8.0,
    "python": "3.11.7",
    "packages": {"torch": "2.9"},
    "rounds": 3,
    "seconds": 5.0,
    "warm_up": 10.0,
    "memory": "PSS",
    "settings": {"cnn": {"project": {}, "mosec": {"BENCH_BATCH": "64"}}},
}


def _samples(server: str, metric: str, *values: float) -> list[Sample]:
    return [Sample(n, "cnn", server, metric, value) for n, value in enumerate(values, 1)]


@pytest.fixture
def results() -> Results:
    """Three rounds of two servers; the second round was twice as slow for both."""
    return Results(
        (
            *_samples("project", "images_per_s@64", 9000, 4000, 9600),
            *_samples("project", "p50_ms@64", 6.0, 14.0, 6.5),
            *_samples("project", "p99_ms@64", 9.0, 35.0, 10.4),
            *_samples("project", "errors@64", 0, 0, 0),
            *_samples("project", "bulk_images_per_s@1000", 90_000, 80_000, 91_000),
            *_samples("project", "memory_load_mb", 400, 410, 405),
            *_samples("mosec", "images_per_s@64", 8000, 4000, 8000),
            *_samples(IN_PROCESS, "frozen@64", 99_000, 99_000, 99_000),
            *_samples(IN_PROCESS, "frozen@256", 100_000, 100_000, 100_000),
        ),
        FACTS,
    )


def test_median_over_rounds(results: Results) -> None:
    assert results.median("cnn", "project", "images_per_s@64") == 9000
    assert results.median("cnn", "stock", "images_per_s@64") is None


def test_ratios_are_taken_within_rounds(results: Results) -> None:
    ratio = results.ratio("cnn", "images_per_s@64", "project", "mosec")
    assert ratio == Ratio(1.125, 1.0, 1.2)
    assert str(ratio) == "1.12 (1.00–1.20)"
    assert results.ratio("cnn", "images_per_s@64", "project", "stock") is None


def test_a_round_missing_in_one_server_is_left_out() -> None:
    uneven = Results(
        (*_samples("a", "m", 2.0, 6.0), *_samples("b", "m", 1.0)),
        FACTS,
    )
    assert uneven.ratio("cnn", "m", "a", "b") == Ratio(2.0, 2.0, 2.0)


def test_promises(results: Results) -> None:
    seen = {bar.promise: bar for bar in bars.check(results)}
    assert set(seen) == {
        "throughput at 64 connections, of mosec's",
        "p99 at 64 connections, of its p50",
        "1,000 images in one request, of the frozen network's in-process limit",
        "errors",
    }
    throughput = seen["throughput at 64 connections, of mosec's"]
    assert (throughput.seen, throughput.limit, throughput.holds) == (1.125, 1.0, True)
    assert seen["p99 at 64 connections, of its p50"].seen == 1.6
    bulk = seen["1,000 images in one request, of the frozen network's in-process limit"]
    assert (bulk.seen, bulk.holds) == (0.9, True)


def test_a_promise_can_be_broken(results: Results) -> None:
    slow = tuple(
        sample._replace(value=10_000) if sample.server == "mosec" else sample
        for sample in results.samples
    )
    broken = [bar for bar in bars.check(Results(slow, FACTS)) if not bar.holds]
    assert [(bar.promise, bar.seen) for bar in broken] == [
        ("throughput at 64 connections, of mosec's", 0.9)
    ]
    assert "| **no** |" in report.markdown(Results(slow, FACTS))


def test_results_survive_the_file(results: Results, tmp_path: Path) -> None:
    results.save(tmp_path / "new" / "r.json")
    assert Results.load(tmp_path / "new" / "r.json") == results


@pytest.mark.parametrize(
    ("value", "written"),
    [(None, "–"), (0.4321, "0.432"), (99.96, "100"), (1234.0, "1,230"), (123_456.0, "123,000")],
)
def test_numbers_keep_three_digits(value: float | None, written: str) -> None:
    assert report.number(value) == written


def test_page(results: Results) -> None:
    page = report.markdown(results)
    assert "| project | 9,000 (4,000–9,600) |" in page
    assert "| mosec | 1.12 (1.00–1.20) |" in page
    assert "| project | – | – | 405 |" in page
    assert "- cnn, mosec: `BENCH_BATCH` → `64`" in page


def test_plot_is_written_the_same_twice(results: Results, tmp_path: Path) -> None:
    for name in ("a", "b"):
        plot.draw(results, tmp_path / name)
    assert (tmp_path / "a.png").stat().st_size > 10_000
    assert (tmp_path / "a-dark.png").read_bytes() != (tmp_path / "a.png").read_bytes()
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_machine_facts() -> None:
    facts = machine()
    assert facts["cores"] >= 1
    assert facts["packages"]["torch"]


def test_page_tells_of_errors_only_where_there_are_some(results: Results) -> None:
    assert "without a good answer" not in report.markdown(results)
    failing = Results((*results.samples, *_samples("mosec", "errors@64", 5, 0, 7)), FACTS)
    assert "| mosec | 5 (0–7) |" in report.markdown(failing)
