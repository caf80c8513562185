"""Several runs in one table: mean ± standard deviation, never the best of them.

for seed in 0 1 2 3 4; do
    python -m training --seed $seed --output model_store/seeds/$seed.pt
done
python -m training.summary model_store/seeds/*.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any


def table(records: list[dict[str, Any]]) -> str:
    """Return a Markdown table of runs, as `python -m training` recorded them, and their mean."""
    lines = [
        "| seed | test accuracy, last epoch | errors of 10,000 | calibration error | temperature |",
        "|---|---|---|---|---|",
    ]
    for record in sorted(records, key=lambda r: int(r["seed"])):
        errors = round(10_000 * (1 - record["test_accuracy"]))
        lines.append(
            f"| {record['seed']} | {record['test_accuracy']:.2%} | {errors} "
            f"| {record['expected_calibration_error']:.2%} | {record['temperature']:.2f} |"
        )
    accuracies = [100 * record["test_accuracy"] for record in records]
    spread = statistics.stdev(accuracies) if len(records) > 1 else 0.0
    calibration = statistics.mean(100 * r["expected_calibration_error"] for r in records)
    lines.append(
        f"| **{len(records)} runs** | **{statistics.mean(accuracies):.3f} % ± {spread:.3f}** "
        f"| {100 * (100 - statistics.mean(accuracies)):.1f} | {calibration:.2f}% | |"
    )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m training.summary", description="Sum up several training runs."
    )
    parser.add_argument("records", nargs="+", type=Path, metavar="RECORD.json")
    try:
        records = [json.loads(path.read_text()) for path in parser.parse_args(argv).records]
        print(table(records))
    except (OSError, ValueError, KeyError) as error:
        print(f"summary: not the records of python -m training: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
