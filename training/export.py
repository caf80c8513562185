"""From a trained network to a file and back: the only place that knows the archived format.

That is TorchScript. Another one (`torch.export`, ONNX) would replace `to_bytes` and
`from_bytes` here, and the loader in handler/.
"""

from __future__ import annotations

import copy
import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

Model = TypeVar("Model", bound=nn.Module)


@contextmanager
def _torchscript() -> Iterator[None]:
    """Let TorchScript be used without the announcement of its end, here and nowhere else.

    It stays until TorchServe, which loads it, is replaced; a user can do nothing about it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"[\s\S]*torch\.jit")
        yield


def fold_batch_norm(model: Model) -> Model:
    """Return a copy in eval mode whose batch norms have become part of their convolutions.

    In eval mode a batch norm is a fixed scale and shift per channel, so that a convolution can
    do both for nothing. Looks for a norm right behind a convolution in any `nn.Sequential`.
    """
    folded = copy.deepcopy(model).eval()
    for block in [m for m in folded.modules() if isinstance(m, nn.Sequential)]:
        for i in range(len(block) - 1):
            layer, norm = block[i], block[i + 1]
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                block[i] = fuse_conv_bn_eval(layer, norm)
                block[i + 1] = nn.Identity()
    return folded.requires_grad_(False)


def to_bytes(model: nn.Module) -> bytes:
    """Return the model, in eval mode, as a TorchScript file that needs no class to be loaded.

    Saved to memory, because TorchScript writes the name of the file into the file: the bytes
    would otherwise depend on where they are stored.
    """
    buffer = io.BytesIO()
    with _torchscript():
        torch.jit.save(torch.jit.script(model.eval()), buffer)
    return buffer.getvalue()


def from_bytes(content: bytes) -> nn.Module:
    """Load what `to_bytes` returned.

    Raises:
        RuntimeError: not TorchScript.
    """
    with _torchscript():
        model: nn.Module = torch.jit.load(io.BytesIO(content), "cpu")  # type: ignore[no-untyped-call]
    return model.eval()


def freeze(model: nn.Module) -> nn.Module:
    """Return what `from_bytes` loaded as a server runs it: weights inlined as constants."""
    with _torchscript():
        frozen: nn.Module = torch.jit.freeze(model)
    return frozen


def weights_sha256(model: nn.Module) -> str:
    """Return the SHA-256 over name, dtype, shape and bytes of each tensor, in state dict order."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}\n".encode())
        digest.update(array.numpy().tobytes())
    return digest.hexdigest()
