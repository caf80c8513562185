"""Variation as handwriting has it, drawn anew for every image of every batch, in one resampling.

Affine and elastic distortion follow Simard, Steinkraus & Platt, "Best Practices for
Convolutional Neural Networks Applied to Visual Document Analysis" (ICDAR 2003); both are
displacements of the sampling grid, so the pixels are interpolated only once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F  # noqa: N812  (PyTorch's own convention)

# Bicubic enlargement from 6 control points to 28 pixels, as a matrix [28, 6].
COARSE = 6
ENLARGE = F.interpolate(torch.eye(COARSE)[None, None], size=(28, COARSE), mode="bicubic")[0, 0]


@dataclass(frozen=True)
class Strength:
    """The ranges drawn from; lengths in pixels of the 28×28 image."""

    rotation: float = 0.2  # radians, ± uniform
    slant: float = 0.25  # horizontal shear per unit of height, ± uniform
    scale: float = 0.12  # log of the size, ± uniform
    aspect: float = 0.12  # log of width over height, ± uniform
    shift: float = 1.5  # pixels, ± uniform: a normalised digit sits near the centre
    elastic: float = 0.45  # pixels, standard deviation of the displacement's control points
    stroke: float = 0.2  # how far towards one pixel thicker or thinner
    blur: float = 0.3  # how far towards the mean of 3×3 pixels
    ink: float = 0.1  # share of the contrast that may be missing

    def scaled(self, factor: float) -> Strength:
        """Return all ranges multiplied by a factor."""
        return Strength(**{name: value * factor for name, value in vars(self).items()})


def augment(images: torch.Tensor, strength: Strength, generator: torch.Generator) -> torch.Tensor:
    """Distort images float32 [N, 1, 28, 28] in [0, 1]; the result has the same form."""
    warped = F.grid_sample(
        images, _grid(len(images), strength, generator), mode="bilinear", align_corners=False
    )
    return _ink(warped, strength, generator)


def _uniform(shape: tuple[int, ...], limit: float, generator: torch.Generator) -> torch.Tensor:
    return (torch.rand(shape, generator=generator) * 2 - 1) * limit


def _grid(n: int, strength: Strength, generator: torch.Generator) -> torch.Tensor:
    """Where each output pixel looks in its input: float32 [N, 28, 28, 2] in [-1, 1]."""
    angle = _uniform((n,), strength.rotation, generator)
    slant = _uniform((n,), strength.slant, generator)
    scale = _uniform((n,), strength.scale, generator)
    aspect = _uniform((n,), strength.aspect, generator)
    width, height = torch.exp(scale + aspect / 2), torch.exp(scale - aspect / 2)
    cos, sin = torch.cos(angle), torch.sin(angle)
    theta = torch.empty(n, 2, 3)
    theta[:, 0, 0] = width * cos
    theta[:, 0, 1] = width * (slant * cos - sin)
    theta[:, 1, 0] = height * sin
    theta[:, 1, 1] = height * (slant * sin + cos)
    theta[:, :, 2] = _uniform((n, 2), strength.shift / 14, generator)
    grid = F.affine_grid(theta, [n, 1, 28, 28], align_corners=False)
    # A coarse field of random displacements, enlarged bicubically: as smooth as Simard's
    # Gaussian-filtered noise, for two small matrix products.
    field = torch.randn((n, 2, COARSE, COARSE), generator=generator) * (strength.elastic / 14)
    smooth = ENLARGE @ field @ ENLARGE.T
    return grid + smooth.permute(0, 2, 3, 1)


def _ink(images: torch.Tensor, strength: Strength, generator: torch.Generator) -> torch.Tensor:
    """Vary the pen: thicker or thinner strokes, softer edges, paler ink."""
    n = len(images)
    amount = torch.rand((3, n, 1, 1, 1), generator=generator)
    stroke, blur = amount[0] * strength.stroke, amount[1] * strength.blur
    ink = 1 - amount[2] * strength.ink
    # The batch comes in random order, so its halves are as good as a coin for each image.
    half = n // 2
    pen = torch.cat(
        [_neighbours(images[:half], torch.maximum), _neighbours(images[half:], torch.minimum)]
    )
    images = torch.lerp(images, pen, stroke)
    soft = _neighbours(images, torch.add) / 9
    return torch.lerp(images, soft, blur) * ink


def _neighbours(
    images: torch.Tensor, combine: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Combine each pixel with its eight neighbours: three rows, then three columns.

    Many times faster on a CPU than pooling or convolving a single channel.
    """
    padded = F.pad(images, (1, 1, 1, 1))
    rows = combine(combine(padded[..., :-2, :], padded[..., 1:-1, :]), padded[..., 2:, :])
    return combine(combine(rows[..., :-2], rows[..., 1:-1]), rows[..., 2:])
