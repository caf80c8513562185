"""The network that the default recipe learns from, trained once and kept beside this module.

    python -m training --arch teacher --output training/teacher.pt       # how it was made

It has seen what the other networks see: the same training images, and none of those held out.
"""

from __future__ import annotations

from pathlib import Path

import torch

from training import export
from training.data import DataError
from training.models import Classifier, Teacher

PATH = Path(__file__).with_name("teacher.pt")

# Where the processor multiplies bfloat16 matrices, the teacher answers in a third of the time.
# Elsewhere that would be emulated, and slow. Older versions of PyTorch cannot tell.
_capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
FAST_BFLOAT16 = bool(_capabilities.get("amx_bf16"))


def load() -> Classifier:
    """Return the teacher in eval mode; its logits are calibrated.

    Raises:
        DataError: its file is missing, or not that of this architecture.
    """
    teacher = export.fold_batch_norm(Teacher())
    try:
        teacher.load_state_dict(export.from_bytes(PATH.read_bytes()).state_dict())
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{PATH}: expected the teacher that `python -m training --arch teacher --output "
            f"{PATH}` trains, got: {str(error).splitlines()[0]}"
        ) from error
    return teacher
