"""Temperature scaling: make `softmax(logits)` mean what it says.

Guo, Pleiss, Sun & Weinberger, "On Calibration of Modern Neural Networks" (ICML 2017): one
number divides all logits, found by minimising the negative log-likelihood of held-out images.
It changes no prediction, only the confidence.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  (PyTorch's own convention)


def find_temperature(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """Return the temperature T > 0 for which softmax(logits / T) is likeliest.

    Args:
        logits: float32 [N, 10] of images that training has not seen.
        labels: int64 [N], 0..9.
    """
    scores, targets = torch.from_numpy(logits).double(), torch.from_numpy(labels)

    def cost(log_temperature: float) -> float:
        return float(F.cross_entropy(scores / np.exp(log_temperature), targets))

    # The likelihood is convex in 1/T, hence has one valley in log T: golden-section search.
    low, high = float(np.log(0.01)), float(np.log(100))
    golden = (np.sqrt(5) - 1) / 2
    for _ in range(40):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if cost(left) < cost(right):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


@torch.no_grad()
def fold_temperature(head: nn.Linear, temperature: float) -> None:
    """Divide the last layer by the temperature, in place: its logits come out calibrated."""
    head.weight.div_(temperature)
    head.bias.div_(temperature)
