"""The networks. Each maps float32 [N, 1, 28, 28] in [0, 1] to logits float32 [N, 10].

To serve another model, write its class here and add it to `ARCHITECTURES`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


class Classifier(nn.Module):
    """Features, then one linear layer to the logits (calibration scales that layer)."""

    def __init__(self, features: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.features = features
        self.head = head

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images float32 [N, 1, 28, 28] to logits float32 [N, 10]."""
        logits: torch.Tensor = self.head(self.features(images))
        return logits


class MLP(Classifier):
    """The fully connected network of the PyTorch notebooks: 102,762 parameters."""

    def __init__(self) -> None:
        features = nn.Sequential(
            nn.Flatten(),
            nn.Linear(28 * 28, 96),
            nn.Tanh(),
            nn.Dropout(0.2),
            nn.Linear(96, 256),
            nn.Sigmoid(),
            nn.Dropout(0.2),
        )
        super().__init__(features, nn.Linear(256, 10))


def conv(inputs: int, outputs: int, stride: int = 1, padding: int = 1) -> nn.Sequential:
    """3×3 convolution, batch norm, SiLU. At export the norm folds into the convolution."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding, bias=False),
        nn.BatchNorm2d(outputs),
        nn.SiLU(),
    )


class CNN(Classifier):
    """Four convolutions and no pooling: 63,034 parameters, 62,826 once exported.

    On a CPU, time follows the multiply-adds, and those follow the area. A normalised digit has
    an empty border, so the first layer, with stride 2 and no padding, halves the image and
    drops the border: the layers behind it see 6×6 where the usual padding would keep 7×7.
    The last is wide, since on 3×3 width is cheap. SiLU is a little more accurate than ReLU, and
    costs more; the first layer, with half of all activations, does without.
    """

    def __init__(self) -> None:
        features = nn.Sequential(
            nn.Conv2d(1, 16, 5, stride=2, bias=False),  # [N, 16, 12, 12]
            nn.BatchNorm2d(16),
            nn.ReLU(),
            conv(16, 32, stride=2),  # [N, 32, 6, 6]
            conv(32, 32),  # [N, 32, 6, 6]
            conv(32, 128, stride=2),  # [N, 128, 3, 3]
            nn.Flatten(),
        )
        super().__init__(features, nn.Linear(128 * 3 * 3, 10))


class Teacher(Classifier):
    """Whose answers the CNN learns from; never served: 171,442 parameters, 171,082 once
    exported, 7 times the CNN's time.

    Its first layer sees every pixel (stride 1), and it keeps 26×26 and 13×13 longer.
    """

    def __init__(self) -> None:
        features = nn.Sequential(
            nn.Conv2d(1, 24, 3, bias=False),  # [N, 24, 26, 26]
            nn.BatchNorm2d(24),
            nn.ReLU(),
            conv(24, 32, stride=2),  # [N, 32, 13, 13]
            conv(32, 48),  # [N, 48, 13, 13]
            conv(48, 64, stride=2),  # [N, 64, 7, 7]
            conv(64, 64),  # [N, 64, 7, 7]
            conv(64, 128, stride=2, padding=0),  # [N, 128, 3, 3]
            nn.Flatten(),
        )
        super().__init__(features, nn.Linear(128 * 3 * 3, 10))
        self.to(memory_format=torch.channels_last)  # faster with maps this large


ARCHITECTURES: dict[str, Callable[[], Classifier]] = {"cnn": CNN, "mlp": MLP, "teacher": Teacher}
