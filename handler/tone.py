"""From colours to one channel with a light ground, and what surrounds a page cut off."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from handler.decoding import Pixels
from handler.errors import NoDigit
from handler.view import (
    TINY_SIDE,
    WIDEST_STROKE,
    View,
    border_share,
    continued,
    is_sharp,
    is_tight,
    odd,
    resized,
    square,
    thickness,
)

# Of 255. With less between its lightest and darkest part an image is blank.
LEAST_RANGE = 10


@dataclass(frozen=True)
class Axis:
    """The direction in colour along which ink and ground differ, pointing towards the ground."""

    weights: tuple[float, ...]
    offset: float

    def apply(self, pixels: Pixels) -> Pixels:
        """uint8 [H, W] or [H, W, 3] to uint8 [H, W], the ground light."""
        if pixels.ndim == 2:
            return pixels if self.weights[0] > 0 else cv2.bitwise_not(pixels).astype(np.uint8)
        matrix = np.array([[*self.weights, self.offset]], np.float32)
        return cv2.transform(pixels, matrix).astype(np.uint8)

    def reversed(self) -> Axis:
        return Axis(tuple(-weight for weight in self.weights), 255 - self.offset)


def without_colour(pixels: Pixels, view: Pixels) -> tuple[Pixels, Pixels]:
    """A picture and its view, with one channel where all three are the same in the view."""
    if view.ndim == 3:
        red, green, blue = cv2.split(view)
        if np.array_equal(red, green) and np.array_equal(green, blue):
            return pixels[..., 0], red.astype(np.uint8)
    return pixels, view


def find_axis(pixels: Pixels, size: int) -> Axis:
    """The axis of a view whose picture's longest side is `size`. Raises NoDigit if it is blank.

    Of colours, the one along which neighbouring pixels differ most (the first principal
    component of the picture less its blur): blue ink on white lies on one, and so do red on
    green of the same brightness. Slow changes of light and colour have no part in it.
    """
    axis = Axis((1.0,), 0.0)
    if pixels.ndim == 3:
        small = resized(pixels, TINY_SIDE)[0].astype(np.float32)
        detail = (small - cv2.blur(small, (21, 21))).reshape(-1, 3)
        main = np.linalg.eigh(detail.T @ detail)[1][:, 2]
        main = main * (1 if main.sum() >= 0 else -1)
        main = main / np.abs(main).sum()
        axis = Axis(tuple(main.tolist()), -255 * float(np.minimum(main, 0).sum()))
    if _ground_is_dark(View(axis.apply(pixels), size)):
        axis = axis.reversed()
    return axis


def _ground_is_dark(view: View) -> bool:
    """Polarity, told by the ground and not by the ink.

    In an even light two tones meet in sharp edges, and the ground is the one at the border, or
    the broad one (strokes are narrow), or, in a tight crop, the one with more of both.
    """
    small, _ = resized(view.tone, TINY_SIDE)
    if int(small.max()) - int(small.min()) < LEAST_RANGE:
        raise NoDigit("the image is blank: expected one digit in it")
    long = small if small.shape[0] > small.shape[1] else small.T
    if long.shape[0] > 2 * long.shape[1]:  # a 1, cut out: the ground lies along its long sides
        rise = float(long[:, [0, -1]].mean()) - float(long[:, long.shape[1] // 2].mean())
        if abs(rise) > 0.3 * (int(small.max()) - int(small.min())):
            return rise < 0
    light = cv2.threshold(small, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[1].astype(np.uint8)
    if is_sharp(small, light):
        ring = border_share(light)
        if not 0.05 < ring < 0.95:
            return ring < 0.5
        dark = cv2.bitwise_not(light).astype(np.uint8)
        broad_dark, broad_light = thickness(dark), thickness(light)
        if min(broad_dark, broad_light) < 0.1 and not (
            0.5 <= broad_dark / max(broad_light, 1e-6) <= 2
        ):
            return broad_dark > broad_light
        cropped = not view.is_photo_sized or (is_tight(light) and is_tight(dark))
        if cropped and max(broad_dark, broad_light) < 0.25:
            return ring + float(light.mean()) / 255 < 1
    return _ground_is_dark_in_uneven_light(view.tone)


def _ground_is_dark_in_uneven_light(tone: Pixels) -> bool:
    """Strokes are narrower than what they enclose: of two narrow structures, that one is ink.

    A black hat of size k holds what is darker than around and narrower than k, a top hat what is
    lighter; the edges of shadows are in neither. The first that reaches a good part of its full
    energy, as k grows, decides.
    """
    tone = cv2.GaussianBlur(tone, (3, 3), 0).astype(np.uint8)
    longest = max(tone.shape)
    widest = odd(WIDEST_STROKE * longest)
    wider = continued(tone, widest)
    cut = widest + min(longest // 20, min(tone.shape) // 4)  # the very edge may be a shadow's end
    hats = [
        [
            cv2.morphologyEx(wider, hat, square(odd(k)))[cut:-cut, cut:-cut].astype(np.float32)
            for hat in (cv2.MORPH_BLACKHAT, cv2.MORPH_TOPHAT)
        ]
        for k in (longest // 80, longest // 48, longest // 24, longest // 12, widest)
    ]
    strong = 0.5 * max(float(hat.max()) for hat in hats[-1])
    energies = np.array([[(hat[hat >= strong] ** 2).sum() for hat in pair] for pair in hats])
    whole = energies[-1]
    if whole.min() < 0.07 * whole.max():
        return bool(whole[1] > whole[0])
    for here in energies:
        share = here / np.maximum(whole, 1e-6)
        if share.max() >= 0.3:
            dark, light = here if share.min() >= 0.3 else share
            return bool(light > dark)
    return False


def without_surroundings(view: Pixels) -> tuple[Pixels, int, int]:
    """Cut off what surrounds the page on all sides: a table, a scan's black border, a frame.

    It is the border, yet the smaller part of the picture, and inside it there is a ring without
    it (no digit fills a ring). Returns the page and its left and top in the view.
    """
    height, width = view.shape[:2]
    small = cv2.resize(view, (64, 64), interpolation=cv2.INTER_LINEAR)
    grey = small if small.ndim == 2 else cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    light = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[1].astype(np.uint8)
    outer, whole = border_share(light), float(light.mean()) / 255
    if (outer < 0.1 and whole > 0.5) or (outer > 0.9 and whole < 0.5):
        for depth in range(1, 20):
            if abs(border_share(light, depth) - outer) > 0.9:
                x, y = -(-(depth + 1) * width // 64), -(-(depth + 1) * height // 64)
                return np.ascontiguousarray(view[y : height - y, x : width - x]), x, y
    return view, 0, 0
