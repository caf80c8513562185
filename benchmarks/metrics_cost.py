"""What the handler's metrics cost: with them over without, in throughput and in processor time.

    python -m benchmarks.metrics_cost --rounds 15 --seconds 4      # about ten minutes

Two servers live side by side, one as it is shipped, one whose archive has every statement removed
that counts or reports. They are loaded in turns, first the one and then the other, in the next
round the other way round, so that whatever else the machine does disturbs both alike. Each round
gives a ratio; the median of them is the answer. The worker's processor time for a request is the
steadier of the two where the machine is shared.
"""

from __future__ import annotations

import argparse
import ast
import statistics
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks import load
from benchmarks.measure import BODIES, Workload, check
from benchmarks.processes import BenchmarkError, Contender, Running, Settings, running
from benchmarks.servers import CONTENDERS
from client.server import REPOSITORY

CONNECTIONS = (1, 16, 64)
SHIPPED = CONTENDERS["project"]


class _Uncounted(ast.NodeTransformer):
    """Removes each statement that adds to METRICS, or calls it, or hands it on."""

    removed = 0

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, ast.AugAssign):
            counts = _names_metrics(node.target)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            counts = any(map(_names_metrics, [node.value.func, *node.value.args]))
        else:
            counts = False
        if counts:
            self.removed += 1
            return ast.Pass()
        return super().generic_visit(node)


def _names_metrics(node: ast.AST) -> bool:
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return isinstance(node, ast.Name) and node.id == "METRICS"


def without_metrics(source: str) -> tuple[str, int]:
    """A module without the statements that count, and how many these were."""
    remover = _Uncounted()
    tree = remover.visit(ast.parse(source))
    return ast.unparse(ast.fix_missing_locations(tree)), remover.removed


def strip(archive: Path) -> int:
    """Take the counting out of an archive's handler; how many statements that was."""
    with zipfile.ZipFile(archive) as packed:
        contents = {name: packed.read(name) for name in packed.namelist()}
    removed = 0
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in contents.items():
            if name.endswith(".py"):
                source, count = without_metrics(content.decode())
                removed += count
                packed.writestr(name, source)
            else:
                packed.writestr(name, content)
    return removed


def _prepare(model: Path, home: Path, settings: Settings) -> None:
    SHIPPED.prepare(model, home, settings)
    if not strip(home / "model_store" / "mnist.mar"):
        raise BenchmarkError("the handler has no statement that names METRICS")


UNCOUNTED = Contender("no metrics", SHIPPED.path, _prepare, SHIPPED.launch)


class Cost(NamedTuple):
    """What one load saw: requests a second, and the worker's processor seconds for each."""

    per_second: float
    worker: float

    def over(self, other: Cost) -> Cost:
        """The ratios to another load's."""
        return Cost(self.per_second / other.per_second, self.worker / other.worker)


def measure(workload: Workload, port: int, rounds: int, seconds: float) -> dict[int, list[Cost]]:
    """The ratios of each round, by the number of connections.

    Raises:
        BenchmarkError: a server does not start, answers wrongly, or refuses a request.
    """
    bodies = workload.pngs[:BODIES]
    ratios: dict[int, list[Cost]] = {connections: [] for connections in CONNECTIONS}
    with (
        running(SHIPPED, workload.model, port, {}, bodies[0]) as counted,
        running(UNCOUNTED, workload.model, port + 5, {}, bodies[0]) as uncounted,
    ):
        for server in (counted, uncounted):
            check(server, workload)
            load.run(server, bodies, CONNECTIONS[-1], seconds)
        for number in range(rounds):
            turns = [counted, uncounted] if number % 2 else [uncounted, counted]
            for connections in CONNECTIONS:
                costs = {
                    server.name: _cost(server, bodies, connections, seconds) for server in turns
                }
                ratios[connections].append(costs[counted.name].over(costs[uncounted.name]))
    return ratios


def _cost(server: Running, bodies: list[bytes], connections: int, seconds: float) -> Cost:
    (worker,) = psutil.Process(server.pid).children()
    before = sum(worker.cpu_times()[:2])
    seen = load.run(server, bodies, connections, seconds)
    if seen.errors:
        raise BenchmarkError(f"{server.name} refused {seen.errors} requests")
    return Cost(seen.per_second, (sum(worker.cpu_times()[:2]) - before) / seen.requests)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.metrics_cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load")
    parser.add_argument("--port", type=int, default=20180, help="the first of ten")
    parser.add_argument("--model", type=Path, default=REPOSITORY / "model_store" / "mnist.pt")
    options = parser.parse_args(arguments)
    workload = Workload.of(options.model, 256)
    try:
        found = measure(workload, options.port, options.rounds, options.seconds)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for connections, ratios in found.items():
        for name, values in zip(
            ("throughput", "worker's time"), zip(*ratios, strict=True), strict=True
        ):
            print(
                f"{connections:3} connections, {name:13}: {statistics.median(values):.3f} "
                f"(median of {len(values)}, {min(values):.3f} to {max(values):.3f})"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
