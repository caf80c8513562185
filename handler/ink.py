"""Ink told from its ground: the part of normalising that has to look at paper, light and noise.

Everything here works on a view: a picture brought to between `TINY_SIDE` and `VIEW_SIDE` pixels,
of one channel and with its ground light (see `handler.tone`).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from handler.decoding import Pixels
from handler.errors import NoDigit
from handler.view import (
    WIDEST_STROKE,
    View,
    border_share,
    continued,
    is_sharp,
    is_tight,
    odd,
    square,
    thickness,
)

# Least contrast of ink, of 255: what a hard pencil leaves on grey paper.
LEAST_CONTRAST = 10
# Ink stands out from its ground by so many times the ground's own spread. The upper part of any
# one heap of values does not: 2.6 for Gaussian noise cut anywhere, 3.5 for uniform noise.
LEAST_CLARITY = 4.5
# Paper in deep shadow keeps a quarter of white; to divide by less would blow up quantisation.
DARKEST_GROUND = 64
# The shortest digit in its view; what is smaller is a speck.
LEAST_SIDE = 0.04
# Parts of a digit (the hat of a 5) lie no farther apart than this share of its size …
REACH = 0.35
# … and have at least this share of the squared ink of its main part; specks have less.
LEAST_PART = 0.04


@dataclass(frozen=True)
class Digit:
    """What `find_digit` found: ink strength 0..255, zero outside the digit, and the digit's box."""

    ink: Pixels
    box: tuple[int, int, int, int]  # x, y, width, height


def find_digit(view: View) -> Digit:
    """Flatten the ground, and of the ink that remains keep the one digit.

    Raises NoDigit where there is no ink, only noise, shading, lines, frames or specks.
    """
    tone = view.tone
    if view.is_coarse:
        tone = cv2.GaussianBlur(tone, (3, 3), 0).astype(np.uint8)
    ink, mask, clarity = _masked(_ink_of_any_width(tone, view.is_tiny), view)
    even = clarity >= LEAST_CLARITY and is_sharp(ink, mask)
    tight = view.is_tiny or is_tight(mask, least_sides=4 if view.is_page_sized else 2)
    if not view.is_tiny and not (even and (tight or border_share(mask) < 0.02)):
        narrow = _masked(_ink_of_pens(tone), view)
        less = border_share(narrow[1]) < 0.8 * border_share(mask)
        if not even or thickness(mask) > 0.15 or less:
            ink, mask, clarity = narrow
            tight = False
    if clarity < LEAST_CLARITY:
        raise NoDigit("nothing in the image stands out from its ground: expected one digit")
    mask = _without_lines(mask)
    part = _digit_of(ink, mask, tight)
    digit = cv2.bitwise_and(mask, part).astype(np.uint8)
    if view.is_coarse and not is_sharp(ink, digit):
        raise NoDigit("only shading stands out in the image: expected one digit")
    (ground,) = _quantiles(ink, (0.5,), cv2.bitwise_not(mask).astype(np.uint8))
    # Full strength is that of the darker half of the strokes; grain stays below a sixth of it.
    (strong,) = _quantiles(ink, (0.6,), digit)
    high = ground + 0.9 * (strong - ground)
    low = ground + 0.15 * (high - ground)
    levels = np.clip((np.arange(256) - low) * (255 / max(high - low, 1)), 0, 255).astype(np.uint8)
    soft = cv2.bitwise_and(cv2.LUT(ink, levels), part).astype(np.uint8)
    x, y, w, h = cv2.boundingRect((soft > 64).astype(np.uint8))
    if max(w, h) < LEAST_SIDE * max(mask.shape):
        raise NoDigit("only specks stand out from the ground: expected one digit")
    return Digit(soft, (x, y, w, h))


