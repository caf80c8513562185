"""What the peers share: the decoder and the model of the project, and how they answer."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks import bulk
from benchmarks.memory import megabytes
from benchmarks.peers import shared
from handler.model import DigitModel


@pytest.fixture
def images(mnist_test: tuple[NDArray[np.uint8], NDArray[np.int64]]) -> NDArray[np.uint8]:
    """Five test images."""
    return mnist_test[0][:5]


def test_decode_takes_images_and_arrays(images: NDArray[np.uint8]) -> None:
    png = io.BytesIO()
    Image.fromarray(images[0]).save(png, "PNG")
    assert np.array_equal(shared.decode(png.getvalue()), images[:1])
    assert np.array_equal(shared.decode(bulk.to_npy(images)), images)


def test_answers_are_the_models_digits(model: DigitModel, images: NDArray[np.uint8]) -> None:
    digits = model.predict(images)[0].tolist()
    answers = shared.answer(model, [images[:1], images[1:]])
    assert answers == [str(digits[0]).encode(), str(digits[1:]).encode()]


def test_memory_counts_this_process() -> None:
    assert 20 < megabytes(os.getpid()) < 20_000
