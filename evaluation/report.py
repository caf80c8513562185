"""A report on predictions: Markdown with pictures beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import numpy as np
import numpy.typing as npt

from evaluation import pictures
from evaluation.metrics import (
    REFUSED,
    Interval,
    accuracy,
    confusion,
    expected_calibration_error,
    precision_recall,
)


@dataclass(frozen=True)
class Evaluation:
    """What was asked and what was answered, for N images.

    Attributes:
        title: the report's heading.
        labels: int64 [N], the digits 0..9 that the images show.
        digits: int64 [N], the answers; `REFUSED` (-1) where there was none.
        probabilities: float32 [N, 10]; rows of refused images are ignored.
        names: N file names, or whatever identifies an image.
        inputs: N images as they came, uint8 [H, W] or [H, W, 3], of any size.
        normalised: N images as the model saw them, uint8 [28, 28].
        refusals: why, by index of the refused image.
    """

    title: str
    labels: npt.NDArray[np.int64]
    digits: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]
    names: Sequence[str]
    inputs: Sequence[npt.NDArray[np.uint8]] | npt.NDArray[np.uint8]
    normalised: Sequence[npt.NDArray[np.uint8]] | npt.NDArray[np.uint8]
    refusals: Mapping[int, str] = field(default_factory=dict)

    @property
    def accuracy(self) -> Interval:
        """The share of right answers with its 95 % interval; a refusal is not right."""
        return accuracy(self.labels, self.digits)

    @property
    def calibration_error(self) -> float:
        """Expected calibration error of the answers given (15 bins)."""
        answered = self.digits != REFUSED
        return expected_calibration_error(self.labels[answered], self.probabilities[answered])

    @property
    def misses(self) -> list[int]:
        """Indices of wrong and refused images."""
        return [int(i) for i in np.flatnonzero(self.labels != self.digits)]

    def summary(self) -> str:
        """One line for a terminal."""
        return (
            f"{self.title}: {self.accuracy} right, {len(self.misses)} of {len(self.labels):,} "
            f"missed ({len(self.refusals)} refused), calibration error "
            f"{self.calibration_error:.2%}"
        )


def write_report(evaluation: Evaluation, folder: Path, stem: str) -> Path:
    """Write `stem`.md and its pictures, PNG and SVG, into `folder`; return the Markdown's path."""
    folder.mkdir(parents=True, exist_ok=True)
    answered = evaluation.digits != REFUSED
    matrix = confusion(evaluation.labels, evaluation.digits)

    def files(name: str) -> list[Path]:
        return [folder / f"{stem}-{name}.{suffix}" for suffix in ("png", "svg")]

    pictures.draw_confusion(matrix, *files("confusion"))
    pictures.draw_calibration(
        evaluation.labels[answered],
        evaluation.probabilities[answered],
        *files("calibration"),
    )
    sections = [
        f"# {evaluation.title}",
        _headline(evaluation),
        "## Per digit",
        _digit_table(matrix),
        *_source_section(evaluation),
        "## Confusion",
        f"![Rows: actual digit; columns: predicted digit]({stem}-confusion.png)",
        "## Calibration",
        f"![Accuracy against confidence]({stem}-calibration.png)",
        "## Misses",
    ]
    if evaluation.misses:
        cells = [
            pictures.Miss(evaluation.inputs[i], evaluation.normalised[i], caption(evaluation, i))
            for i in evaluation.misses
        ]
        pictures.draw_misses(cells, *files("misses"))
        sections += [
            "Each pair: the input, and what the model saw.",
            f"![Every miss: input, normalised, actual digit and guesses]({stem}-misses.png)",
            _miss_table(evaluation),
        ]
    else:
        sections.append("None.")
    path = folder / f"{stem}.md"
    path.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    return path


def caption(evaluation: Evaluation, index: int) -> str:
    """What a miss was and what it was taken for, with the two best guesses in percent."""
    actual = f"actual {evaluation.labels[index]}"
    if evaluation.digits[index] == REFUSED:
        return f"{actual}\nrefused"
    row = evaluation.probabilities[index]
    first, second = np.argsort(-row, kind="stable")[:2]
    return f"{actual}\n{first} {row[first]:.0%}, {second} {row[second]:.0%}"


def _headline(evaluation: Evaluation) -> str:
    share = evaluation.accuracy
    lines = [
        f"- **Accuracy {share.value:.2%}**, 95 % interval {share.low:.2%} to {share.high:.2%} "
        "(Wilson)",
        f"- {len(evaluation.labels):,} images, {len(evaluation.misses)} missed, "
        f"of which {len(evaluation.refusals)} refused",
        f"- Expected calibration error {evaluation.calibration_error:.2%} (15 bins)",
    ]
    return "\n".join(lines)


def _digit_table(matrix: npt.NDArray[np.int64]) -> str:
    precision, recall = precision_recall(matrix)
    return _table(
        ["digit", "images", "precision", "recall"],
        [
            [str(d), str(matrix[d].sum()), _percent(precision[d]), _percent(recall[d])]
            for d in range(10)
        ],
    )


def _source_section(evaluation: Evaluation) -> list[str]:
    """Accuracy by source, where the names have one."""
    sources = [
        base.partition("__")[0] if "__" in (base := PurePath(name).name) else ""
        for name in evaluation.names
    ]
    if not any(sources):
        return []
    rows = []
    for source in sorted(set(sources)):
        chosen = np.array([s == source for s in sources])
        share = accuracy(evaluation.labels[chosen], evaluation.digits[chosen])
        right = int((evaluation.labels[chosen] == evaluation.digits[chosen]).sum())
        rows.append([source or "(none)", str(chosen.sum()), str(right), str(share)])
    return ["## Per source", _table(["source", "images", "right", "accuracy"], rows)]


def _miss_table(evaluation: Evaluation) -> str:
    rows = []
    for i in evaluation.misses:
        actual, guesses = caption(evaluation, i).split("\n")
        reason = evaluation.refusals.get(i, "")
        answer = f"{guesses}: {reason}" if reason else guesses
        rows.append([evaluation.names[i], actual.removeprefix("actual "), answer])
    return _table(["image", "actual", "answer"], rows)


def _table(header: list[str], rows: list[list[str]]) -> str:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(header), line(["---"] * len(header)), *map(line, rows)])


def _percent(share: float) -> str:
    return "–" if np.isnan(share) else f"{share:.2%}"
