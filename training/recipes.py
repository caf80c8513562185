"""The recipes by architecture and preset: everything that decides the weights, as data."""

from __future__ import annotations

from dataclasses import dataclass

from training.augment import Strength


@dataclass(frozen=True)
class Recipe:
    """One way to train one network."""

    arch: str
    epochs: int
    batch_size: int = 128
    lr: float = 6e-3  # the peak of the one-cycle schedule
    weight_decay: float = 0.02
    label_smoothing: float = 0.1
    distillation: float = 0.0  # temperature of the teacher's answers to learn from; 0: the labels
    sharpness: float = 0.0  # radius of sharpness-aware minimisation, at twice the time; 0: off
    shards: int = 1  # parts of a batch that learn side by side; networks with dropout need 1
    seed: int = 0
    augmentation: Strength | None = None


RECIPES = {
    ("cnn", "default"): Recipe(
        "cnn",
        epochs=36,
        batch_size=256,
        lr=1.1e-2,
        distillation=4.0,
        shards=2,
        # A teacher says what a digit still is, however far it is bent.
        augmentation=Strength(rotation=0.26, slant=0.32, scale=0.16, aspect=0.16, elastic=0.6),
    ),
    ("teacher", "default"): Recipe(
        "teacher",
        epochs=24,
        batch_size=256,
        label_smoothing=0.0,
        sharpness=0.05,
        shards=2,
        augmentation=Strength(),
    ),
    ("cnn", "fast"): Recipe(
        "cnn", epochs=2, shards=2, augmentation=Strength(elastic=0.3, stroke=0.1, blur=0.1, ink=0)
    ),
    ("mlp", "default"): Recipe("mlp", epochs=12, label_smoothing=0.0),
    ("mlp", "fast"): Recipe("mlp", epochs=3, label_smoothing=0.0),
}
