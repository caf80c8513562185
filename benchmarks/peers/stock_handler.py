"""TorchServe's MNIST example: its image classifier with its own transforms, nothing tuned.

The example normalises in the handler; this model takes [0, 1], so the normalisation changes
nothing and costs what it costs there.
"""

from __future__ import annotations

import torch
from torchvision import transforms
from ts.torch_handler.image_classifier import ImageClassifier


class DigitClassifier(ImageClassifier):
    """Pillow and torchvision in front of the network, the digit as JSON behind it."""

    image_processing = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((0.0,), (1.0,))]
    )

    def postprocess(self, data: torch.Tensor) -> list[int]:
        """Logits [N,10] to digits [N]."""
        digits: list[int] = data.argmax(1).tolist()
        return digits
