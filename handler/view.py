"""A picture at the size at which a digit is looked for, and what can be asked of it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from handler.decoding import Pixels

# A digit of 1/10 of a page is still 24 pixels high, a stroke of 1/100 still 2 wide.
VIEW_SIDE = 240
# A tiny image is enlarged to this first, so that strokes are several pixels wide.
TINY_SIDE = 96
# Nothing wider than this share of the picture is a pen's stroke; shadows, table edges and the
# falling-off of light are.
WIDEST_STROKE = 1 / 6
# Ink reaches this share of its contrast within 5 pixels of a view; shadows take far longer.
SHARP = 0.3


@dataclass(frozen=True)
class View:
    """One channel of a picture, uint8 [H, W]; `size` is the picture's own longest side."""

    tone: Pixels
    size: int
    is_closer: bool = False

    @property
    def is_tiny(self) -> bool:
        """Postal scans of 16×16 and the like: too small for shading, cut out tightly."""
        return self.size < 24

    @property
    def is_photo_sized(self) -> bool:
        """Large enough to be a photograph in uneven light."""
        return self.size >= 64

    @property
    def is_coarse(self) -> bool:
        """Shrunk so much that its grain is that of paper and camera."""
        return not self.is_closer and self.is_page_sized

    @property
    def is_page_sized(self) -> bool:
        """A camera's or a scanner's picture of a page, rather than a digit cut out of one."""
        return self.size > 2 * VIEW_SIDE


def resized(pixels: Pixels, side: int = VIEW_SIDE) -> tuple[Pixels, float]:
    """To at most `side` and at least TINY_SIDE pixels; and by which factor.

    Shrinks by whole numbers, each pixel the mean of a square: 20 times as fast as by fractions.
    """
    height, width = pixels.shape[:2]
    longest = max(height, width)
    if longest > side:
        k = -(-longest // side)
        rows, columns = max(1, height // k), max(1, width // k)
        whole = pixels[: rows * k, : columns * k] if min(height, width) >= k else pixels
        small = cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA)
        return small.astype(np.uint8), 1 / k
    if longest < TINY_SIDE:
        k = -(-TINY_SIDE // longest)
        large = cv2.resize(pixels, None, fx=k, fy=k, interpolation=cv2.INTER_CUBIC)
        return large.astype(np.uint8), float(k)
    return pixels, 1.0


def square(k: int) -> Pixels:
    """A k×k structuring element."""
    return np.ones((k, k), np.uint8)


def odd(size: float) -> int:
    """The odd number near it, at least 3."""
    return max(3, int(size) | 1)


def border_share(mask: Pixels, depth: int = 0) -> float:
    """How much of the border (or of the ring `depth` pixels inside it) is in the mask, 0 to 1."""
    h, w = mask.shape
    part = mask[depth : h - depth, depth : w - depth]
    sides = (part[0], part[-1], part[:, 0], part[:, -1])
    return float(np.concatenate(sides).mean()) / 255


def thickness(mask: Pixels) -> float:
    """Half the width of what is widest in the mask, as a share of the picture's longest side."""
    edged = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    half: float = cv2.minMaxLoc(cv2.distanceTransform(edged, cv2.DIST_L2, 3))[1]
    return half / int(max(mask.shape))


def is_sharp(tone: Pixels, mask: Pixels) -> bool:
    """Whether the mask is bounded by edges, as ink is; shadow and vignette fade."""
    edge = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, square(3))
    step = cv2.morphologyEx(tone, cv2.MORPH_GRADIENT, square(5))
    inside, whole, share = cv2.mean(tone, mask)[0], cv2.mean(tone)[0], cv2.mean(mask)[0] / 255
    contrast = (inside - whole) / max(1 - share, 1e-6)  # inside less outside
    return bool(cv2.mean(step, edge)[0] - cv2.mean(step)[0] > SHARP * contrast)


def is_tight(mask: Pixels, least_sides: int = 4) -> bool:
    """Whether the mask meets its sides and fills none, as where a digit's box was cut out."""
    if max(mask.shape) > 2 * min(mask.shape):
        return True
    d = max(2, max(mask.shape) // 25)
    bands = (mask[:d], mask[-d:], mask[:, :d].T, mask[:, -d:].T)
    shares = [float(band.max(axis=0).mean()) / 255 for band in bands]
    return sum(share > 0 for share in shares) >= least_sides and max(shares) < 0.9


def continued(tone: Pixels, k: int) -> Pixels:
    """With k more pixels on each side, in which shading goes on as it was (odd reflection)."""
    ends = cv2.copyMakeBorder(cv2.blur(tone, (5, 5)), k, k, k, k, cv2.BORDER_REPLICATE)
    mirrored = cv2.copyMakeBorder(tone, k, k, k, k, cv2.BORDER_REFLECT)
    wider = cv2.addWeighted(ends, 2, mirrored, -1, 0).astype(np.uint8)
    wider[k:-k, k:-k] = tone
    return wider
