"""Which pixels spoke for a digit: integrated gradients on the served network.

Source: Sundararajan, Taly, Yan, "Axiomatic Attribution for Deep Networks", 2017
(https://arxiv.org/abs/1703.01365), as implemented by Captum. The baseline is a black image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

METHOD = "riemann_middle"
STEPS = (128, 512, 2048, 8192)
"""Points on the way from the baseline to the image; the next number where the last was too few.

Most images are done after the first number; a few whose logit hardly differs from the baseline's
need the last. Captum's trapezoids have weights that do not sum up to one, and its Gauss-Legendre
nodes cost more than the network; midpoints have neither fault.
"""

MAX_ERROR = 0.01
"""Completeness error that is small enough, as a share of the logit difference …"""

LEAST_CHANGE = 0.1
"""… or of this many logits, where there is less to explain: they move a probability by 2.5 %."""

_BATCH = 256  # steps that run through the network at once: what stays in the cache


class Attribution(NamedTuple):
    """Why one image got its target's logit.

    Attributes:
        target: the class that is explained.
        values: float32 [28,28]; positive where a pixel spoke for the target. They sum up to
            logit(image) - logit(baseline), but for the error.
        error: |the sum's distance from that difference| / |that difference|.
        steps: the points that were taken.
    """

    target: int
    values: NDArray[np.float32]
    error: float
    steps: int


def captum_method() -> Any:
    """Captum's class, imported with the first explanation: a worker that only predicts need not
    carry it."""
    from captum.attr import IntegratedGradients  # noqa: PLC0415

    return IntegratedGradients


def integrated_gradients(
    network: Callable[[torch.Tensor], torch.Tensor], image: torch.Tensor, target: int
) -> Attribution:
    """Attribute the logit of `target` to the pixels of one image.

    Args:
        network: float32 [N,1,28,28] to logits [N,classes], differentiable.
        image: float32 [1,1,28,28] in 0..1.
        target: the class.
    """
    method = captum_method()(network)
    baseline = torch.zeros_like(image)
    with torch.no_grad():
        change = float((network(image) - network(baseline))[0, target])
    for steps in STEPS:
        values = method.attribute(
            image,
            baseline,
            target=target,
            n_steps=steps,
            method=METHOD,
            internal_batch_size=_BATCH,
        )
        gap = abs(float(values.sum()) - change)
        if gap <= MAX_ERROR * max(abs(change), LEAST_CHANGE):
            break
    error = gap / max(abs(change), 1e-6)
    return Attribution(target, values[0, 0].detach().cpu().float().numpy(), error, steps)
