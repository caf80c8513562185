"""An archive whose network can be made to fail, as no input can make the real one."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from handler import archive


class Fragile(torch.nn.Module):
    """The model, but for images whose first pixel is not black: these raise."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if bool((images[:, 0, 0, 0] > 0).any()):
            raise RuntimeError("broken on purpose")
        logits: torch.Tensor = self.network(images)
        return logits


def fragile_archive(model_file: Path, folder: Path) -> Path:
    """Build in `folder` the archive of such a model around the network in `model_file`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*")
        network = torch.jit.load(str(model_file)).eval()  # type: ignore[no-untyped-call]
        torch.jit.script(Fragile(network)).save(str(folder / "mnist.pt"))  # type: ignore[no-untyped-call]
    return archive.build(folder / "mnist.pt", folder)
