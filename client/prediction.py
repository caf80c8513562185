"""The answer for one image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.errors import ClientError, Refused


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the server said about one image: a digit, or why there is none.

    Attributes:
        digit: 0..9, or None where `error` tells why not.
        probabilities: float32 [10], sums to 1, if they were asked for, else None.
        error: `Refused` when it is about this image; `ServerBusy` when there was no time for it;
            `ServerUnreachable`, `ServerFailed` or `Unauthorized` when the server was lost before
            this image had its answer.
    """

    digit: int | None
    probabilities: NDArray[np.float32] | None = None
    error: ClientError | None = None

    @property
    def confidence(self) -> float | None:
        """The probability of `digit`, 0..1, if probabilities were asked for."""
        if self.digit is None or self.probabilities is None:
            return None
        return float(self.probabilities[self.digit])

    @property
    def failure(self) -> ClientError | None:
        """Why this image had no answer; a refusal is one."""
        return None if isinstance(self.error, Refused) else self.error


def raise_lost(predictions: Iterable[Prediction]) -> None:
    """Accept digits and refusals; for use where a partial result is none.

    Raises:
        ClientError: the server was lost, or too busy, before all images had their answers.
    """
    for prediction in predictions:
        if failure := prediction.failure:
            raise failure
