"""Measure the project side by side with other servers: `make bench`.

    python -m benchmarks                                    # everything, about 40 minutes
    python -m benchmarks --quick                            # a minute, to see that it works
    python -m benchmarks --servers project mosec --models cnn --rounds 5
    python -m benchmarks --report-only                      # write table and plot again

Every round visits every server in turn (A B C, A B C, …), one alive at a time, all with the same
bytes and the same model file. Writes `results/latest.json`, and from it `RESULTS.md` and the plot.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import limits, memory, plot, report
from benchmarks.measure import BODIES, QUICK, Effort, Workload, measure, tune
from benchmarks.processes import BenchmarkError, Contender, Settings
from benchmarks.results import IN_PROCESS, Results, Sample, machine
from benchmarks.servers import CONTENDERS
from client.server import REPOSITORY, ServerError

FOLDER = Path(__file__).resolve().parent
MODELS = {
    "cnn": REPOSITORY / "model_store" / "mnist.pt",
    "mlp": REPOSITORY / ".cache" / "bench" / "mlp.pt",
}


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _parse(arguments)
    saved = options.output / "results" / f"{options.name}.json"
    if not options.report_only:
        try:
            results = run(options)
        except (BenchmarkError, ServerError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        results.save(saved)
    results = Results.load(saved)
    (options.output / "RESULTS.md").write_text(report.markdown(results))
    plot.draw(results, options.output / "results" / options.name)
    print(report.markdown(results))
    return 0


def run(options: argparse.Namespace) -> Results:
    """Tune the peers, then measure round by round.

    Raises:
        BenchmarkError, ServerError: a server does not start, or answers wrongly.
    """
    effort = QUICK if options.quick else Effort(seconds=options.seconds)
    plans = []
    for model in options.models:
        workload = Workload.of(_model(model, options.model), effort.checked)
        plans.append(Plan(model, workload, options.port, effort))
    for plan in plans:
        for name in options.servers:
            plan.choose(CONTENDERS[name], tuned=not options.quick)
    samples = [
        sample
        for number in range(1, options.rounds + 1)
        for plan in plans
        for sample in plan.measure(number)
    ]
    facts = machine() | {
        "rounds": options.rounds,
        "seconds": effort.seconds,
        "warm_up": effort.warm_up,
        "memory": memory.kind(),
        "settings": {plan.model: plan.settings for plan in plans},
    }
    return Results(tuple(samples), facts)


@dataclass(frozen=True)
class Plan:
    """What is measured with one model, in every round."""

    model: str
    workload: Workload
    port: int
    effort: Effort
    settings: dict[str, Settings] = field(default_factory=dict)

    def choose(self, contender: Contender, *, tuned: bool) -> None:
        """Fix the settings of a server: its best, or untuned its usual ones."""
        settings = contender.settings[0]
        if tuned:
            settings = tune(contender, self.workload, self.port, self.effort)
        self.settings[contender.name] = settings
        _say(f"{self.model}, {contender.name}: {settings or 'as shipped'}")

    def measure(self, number: int) -> Iterator[Sample]:
        """One round: the limits without a server, then each server in turn."""
        workload = self.workload
        for metric, value in limits.measure(
            workload.model, workload.images, workload.pngs[:BODIES], self.effort.seconds / 4
        ):
            yield Sample(number, self.model, IN_PROCESS, metric, value)
        for name, settings in self.settings.items():
            _say(f"round {number}, {self.model}, {name}")
            for metric, value in measure(
                CONTENDERS[name], settings, workload, self.port, self.effort
            ):
                _say(f"    {metric:24} {value:12,.2f}")
                yield Sample(number, self.model, name, metric, value)


def _model(name: str, default: Path) -> Path:
    """The model's file; the mlp is trained where it is missing."""
    path = default if name == "cnn" else MODELS[name]
    if not path.is_file():
        if name == "cnn":
            raise BenchmarkError(f"no model at {path}; `make model` trains it")
        path.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [
                *(sys.executable, "-m", "training", "--arch", name),
                *("--preset", "fast", "--output", path),
            ],
            cwd=REPOSITORY,
            check=True,
        )
    return path


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--servers", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--model", type=Path, default=MODELS["cnn"], help="the cnn's file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load")
    parser.add_argument("--port", type=int, default=20080, help="the first of five")
    parser.add_argument("--output", type=Path, default=FOLDER)
    parser.add_argument("--name", default="latest", help="of the result file")
    parser.add_argument("--quick", action="store_true", help="one round, one second each")
    parser.add_argument("--report-only", action="store_true", help="from the saved results")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds = 1
    return options


if __name__ == "__main__":
    sys.exit(main())
