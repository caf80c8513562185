"""The archived network: what is loaded, what is refused, and what it answers."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from handler.model import CHUNK, DigitModel, ModelError


def script(module: torch.nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript
        torch.jit.save(torch.jit.script(module), str(path))
    return path


def test_digits_equal_the_notebook_way(
    model: DigitModel, model_file: Path, mnist_test: tuple[NDArray[np.uint8], NDArray[np.int64]]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = torch.jit.load(str(model_file)).eval()  # type: ignore[no-untyped-call]
    images = mnist_test[0]
    with torch.no_grad():
        batch = torch.from_numpy(images).unsqueeze(1).float() / 255
        logits = network(batch)
    digits, probabilities = model.predict(images)
    assert np.array_equal(digits, logits.argmax(dim=1).numpy())
    assert np.allclose(probabilities, logits.softmax(dim=1).numpy(), atol=1e-5)


def test_large_batches_are_cut_without_a_trace(
    model: DigitModel, mnist_test: tuple[NDArray[np.uint8], NDArray[np.int64]]
) -> None:
    images = mnist_test[0][: 2 * CHUNK + 1]
    digits, probabilities = model.predict(images)
    assert probabilities.shape == (2 * CHUNK + 1, 10)
    assert digits[-1] == model.predict(images[-1:])[0][0]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model in the archive: expected mnist\.pt"):
        DigitModel(tmp_path / "mnist.pt")


def test_a_state_dict_is_no_torchscript(tmp_path: Path) -> None:
    path = tmp_path / "mnist.pt"
    torch.save(torch.nn.Linear(1, 1).state_dict(), path)
    with pytest.raises(ModelError, match="not a TorchScript file"):
        DigitModel(path)


def test_a_corrupt_file_is_no_torchscript(tmp_path: Path, model_file: Path) -> None:
    path = tmp_path / "mnist.pt"
    path.write_bytes(model_file.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="not a TorchScript file"):
        DigitModel(path)


def test_the_wrong_input_shape_is_named(tmp_path: Path) -> None:
    path = script(torch.nn.Linear(784, 10), tmp_path / "mnist.pt")
    with pytest.raises(ModelError, match=r"does not accept float32 \[N,1,28,28\]"):
        DigitModel(path)


def test_the_wrong_output_shape_is_named(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 9))
    with pytest.raises(ModelError, match=r"must answer logits \[N,10\], got \[2, 9\]"):
        DigitModel(script(network, tmp_path / "mnist.pt"))


def test_the_wrong_output_type_is_named(tmp_path: Path) -> None:
    class Doubles(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)[:, :10].double()

    with pytest.raises(ModelError, match="must answer float32 logits"):
        DigitModel(script(Doubles(), tmp_path / "mnist.pt"))