def _ink_of_any_width(tone: Pixels, tiny: bool) -> Pixels:
    """Right where the light is even: the ground is the lightest there is within half a picture."""
    half = cv2.resize(tone, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    k = odd(max(half.shape) * (1 if tiny else 0.5))
    ground = cv2.morphologyEx(half, cv2.MORPH_CLOSE, square(k))
    size = (tone.shape[1], tone.shape[0])
    return _against(tone, cv2.resize(ground, size, interpolation=cv2.INTER_LINEAR).astype(np.uint8))


def _ink_of_pens(tone: Pixels) -> Pixels:
    """Right also where it is not: only what is narrower than light and shadow is ink."""
    k = odd(WIDEST_STROKE * max(tone.shape))
    ground = cv2.morphologyEx(continued(tone, k), cv2.MORPH_CLOSE, square(k))
    return _against(tone, np.ascontiguousarray(ground[k:-k, k:-k]).astype(np.uint8))


def _against(tone: Pixels, ground: Pixels) -> Pixels:
    """How much darker each pixel is than its ground, 0..255: light and shadow divided out."""
    ink = cv2.divide(cv2.subtract(ground, tone), np.maximum(ground, DARKEST_GROUND), scale=255)
    return ink.astype(np.uint8)


def _masked(ink: Pixels, view: View) -> tuple[Pixels, Pixels, float]:
    """The ink with its mask (0 or 255), and how clearly it stands out from the ground."""
    # What stands at the very edge (a table) must not hide what is fainter.
    d = max(ink.shape) // 25
    inner = np.ascontiguousarray(ink[d:-d, d:-d]) if min(ink.shape) > 4 * d else ink
    # In a whole page the digit may be a thousandth of it, closer up it is more.
    ground, peak = _quantiles(inner, (0.3, 0.995 if view.is_closer else 0.999))
    contrast = peak - ground
    if peak < LEAST_CONTRAST:
        return ink, np.zeros_like(ink), 0.0
    otsu, _ = cv2.threshold(ink, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    mask, clarity = ink, 0.0
    for level in (
        float(np.clip(otsu, ground + 0.3 * contrast, ground + 0.6 * contrast)),
        ground + 0.6 * contrast,
    ):
        mask = cv2.threshold(ink, level, 255, cv2.THRESH_BINARY)[1].astype(np.uint8)
        mean, spread = cv2.meanStdDev(ink, mask=cv2.bitwise_not(mask))
        clarity = (cv2.mean(ink, mask)[0] - float(mean[0, 0])) / (float(spread[0, 0]) + 1)
        if clarity >= LEAST_CLARITY:
            break
    return ink, mask, clarity


def _quantiles(ink: Pixels, shares: tuple[float, ...], mask: Pixels | None = None) -> list[float]:
    counts = np.cumsum(cv2.calcHist([ink], [0], mask, [256], [0, 256]))
    return [float(np.searchsorted(counts, share * counts[-1])) for share in shares]


def _without_lines(mask: Pixels) -> Pixels:
    """Without what runs from side to side and is thin: ruled lines, squared paper, folds."""
    for turned in (False, True):
        part = np.ascontiguousarray(mask.T) if turned else mask
        height, width = part.shape
        if not (part[:, : width // 25].any() and part[:, -(width // 25) :].any()):
            continue
        runs = cv2.morphologyEx(part, cv2.MORPH_OPEN, np.ones((1, max(9, width // 8)), np.uint8))
        joined = cv2.dilate(runs, np.ones((3, 5), np.uint8))
        _, labels, stats, _ = cv2.connectedComponentsWithStats(joined)
        # Dilating has brought a line that ends at the border to the border.
        lines = (stats[:, cv2.CC_STAT_WIDTH] == width) & (
            stats[:, cv2.CC_STAT_AREA] < 0.06 * height * width
        )
        lines[0] = False
        if lines.any():
            on_line = lines[labels]
            rest = np.where(on_line, 0, part).astype(np.uint8)
            # Where a stroke crosses a line it stands on both sides of it.
            bridged = cv2.morphologyEx(rest, cv2.MORPH_CLOSE, np.ones((9, 1), np.uint8))
            part = np.where(on_line, np.minimum(bridged, part), rest).astype(np.uint8)
            mask = np.ascontiguousarray(part.T) if turned else part
    return mask


def _digit_of(ink: Pixels, mask: Pixels, tight: bool) -> Pixels:
    """255 where the digit's own ink may be, with a pixel around it; else 0.

    The digit is the component with the most ink that does not come in from outside, with the
    parts near it. In a tight crop the digit itself meets the border.
    """
    height, width = mask.shape
    longest = max(mask.shape)
    r = 1 + longest // 240
    grown = cv2.dilate(mask, square(2 * r + 1)).astype(np.uint8)
    # Grana's algorithm: the default takes three times as long.
    count, labels, stats, _ = cv2.connectedComponentsWithStatsWithAlgorithm(
        grown, 8, cv2.CV_32S, cv2.CCL_GRANA
    )
    if count < 2:
        raise NoDigit("nothing but lines stands out in the image: expected one digit")
    x, y, w, h, _ = stats.T
    at = np.flatnonzero(mask)
    strength = ink.ravel()[at].astype(np.float64) ** 2
    mass = np.bincount(labels.ravel()[at], strength, minlength=count)
    mass[0] = 0
    m = max(r, longest // 40)
    outside = (x <= m) | (y <= m) | (x + w >= width - m) | (y + h >= height - m)
    outside &= not tight
    for i in np.flatnonzero((w > 0.5 * width) & (h > 0.5 * height)).tolist():
        if i and _is_frame(labels[y[i] : y[i] + h[i], x[i] : x[i] + w[i]] == i):
            mass[i] = 0
    if not mass.any():
        raise NoDigit("there is a frame in the image, but no digit in it")
    inside = np.where(outside, 0, mass)
    main = int(inside.argmax())
    if inside[main] == 0 or max(w[main], h[main]) < 0.1 * longest:
        main = int(mass.argmax())
    reach = REACH * max(w[main], h[main])
    keep = (
        (mass >= LEAST_PART * mass[main])
        & (~outside | outside[main])
        & (x < x[main] + w[main] + reach)
        & (x + w > x[main] - reach)
        & (y < y[main] + h[main] + reach)
        & (y + h > y[main] - reach)
    )
    if keep[1:].all():
        return grown
    keep[0] = False
    part: Pixels = np.where(keep, 255, 0).astype(np.uint8)[labels]
    return part


def _is_frame(part: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> bool:
    """Whether a component lies along the four sides of its box, corners included."""
    h, w = part.shape
    by, bx = max(2, h // 8), max(2, w // 8)
    corners = (part[:by, :bx], part[:by, -bx:], part[-by:, :bx], part[-by:, -bx:])
    return bool(part[by:-by, bx:-bx].mean() < 0.02 and all(c.any() for c in corners))
