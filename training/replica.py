"""One of several copies of a network, each of which learns from its share of every batch."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  (PyTorch's own convention)

from training.augment import Strength, augment
from training.models import Classifier
from training.recipes import Recipe


class Replica:
    """A copy of the network that finds the gradients of its share of a batch.

    It has random numbers, batch norm statistics and an ascent of its own. So what it computes
    does not depend on when the others run, and they can run at the same time.
    """

    def __init__(self, model: Classifier, recipe: Recipe, number: int) -> None:
        """Copy the network; `number`, 1 or above, tells this replica's random numbers apart."""
        self.model = copy.deepcopy(model).train()
        self._parameters = list(self.model.parameters())
        self._recipe = recipe
        self._generator = torch.Generator().manual_seed(recipe.seed + (number << 32))

    @property
    def gradients(self) -> list[torch.Tensor]:
        """What `learn` has found, in the order of the network's parameters."""
        return [p.grad for p in self._parameters if p.grad is not None]

    def learn(
        self,
        weights: Iterable[nn.Parameter],
        images: torch.Tensor,
        labels: torch.Tensor,
        strength: Strength | None,
    ) -> tuple[float, int]:
        """Find the gradients of the mean loss at these weights.

        Args:
            weights: the network's parameters, which are only read.
            images: float32 [N, 1, 28, 28] in [0, 1].
            labels: int64 [N], 0..9.
            strength: how to augment the images.

        Returns:
            The mean loss, and how many digits were right.
        """
        with torch.no_grad():
            for own, weight in zip(self._parameters, weights, strict=True):
                own.copy_(weight)
        if strength is not None:
            images = augment(images, strength, self._generator)
        loss, logits = self._differentiate(images, labels)
        if self._recipe.sharpness:
            self._climb(self._recipe.sharpness)
            self._differentiate(images, labels)
        return float(loss), int((logits.argmax(1) == labels).sum())

    def _differentiate(
        self, images: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put the loss's gradients into the parameters; return the loss and the logits."""
        self.model.zero_grad()
        logits = self.model(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self._recipe.label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach(), logits.detach()

    @torch.no_grad()
    def _climb(self, radius: float) -> None:
        """Move the parameters to where, within a radius, the loss is about highest.

        The step is then taken with the gradients from there: sharpness-aware minimisation, which
        finds flat minima, the better the smaller the share of the batch that each ascent is for.
        Source: Foret et al., 2021 (https://arxiv.org/abs/2010.01412).
        """
        norm = torch.sqrt(sum((g.square().sum() for g in self.gradients), torch.zeros(())))
        for parameter, gradient in zip(self._parameters, self.gradients, strict=True):
            parameter.add_(gradient * (radius / (norm + 1e-12)))
