"""The archived network: loaded once, checked, frozen, warmed, and then only called.

Confidence is `softmax(logits)`, the digit is `argmax`; both on the device that serves.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from handler.explain import Attribution, integrated_gradients
from handler.labels import LABELS
from handler.memory import keep_freed_memory
from handler.preprocessing import to_tensor

FEW = 2
"""Up to so many images, oneDNN costs the network more than it saves: 207 µs for one, not 138."""

CHUNK = 128
"""Images per call of the network: larger bulk requests are cut, so that activations stay cached."""

SHARE = 128
"""Images that are worth a processor of their own: bulk requests spread over all of them."""

KEPT = 15 << 20
"""Bytes that stay with the process between batches; Pillow's, in blocks of 16 MB, do not."""


class ModelError(RuntimeError):
    """The archive cannot be served; the message says what is wrong with it and what to do."""


class DigitModel:
    """A frozen TorchScript network for float32 [N,1,28,28] in 0..1 to logits float32 [N,10]."""

    def __init__(
        self, path: Path, device: torch.device | str = "cpu", processors: int | None = None
    ) -> None:
        """Load, check, freeze and warm the network.

        Args:
            path: the TorchScript file; no class definition is needed.
            device: where it runs.
            processors: how many a large batch is spread over; by default all.

        Raises:
            ModelError: no file, not TorchScript, or another input or output shape.
        """
        self.device = torch.device(device)
        loaded = _load(path, self.device)
        self._network = freeze(loaded)
        self._batched = optimise(freeze(loaded), self.device)
        # Whole calls of the network run side by side, each on one thread: unlike threads inside
        # an operator they never wait for each other.
        if self.device.type != "cpu":
            processors = 1
        self._processors = processors or os.cpu_count() or 1
        self._threads = ThreadPoolExecutor(self._processors)
        keep_freed_memory(KEPT)
        self._warm()

    def predict(
        self, images: NDArray[np.uint8] | NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Recognise images in MNIST's form.

        Args:
            images: [N,28,28], uint8 0..255 or float32 0..1, N ≥ 1.

        Returns:
            Digits, int64 [N], and probabilities, float32 [N,10].
        """
        with torch.inference_mode():
            logits = self._logits(images)
            digits = logits.argmax(dim=1)
            return digits.cpu().numpy(), logits.softmax(dim=1).cpu().numpy()

    def explain(self, image: NDArray[np.uint8] | NDArray[np.float32], target: int) -> Attribution:
        """Attribute the logit of class `target` to the pixels of one image.

        Args:
            image: [1,28,28], uint8 0..255 or float32 0..1.
            target: the class to explain.
        """
        return integrated_gradients(self._network, to_tensor(image).to(self.device), target)

    def _logits(self, images: NDArray[np.uint8] | NDArray[np.float32]) -> torch.Tensor:
        if len(images) <= FEW:
            with _without_onednn():
                return self._run(self._network, images)
        shares = min(len(images) // SHARE, self._processors)
        parts = max(shares, math.ceil(len(images) / CHUNK))
        if parts == 1:
            return self._run(self._batched, images)
        run = partial(self._run, self._batched)
        return torch.cat(list(self._threads.map(run, np.array_split(images, parts))))

    @torch.inference_mode()
    def _run(
        self, network: torch.jit.ScriptModule, images: NDArray[np.uint8] | NDArray[np.float32]
    ) -> torch.Tensor:
        logits: torch.Tensor = network(to_tensor(images).to(self.device))
        return logits

    def _warm(self) -> None:
        """Run each batch size class twice: the first runs of a graph profile and compile it."""
        for size in (1, FEW, CHUNK):
            for _ in range(2):
                self.predict(np.zeros((size, 28, 28), np.uint8))


def _load(path: Path, device: torch.device) -> torch.jit.ScriptModule:
    if not path.is_file():
        raise ModelError(f"no model in the archive: expected {path.name}; run `make archive`")
    with warnings.catch_warnings():
        # torch deprecates TorchScript, which is the archived format here by decision.
        warnings.filterwarnings("ignore", message=".*torch.jit.*")
        try:
            network = torch.jit.load(str(path), map_location=device).eval()  # type: ignore[no-untyped-call]
        except (RuntimeError, ValueError) as error:
            raise ModelError(
                f"{path.name} is not a TorchScript file: save the model with torch.jit.script"
            ) from error
        _check_shapes(network, path.name, device)
        loaded: torch.jit.ScriptModule = network
        return loaded


def freeze(network: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """The network with its weights as constants; it can still be differentiated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*")
        frozen: torch.jit.ScriptModule = torch.jit.freeze(network)
        return frozen


_SILU = """
graph(%x):
  %y = aten::silu(%x)
  return (%y)
"""
_SIGMOID = """
graph(%x):
  %s = aten::sigmoid(%x)
  %y = aten::mul(%x, %s)
  return (%y)
"""


@contextmanager
def _without_onednn() -> Iterator[None]:
    """The public switch, `torch.backends.mkldnn.flags`, also sets what it warns of setting."""
    enabled = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(enabled)


def optimise(network: torch.jit.ScriptModule, device: torch.device) -> torch.jit.ScriptModule:
    """A frozen network, in place, in oneDNN's layouts: faster for batches, without gradients."""
    if device.type != "cpu":
        return network
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*")
        # oneDNN has no SiLU; for each, the pixels would leave its layouts and come back.
        torch._C._jit_pass_custom_pattern_based_rewrite_graph(_SILU, _SIGMOID, network.graph)
        optimised: torch.jit.ScriptModule = torch.jit.optimize_for_inference(network)
        return optimised


def _check_shapes(network: torch.jit.ScriptModule, name: str, device: torch.device) -> None:
    expected = (2, len(LABELS))
    try:
        with torch.inference_mode():
            logits = network(torch.zeros(2, 1, 28, 28, device=device))
    except RuntimeError as error:
        raise ModelError(f"{name} does not accept float32 [N,1,28,28]") from error
    if not isinstance(logits, torch.Tensor) or logits.dtype != torch.float32:
        raise ModelError(f"{name} must answer float32 logits, got {type(logits).__name__}")
    if tuple(logits.shape) != expected:
        raise ModelError(
            f"{name} must answer logits [N,{len(LABELS)}], got {list(logits.shape)} for two images"
        )
