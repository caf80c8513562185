"""Measurements, their medians, and the ratios of two servers within each round."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import psutil

IN_PROCESS = "in-process"  # the "server" of the limits
_PACKAGES = (
    *("torch", "torchserve", "numpy", "opencv-python-headless", "pillow"),
    *("mosec", "fastapi", "uvicorn", "litserve"),
)


class Sample(NamedTuple):
    """One value; `metric` names its unit, as in `p50_ms@64`."""

    round: int
    model: str
    server: str
    metric: str
    value: float


class Ratio(NamedTuple):
    """A ratio of two servers: the median, lowest and highest over the rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}–{self.high:.2f})"


@dataclass(frozen=True)
class Results:
    """All samples of a run, and what it ran on."""

    samples: tuple[Sample, ...]
    facts: dict[str, Any]

    @property
    def models(self) -> list[str]:
        """The models measured, in their order."""
        return list(dict.fromkeys(sample.model for sample in self.samples))

    def servers(self, model: str) -> list[str]:
        """The servers measured with a model, in their order."""
        return list(
            dict.fromkeys(
                sample.server
                for sample in self.samples
                if sample.model == model and sample.server != IN_PROCESS
            )
        )

    def rounds(self, model: str, server: str, metric: str) -> dict[int, float]:
        """The value in each round; empty where it was not measured."""
        key = (model, server, metric)
        return {s.round: s.value for s in self.samples if (s.model, s.server, s.metric) == key}

    def median(self, model: str, server: str, metric: str) -> float | None:
        """The median over the rounds, None where it was not measured."""
        values = self.rounds(model, server, metric)
        return statistics.median(values.values()) if values else None

    def ratio(
        self, model: str, metric: str, server: str, other: str, other_metric: str | None = None
    ) -> Ratio | None:
        """`server` over `other`, each round by itself; None where they share no round.

        Both saw the same machine within a round, so what slows it then slows both.
        """
        above = self.rounds(model, server, metric)
        below = self.rounds(model, other, other_metric or metric)
        ratios = [above[r] / below[r] for r in above if below.get(r)]
        if not ratios:
            return None
        return Ratio(statistics.median(ratios), min(ratios), max(ratios))

    def save(self, path: Path) -> None:
        """Write as JSON, one sample a line, so that runs can be compared line by line."""
        path.parent.mkdir(parents=True, exist_ok=True)
        facts = json.dumps(self.facts, indent=2, sort_keys=True, ensure_ascii=False)
        lines = ",\n".join(json.dumps(sample) for sample in self.samples)
        path.write_text(f'{{"facts": {facts},\n"samples": [\n{lines}\n]}}\n')

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what `save` wrote."""
        content = json.loads(path.read_text())
        return cls(tuple(Sample(*fields) for fields in content["samples"]), content["facts"])


def machine() -> dict[str, Any]:
    """What the numbers depend on: date, processor, cores, memory, versions."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _processor(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": dict(_versions(_PACKAGES)),
    }


def _versions(packages: Iterable[str]) -> Iterable[tuple[str, str]]:
    for name in packages:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
