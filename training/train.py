"""The training loop: one-cycle AdamW on augmented digits, towards flat minima, and an average
of the weights."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  (PyTorch's own convention)
from tqdm import tqdm

from training.augment import augment
from training.models import ARCHITECTURES, Classifier
from training.recipes import Recipe


def train(
    recipe: Recipe,
    images: torch.Tensor,
    labels: torch.Tensor,
    test_accuracy: Callable[[nn.Module], float],
) -> tuple[Classifier, list[dict[str, float]]]:
    """Train a network; return it in eval mode, and its history.

    Args:
        recipe: what to train and how.
        images: float32 [N, 1, 28, 28] in [0, 1], at least one batch of them.
        labels: int64 [N], 0..9.
        test_accuracy: called after each epoch to show an accuracy. It decides nothing.

    Returns:
        The network with its averaged weights, and a dictionary for each epoch: `loss` and
        `train_accuracy` (means over the augmented images, while learning), `test_accuracy`.
    """
    torch.manual_seed(recipe.seed)  # initial weights and dropout
    generator = torch.Generator().manual_seed(recipe.seed)  # order and augmentation
    model = ARCHITECTURES[recipe.arch]()
    average = copy.deepcopy(model).eval()
    tensors = list(zip(average.state_dict().values(), model.state_dict().values(), strict=True))
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True
    )
    steps = len(images) // recipe.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.lr, total_steps=recipe.epochs * steps, pct_start=0.2
    )
    history: list[dict[str, float]] = []
    for epoch in range(1, recipe.epochs + 1):
        model.train()
        seen, correct, total_loss = 0, 0, 0.0
        order = torch.randperm(len(images), generator=generator)
        with _progress(f"epoch {epoch}/{recipe.epochs}", steps) as bar:
            for batch in torch.split(order, recipe.batch_size)[:steps]:
                inputs, targets = images[batch], labels[batch]
                if recipe.augmentation is not None:
                    strength = recipe.augmentation.scaled(_settling(epoch, recipe.epochs))
                    inputs = augment(inputs, strength, generator)
                loss, logits = _backward(model, inputs, targets, recipe.label_smoothing)
                if recipe.sharpness:
                    offsets = _climb(parameters, recipe.sharpness)
                    _backward(model, inputs, targets, recipe.label_smoothing)
                    _move(parameters, offsets, -1)
                optimizer.step()
                schedule.step()
                _update_average(tensors, len(history) * steps + int(bar.n))

                seen += len(batch)
                correct += int((logits.argmax(1) == targets).sum())
                total_loss += float(loss) * len(batch)
                bar.set_postfix_str(
                    f"loss {total_loss / seen:.4f}, accuracy {correct / seen:.2%}", refresh=False
                )
                bar.update()
            tested = test_accuracy(average)
            bar.set_postfix_str(f"{bar.postfix}, test {tested:.2%}")
        history.append(
            {
                "loss": total_loss / seen,
                "train_accuracy": correct / seen,
                "test_accuracy": tested,
            }
        )
    return average, history


def _backward(
    model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor, smoothing: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Put the loss's gradients into the parameters; return the loss and the logits."""
    model.zero_grad()
    logits = model(inputs)
    loss = F.cross_entropy(logits, targets, label_smoothing=smoothing)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach(), logits.detach()


def _climb(parameters: list[nn.Parameter], radius: float) -> list[torch.Tensor]:
    """Move the parameters to where, within a radius, the loss is about highest; return the way.

    The step is then taken with the gradients from there: sharpness-aware minimisation, which
    finds flat minima. Source: Foret et al., 2021 (https://arxiv.org/abs/2010.01412).
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.sqrt(sum((g.square().sum() for g in gradients), torch.zeros(())))
    offsets = [g * (radius / (norm + 1e-12)) for g in gradients]
    _move(parameters, offsets, 1)
    return offsets


@torch.no_grad()
def _move(parameters: list[nn.Parameter], offsets: list[torch.Tensor], sign: int) -> None:
    for parameter, offset in zip(parameters, offsets, strict=True):
        parameter.add_(offset, alpha=sign)


def _settling(epoch: int, epochs: int) -> float:
    """How strong to augment, as a share: full at first, less and less in the last 40 %.

    Strong distortion teaches what a digit is; the end belongs to digits as they come.
    """
    return min(1.0, max(0.5, (epochs - epoch + 1) / (0.4 * epochs)))


@torch.no_grad()
def _update_average(tensors: list[tuple[torch.Tensor, torch.Tensor]], step: int) -> None:
    """Move the averaged weights and batch norm statistics towards the current ones, in place.

    The average spans the last 500 steps, fewer at the start: enough to remove the noise of
    single steps, and settled by the time the learning rate has come down to zero.
    """
    decay = min(0.998, (1 + step) / (10 + step))
    for averaged, current in tensors:
        if averaged.is_floating_point():
            averaged.lerp_(current, 1 - decay)


@torch.inference_mode()
def predict(model: nn.Module, images: torch.Tensor) -> npt.NDArray[np.float32]:
    """Run a network over images float32 [N, 1, 28, 28]; return logits float32 [N, 10]."""
    logits: npt.NDArray[np.float32] = torch.cat(
        [model(part) for part in torch.split(images, 500)]
    ).numpy()
    return logits


def _progress(title: str, steps: int) -> tqdm[NoReturn]:
    # In a log file, where a bar cannot redraw itself, one line per epoch is enough.
    interval = 0.2 if sys.stderr.isatty() else float("inf")
    return tqdm(total=steps, desc=title, unit="batch", mininterval=interval, delay=0.1)
