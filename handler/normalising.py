"""Rule 2 of preprocessing: any picture of a digit into the form that MNIST was made in.

MNIST's makers (LeCun, Cortes, Burges, http://yann.lecun.com/exdb/mnist) scaled each scanned
digit to fit 20×20 pixels, anti-aliased and with its aspect kept, and placed it so that its
centre of mass lies at the centre of 28×28. Before that, the ink has to be found, first in the
whole picture and then, where the digit is small in it, closer up (`handler.tone`,
`handler.ink`).
"""

from __future__ import annotations

import cv2
import numpy as np

from handler.decoding import Pixels
from handler.errors import NoDigit
from handler.ink import Digit, find_digit
from handler.tone import find_axis, without_colour, without_surroundings
from handler.view import VIEW_SIDE, View, resized

SIDE = 28
BOX = 20
# Sub-pixels per pixel of the result: a quarter of a pixel is as fine as a stroke needs.
FINE = 4
# Stroke widths, in pixels of the result, between which 95 % of MNIST's own digits lie. A pen in
# a large photo is thinner and would fade when shrunk; a marker is wider.
THINNEST, WIDEST = 1.8, 4.6
# Around a digit, of its size: ground enough to tell it from.
MARGIN = 0.4
# No digit can be told from fewer pixels, nor in a strip narrower than this share of its length.
LEAST_PIXELS, LEAST_ASPECT = 5, 1 / 12
# Pieces and enclosed grounds of one digit, drawn in broken strokes: real ones stay below 13.
MOST_PIECES = 16


def has_strict_form(image: Pixels) -> bool:
    """Whether uint8 [28, 28] is as MNIST's own: black ground, full contrast, boxed and centred."""
    edges = (image[0], image[-1], image[:, 0], image[:, -1])
    if sum(int(edge.sum()) for edge in edges) > 9 * 112 or image.max() < 250:
        return False
    moments = cv2.moments(image)
    mass = moments["m00"]
    if not 5000 <= mass <= 90_000:
        return False
    if not all(13.4 <= moments[axis] / mass <= 14.6 for axis in ("m10", "m01")):
        return False
    _, _, width, height = cv2.boundingRect((image > 24).astype(np.uint8))
    return 18 <= max(width, height) <= 21


def normalise(pixels: Pixels) -> Pixels:
    """A picture of one digit to MNIST's form.

    Takes uint8 [H, W] or [H, W, 3] of any size, tone and polarity; returns uint8 [28, 28].
    Raises NoDigit where nothing legible stands.
    """
    if pixels.shape[:2] == (SIDE, SIDE):
        plain = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        for candidate in (plain.astype(np.uint8), (255 - plain).astype(np.uint8)):
            if has_strict_form(candidate):
                return candidate
    height, width = pixels.shape[:2]
    size = max(height, width)
    if size < LEAST_PIXELS or min(height, width) < LEAST_ASPECT * size:
        raise NoDigit(f"no digit can be told in an image of {width} × {height} pixels")
    view, scale = resized(pixels)
    pixels, view = without_colour(pixels, view)
    view, left, top = without_surroundings(view)
    axis = find_axis(view, size)
    digit = find_digit(View(axis.apply(view), size))
    x, y, w, h = digit.box
    if max(w, h) < LEAST_PIXELS * scale:
        raise NoDigit("only specks stand out from the ground: expected one digit")
    margin = MARGIN * max(w, h)
    if max(w, h) + 2 * margin < 0.8 * max(view.shape[:2]):
        x0, y0 = (max(0, round((at - margin) / scale)) for at in (x + left, y + top))
        x1, y1 = (round((at + margin) / scale) for at in (x + left + w, y + top + h))
        near, _ = resized(np.ascontiguousarray(pixels[y0:y1, x0:x1]), VIEW_SIDE // 2)
        digit = find_digit(View(axis.apply(near), size, is_closer=True))
    fine = _fitted(digit)
    if _pieces(fine) > MOST_PIECES:
        raise NoDigit("the image is noise or has many things in it: expected one digit")
    return _placed(fine)


def _fitted(digit: Digit) -> Pixels:
    """The digit's box at FINE sub-pixels, its stroke brought near MNIST's width."""
    x, y, w, h = digit.box
    crop = digit.ink[y : y + h, x : x + w]
    fine = _scaled(crop, BOX * FINE)
    stroke = _stroke_width(fine)
    change = round(min(max(stroke, THINNEST * FINE), WIDEST * FINE) - stroke)
    if change == 0:
        return fine
    n = abs(change)
    fine = _scaled(crop, BOX * FINE - change)
    fine = cv2.copyMakeBorder(fine, n, n, n, n, cv2.BORDER_CONSTANT).astype(np.uint8)
    pen = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (n + 1, n + 1))
    fine = (cv2.dilate if change > 0 else cv2.erode)(fine, pen).astype(np.uint8)
    x, y, w, h = cv2.boundingRect((fine > 64).astype(np.uint8))
    return _scaled(fine[y : y + h, x : x + w], BOX * FINE) if w else _scaled(crop, BOX * FINE)


def _scaled(crop: Pixels, side: int) -> Pixels:
    """With the longest side as given."""
    h, w = crop.shape
    k = side / max(h, w)
    size = (max(1, round(w * k)), max(1, round(h * k)))
    how = cv2.INTER_AREA if k < 1 else cv2.INTER_LINEAR
    return cv2.resize(crop, size, interpolation=how).astype(np.uint8)


def _stroke_width(fine: Pixels) -> float:
    """Mean width of the strokes, in pixels: four times a stroke's mean distance to its edge."""
    mask = cv2.copyMakeBorder((fine > 127).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    distance = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
    return 4 * cv2.mean(distance, mask)[0] - 1


def _pieces(fine: Pixels) -> int:
    """How many pieces of ink and of ground the box falls into."""
    ink = (fine > 127).astype(np.uint8)
    count: int = cv2.connectedComponents(ink)[0] + cv2.connectedComponents(1 - ink)[0] - 2
    return count


def _placed(fine: Pixels) -> Pixels:
    """Anti-aliased to pixels, at full contrast, the centre of mass at the centre."""
    h, w = fine.shape
    rows, columns = -(-h // FINE), -(-w // FINE)
    top, left = (rows * FINE - h) // 2, (columns * FINE - w) // 2
    fine = cv2.copyMakeBorder(
        fine, top, rows * FINE - h - top, left, columns * FINE - w - left, cv2.BORDER_CONSTANT
    ).astype(np.uint8)
    box = cv2.resize(fine, (columns, rows), interpolation=cv2.INTER_AREA).astype(np.float32)
    if box.max() < 1:
        raise NoDigit("only specks stand out from the ground: expected one digit")
    box *= 255 / box.max()
    # Not cv2.moments: it takes a box of two columns for a list of points.
    x = round(SIDE / 2 - float(box.sum(axis=0) @ np.arange(columns)) / float(box.sum()))
    y = round(SIDE / 2 - float(box.sum(axis=1) @ np.arange(rows)) / float(box.sum()))
    x, y = min(max(x, 0), SIDE - columns), min(max(y, 0), SIDE - rows)
    image = np.zeros((SIDE, SIDE), np.uint8)
    image[y : y + rows, x : x + columns] = np.rint(box)
    return image
