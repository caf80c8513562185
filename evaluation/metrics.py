"""Numbers that describe predictions. Everything is computed from plain NumPy arrays.

A prediction of -1 (`REFUSED`) means that no digit was given; it counts as wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

REFUSED = -1
DIGITS = 10
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Interval:
    """A share and the bounds of its confidence interval, all in 0..1."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2%} ({self.low:.2%} to {self.high:.2%})"


@dataclass(frozen=True)
class CalibrationBin:
    """Predictions of similar confidence: how sure they were on average, how often right."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def wilson(successes: int, trials: int, z: float = 1.959963984540054) -> Interval:
    """Return successes / trials with its Wilson score interval; z = 1.96 stands for 95 %.

    Wilson, "Probable inference, the law of succession, and statistical inference" (JASA 1927).
    Unlike the normal approximation it keeps its promise near 100 % and for few trials.

    Raises:
        ValueError: not 0 <= successes <= trials, or no trials.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"expected 0 <= successes <= trials >= 1, got {successes} of {trials}")
    share = successes / trials
    spread = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / spread
    half = z * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / spread
    # At 0 and at all of them the exact bounds are 0 and 1; rounding must not step past them.
    low = 0.0 if successes == 0 else float(centre - half)
    high = 1.0 if successes == trials else float(centre + half)
    return Interval(share, low, high)


def accuracy(labels: Ints, predicted: Ints) -> Interval:
    """Return the share of labels int [N] that predicted int [N] met, with its 95 % interval."""
    return wilson(int((labels == predicted).sum()), len(labels))


def confusion(labels: Ints, predicted: Ints) -> Ints:
    """Return int64 [10, 11]: row = label, column = predicted digit, last column = refused."""
    columns = np.where(predicted == REFUSED, DIGITS, predicted)
    counts = np.bincount(labels * (DIGITS + 1) + columns, minlength=DIGITS * (DIGITS + 1))
    return counts.reshape(DIGITS, DIGITS + 1).astype(np.int64)


def precision_recall(matrix: Ints) -> tuple[Floats, Floats]:
    """Return precision [10] and recall [10] of a confusion matrix [10, 10 or 11].

    NaN where undefined: a digit that was never predicted has no precision, and one that never
    occurred has no recall.
    """
    hits = np.diag(matrix[:, :DIGITS]).astype(np.float64)
    predicted, actual = matrix[:, :DIGITS].sum(axis=0), matrix.sum(axis=1)
    nothing = np.full(DIGITS, np.nan)
    precision = np.divide(hits, predicted, out=nothing.copy(), where=predicted > 0)
    recall = np.divide(hits, actual, out=nothing.copy(), where=actual > 0)
    return precision, recall


def calibration_bins(labels: Ints, probabilities: Floats, bins: int = 15) -> list[CalibrationBin]:
    """Sort predictions by confidence into equally wide bins (low, high]; leave out empty ones.

    Args:
        labels: int [N], 0..9.
        probabilities: float [N, 10]; the confidence of a row is its largest value.
        bins: how many bins share 0..1.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, bins + 1)
    index = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    return [
        CalibrationBin(
            low=float(edges[i]),
            high=float(edges[i + 1]),
            count=int((index == i).sum()),
            confidence=float(confidence[index == i].mean()),
            accuracy=float(right[index == i].mean()),
        )
        for i in np.unique(index)
    ]


def expected_calibration_error(labels: Ints, probabilities: Floats, bins: int = 15) -> float:
    """Return the mean gap between confidence and accuracy over the bins, weighted by count.

    Naeini, Cooper & Hauskrecht, "Obtaining well calibrated probabilities using Bayesian
    binning" (AAAI 2015). 0 is perfect; NaN without predictions.
    """
    if len(labels) == 0:
        return float("nan")
    sizes = calibration_bins(labels, probabilities, bins)
    return sum(b.count * abs(b.confidence - b.accuracy) for b in sizes) / len(labels)
