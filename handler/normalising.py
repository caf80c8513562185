"""Rule 2 of preprocessing: any picture of a digit into the form that MNIST was made in.

MNIST's makers (LeCun, Cortes, Burges, http://yann.lecun.com/exdb/mnist) scaled each scanned
digit to fit 20×20 pixels, anti-aliased and with its aspect kept, and placed it so that its
centre of mass lies at the centre of 28×28. Before that can be done here, the ink has to be found.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from handler.decoding import Pixels
from handler.errors import NoDigit

Float = NDArray[np.float32]

SIDE = 28
BOX = 20
# Sub-pixels per pixel of the result: a quarter of a pixel is as fine as a stroke needs.
FINE = 4
# Longest side at which ink is looked for; a stroke of 1/100 of it is still 2 pixels wide.
WORK_SIDE = 224
# A tiny image is enlarged to this first, so that strokes are several pixels wide.
TINY_SIDE = 84


def has_strict_form(image: Pixels) -> bool:
    """Whether uint8 [28, 28] is as MNIST's own: black ground, full contrast, boxed and centred."""
    ring = (
        int(image[0].sum())
        + int(image[-1].sum())
        + int(image[:, 0].sum())
        + int(image[:, -1].sum())
    )
    if ring > 9 * 112 or image.max() < 250:
        return False
    moments = cv2.moments(image)
    mass = moments["m00"]
    if not 5000 <= mass <= 80_000:
        return False
    centre = (moments["m10"] / mass, moments["m01"] / mass)
    if not all(13.4 <= c <= 14.6 for c in centre):
        return False
    _, _, width, height = cv2.boundingRect((image > 24).astype(np.uint8))
    return 18 <= max(width, height) <= 21


def normalise(pixels: Pixels) -> Pixels:
    """A picture of one digit to MNIST's form.

    Takes uint8 [H, W] or [H, W, 3] of any size, tone and polarity; returns uint8 [28, 28].
    Raises NoDigit where nothing legible stands.
    """
    if pixels.shape[:2] == (SIDE, SIDE):
        grey = _grey(pixels)
        for candidate in (grey, 255 - grey):
            if has_strict_form(candidate):
                return candidate
    small = _resize_to(pixels, WORK_SIDE)
    tone = _grey(small)
    if max(tone.shape) < TINY_SIDE:
        k = -(-TINY_SIDE // max(tone.shape))
        tone = cv2.resize(tone, None, fx=k, fy=k, interpolation=cv2.INTER_CUBIC)
    if _ground_is_dark(tone):
        tone = 255 - tone
    ink = _ink(tone)
    ink = _digit(ink)
    return _place(_fit(ink))


def _resize_to(pixels: Pixels, side: int) -> Pixels:
    h, w = pixels.shape[:2]
    k = side / max(h, w)
    if k >= 1:
        return pixels
    size = (max(1, round(w * k)), max(1, round(h * k)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.uint8)


def _grey(pixels: Pixels) -> Pixels:
    if pixels.ndim == 2:
        return pixels
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.uint8)


def _ground_is_dark(tone: Pixels) -> bool:
    t = tone.astype(np.float32)
    spread = float(t.std())
    if spread < 1:
        raise NoDigit("the image is blank: expected one digit in it")
    z = (t - t.mean()) / spread
    ring = np.concatenate([z[0], z[-1], z[:, 0], z[:, -1]]).mean()
    return bool(ring - float((z**3).mean()) / 2 < 0)


def _ink(tone: Pixels) -> Pixels:
    """Ink strength 0..255 of dark ink on light ground."""
    k = max(tone.shape) // 2 | 1
    ground = cv2.morphologyEx(cv2.medianBlur(tone, 3), cv2.MORPH_CLOSE, np.ones((k, k), np.uint8))
    ground = cv2.blur(ground, (k // 4 | 1, k // 4 | 1))
    ink = cv2.divide(cv2.subtract(ground, tone), ground, scale=255)
    return ink.astype(np.uint8)


def _digit(ink: Pixels) -> Pixels:
    level, mask = cv2.threshold(ink, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    ground = ink[mask == 0]
    strong = ink[mask > 0]
    if not len(strong) or strong.mean() - ground.mean() < max(8, 3.5 * ground.std()):
        raise NoDigit("nothing in the image stands out from its ground: expected one digit")
    r = max(1, max(ink.shape) // 60)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * r + 1, 2 * r + 1))
    n, labels, stats, _ = cv2.connectedComponentsWithStats(cv2.dilate(mask, kernel))
    area = stats[:, cv2.CC_STAT_AREA].astype(float)
    area[0] = 0
    main = int(area.argmax())
    keep = area > 0.06 * area[main]
    keep[0] = False
    soft = cv2.LUT(
        ink, _levels(float(np.percentile(strong, 60)), float(ground.mean() + 2 * ground.std()))
    )
    return np.where(keep[labels], soft, 0).astype(np.uint8)


def _levels(high: float, low: float) -> Pixels:
    low = min(low, high * 0.4)
    return np.clip((np.arange(256) - low) * (255 / (high - low)), 0, 255).astype(np.uint8)


def _fit(ink: Pixels) -> Pixels:
    """Scale the ink's box to BOX·FINE and bring the stroke near MNIST's width."""
    x, y, w, h = cv2.boundingRect((ink > 50).astype(np.uint8))
    crop = ink[y : y + h, x : x + w]
    goal = BOX * FINE
    k = goal / max(h, w)
    size = (max(1, round(w * k)), max(1, round(h * k)))
    crop = cv2.resize(crop, size, interpolation=cv2.INTER_AREA if k < 1 else cv2.INTER_LINEAR)
    return crop.astype(np.uint8)


def _place(fine: Pixels) -> Pixels:
    h, w = fine.shape
    rows, columns = -(-h // FINE), -(-w // FINE)
    padded = np.zeros((rows * FINE, columns * FINE), np.uint8)
    top, left = (rows * FINE - h) // 2, (columns * FINE - w) // 2
    padded[top : top + h, left : left + w] = fine
    box = cv2.resize(padded, (columns, rows), interpolation=cv2.INTER_AREA).astype(np.float32)
    box = np.minimum(box * (255 / box.max()), 255)
    m = cv2.moments(box)
    cx, cy = m["m10"] / m["m00"], m["m01"] / m["m00"]
    x = int(np.clip(round(SIDE / 2 - 0.5 - cx + 0.5), 0, SIDE - columns))
    y = int(np.clip(round(SIDE / 2 - 0.5 - cy + 0.5), 0, SIDE - rows))
    image = np.zeros((SIDE, SIDE), np.uint8)
    image[y : y + rows, x : x + columns] = np.rint(box)
    return image
