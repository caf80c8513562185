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
from training.teacher import FAST_BFLOAT16


class Replica:
    """A copy of the network that finds the gradients of its share of a batch.

    It has random numbers, batch norm statistics and an ascent of its own. So what it computes
    does not depend on when the others run, and they can run at the same time.
    """

    def __init__(
        self, model: Classifier, recipe: Recipe, number: int, teacher: nn.Module | None = None
    ) -> None:
        """Copy the network.

        Args:
            number: 1 or above, tells this replica's random numbers apart.
            teacher: whose answers to learn from, in eval mode; all replicas may share it.
        """
        self.model = copy.deepcopy(model).train()
        self._parameters = list(self.model.parameters())
        self._recipe = recipe
        self._teacher = teacher
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
        targets = self._targets(images, labels)
        loss, logits = self._differentiate(images, targets)
        if self._recipe.sharpness:
            self._climb(self._recipe.sharpness)
            self._differentiate(images, targets)
        return float(loss), int((logits.argmax(1) == labels).sum())

    @torch.no_grad()
    def _targets(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The probabilities to learn, float32 [N, 10]: the teacher's, or the smoothed labels."""
        if self._teacher is None:
            smoothing = self._recipe.label_smoothing
            return F.one_hot(labels, 10) * (1 - smoothing) + smoothing / 10
        with torch.autocast("cpu", torch.bfloat16, enabled=FAST_BFLOAT16):
            logits: torch.Tensor = self._teacher(images)
        return F.softmax(logits.float() / self._recipe.distillation, 1)

    def _differentiate(
        self, images: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put the loss's gradients into the parameters; return the loss and the logits.

        A teacher's answers are learnt at its temperature, whose 1/T in the gradients is made good
        here: Hinton, Vinyals & Dean, 2015 (https://arxiv.org/abs/1503.02531).
        """
        self.model.zero_grad()
        logits = self.model(images)
        temperature = self._recipe.distillation or 1.0
        loss = temperature * F.cross_entropy(logits / temperature, targets)
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
