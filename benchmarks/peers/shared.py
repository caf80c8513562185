"""What every peer has in common with the project: its decoder, its model, its settings.

A peer so differs from the project in the server alone. It may do less: a peer lets one bad image
fail its whole batch, which saves it the checks that the project makes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from handler.arrays import NPY_MAGIC, Images, as_images, parse_npy, stack
from handler.model import DigitModel
from handler.preprocessing import prepare_image

PORT = int(os.environ.get("BENCH_PORT", "8000"))
BATCH = int(os.environ.get("BENCH_BATCH", "64"))  # requests per call of the model, at most
WORKERS = int(os.environ.get("BENCH_WORKERS", "1"))  # processes that hold the model
WAIT = 0.001  # seconds that a batch waits to fill


def load() -> DigitModel:
    """The model of this run, on one thread."""
    torch.set_num_threads(1)
    return DigitModel(Path(os.environ["BENCH_MODEL"]))


def decode(body: bytes) -> Images:
    """An encoded image or a `.npy` file to images [n,28,28]."""
    if body[: len(NPY_MAGIC)] == NPY_MAGIC:
        return as_images(parse_npy(body))[0]
    return prepare_image(body)[None]


def answer(model: DigitModel, batch: Sequence[Images]) -> list[bytes]:
    """One call of the model for all requests; a digit or a list of digits as JSON for each."""
    digits = model.predict(stack(batch))[0].tolist()
    answers, start = [], 0
    for images in batch:
        part = digits[start : start + len(images)]
        answers.append(str(part[0] if len(part) == 1 else part).encode())
        start += len(images)
    return answers
