"""The training loop: one-cycle AdamW on augmented digits, towards flat minima, and an average
of the weights."""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from tqdm import tqdm

from training import teacher
from training.augment import Strength
from training.models import ARCHITECTURES, Classifier
from training.recipes import Recipe
from training.replica import Replica

AVERAGED_IMAGES = 64_000  # that the average of the weights spans


def train(
    recipe: Recipe,
    images: torch.Tensor,
    labels: torch.Tensor,
    test_accuracy: Callable[[nn.Module], float],
    threads: int = 1,
) -> tuple[Classifier, list[dict[str, float]]]:
    """Train a network; return it in eval mode, and its history.

    Args:
        recipe: what to train and how.
        images: float32 [N, 1, 28, 28] in [0, 1], at least one batch of them.
        labels: int64 [N], 0..9.
        test_accuracy: called after each epoch to show an accuracy. It decides nothing.
        threads: how many of the recipe's shards learn at the same time. It decides nothing but
            the time: the weights are the same, bit for bit.

    Returns:
        The network with its averaged weights, and a dictionary for each epoch: `loss` and
        `train_accuracy` (means over the augmented images, while learning), `test_accuracy`.

    Raises:
        DataError: the recipe wants a teacher, and its file is missing or another network's.
    """
    example = teacher.load() if recipe.distillation else None
    torch.manual_seed(recipe.seed)  # initial weights and dropout
    generator = torch.Generator().manual_seed(recipe.seed)  # order
    model = ARCHITECTURES[recipe.arch]()
    average = copy.deepcopy(model).eval()
    replicas = [Replica(model, recipe, number, example) for number in range(1, recipe.shards + 1)]
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True
    )
    steps = len(images) // recipe.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.lr, total_steps=recipe.epochs * steps, pct_start=0.2
    )
    history: list[dict[str, float]] = []
    workers = min(threads, recipe.shards)
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for epoch in range(1, recipe.epochs + 1):
            strength = _strength(recipe, epoch)
            seen, correct, total_loss = 0, 0, 0.0
            order = torch.randperm(len(images), generator=generator)
            with _progress(f"epoch {epoch}/{recipe.epochs}", steps) as bar:
                for batch in torch.split(order, recipe.batch_size)[:steps]:
                    shards = batch.tensor_split(recipe.shards)
                    learning = [
                        pool.submit(r.learn, parameters, images[shard], labels[shard], strength)
                        for r, shard in zip(replicas, shards, strict=True)
                    ]
                    learned = [future.result() for future in learning]
                    _average_gradients(parameters, replicas)
                    optimizer.step()
                    schedule.step()
                    step = len(history) * steps + int(bar.n)
                    _update_average(average, model, replicas, step, recipe.batch_size)

                    seen += len(batch)
                    correct += sum(right for _, right in learned)
                    total_loss += sum(loss for loss, _ in learned) / recipe.shards * len(batch)
                    bar.set_postfix_str(
                        f"loss {total_loss / seen:.4f}, accuracy {correct / seen:.2%}",
                        refresh=False,
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


def _average_gradients(parameters: Sequence[nn.Parameter], replicas: Sequence[Replica]) -> None:
    """Give each parameter the mean of the replicas' gradients."""
    gradients = (replica.gradients for replica in replicas)
    for parameter, *found in zip(parameters, *gradients, strict=True):
        # In the memory layout of the parameter, on which the fused optimizer relies unchecked.
        parameter.grad = functools.reduce(torch.add, found) / len(found)


def _strength(recipe: Recipe, epoch: int) -> Strength | None:
    """How strong to augment: full at first, less and less in the last 40 % of the epochs.

    Strong distortion teaches what a digit is; the end belongs to digits as they come.
    """
    if recipe.augmentation is None:
        return None
    left = (recipe.epochs - epoch + 1) / (0.4 * recipe.epochs)
    return recipe.augmentation.scaled(min(1.0, max(0.5, left)))


@torch.no_grad()
def _update_average(
    average: nn.Module, model: nn.Module, replicas: Sequence[Replica], step: int, batch_size: int
) -> None:
    """Move the averaged weights and batch norm statistics towards the current ones.

    The average spans about an epoch, less at the start: enough to remove the noise of single
    steps, and settled by the time the learning rate has come down to zero.
    """
    share = max(batch_size / AVERAGED_IMAGES, 9 / (10 + step))
    for averaged, parameter in zip(average.parameters(), model.parameters(), strict=True):
        averaged.lerp_(parameter, share)
    statistics = (replica.model.buffers() for replica in replicas)
    for averaged, *found in zip(average.buffers(), *statistics, strict=True):
        if averaged.is_floating_point():  # all but batch norm's counter, which nothing reads
            averaged.lerp_(torch.stack(found).mean(0), share)


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
