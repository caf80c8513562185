"""Rule 2 of preprocessing: any picture of a digit into the form that MNIST was made in.

MNIST's makers (LeCun, Cortes, Burges, http://yann.lecun.com/exdb/mnist) scaled each scanned
digit to fit 20×20 pixels, anti-aliased and with its aspect kept, and placed it so that its
centre of mass lies at the centre of 28×28. Before that can be done, the ink has to be found:

- `_tone`: colours to one channel in which ink and ground differ most, the ground light;
- `_look`: the ground flattened, so that only ink remains, and of that only the digit;
- `_look` again, closer, where the digit is small in its picture;
- `_fit` and `_place`: MNIST's box, stroke and centre.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from handler.decoding import Pixels
from handler.errors import NoDigit

SIDE = 28
BOX = 20
# Sub-pixels per pixel of the result: a quarter of a pixel is as fine as a stroke needs.
FINE = 4
# Longest side at which ink is looked for: a digit of 1/10 of a page is still 24 pixels high.
VIEW_SIDE = 240
# A tiny image is enlarged to this first, so that strokes are several pixels wide.
TINY_SIDE = 96
# Nothing narrower than this share of the picture is ground: strokes are, shadows, table edges
# and the falling-off of light are not. The wide one is for bold digits that fill the picture.
NARROW, WIDE = 1 / 6, 1 / 2
# Least contrast of ink, of 255: what a hard pencil leaves on grey paper.
LEAST_CONTRAST = 10
# Ink must exceed the ground's own unevenness so many times; noise alone reaches about 3.
LEAST_CLARITY = 4.5
# Ink reaches this share of its contrast within 5 pixels of a view; shadows take far longer.
SHARP = 0.3
# Stroke width in pixels of the result that the strokes of MNIST itself lie between.
THINNEST, WIDEST = 1.8, 4.6


@dataclass(frozen=True)
class Digit:
    """What `_look` found: ink strength 0..255, zero outside the digit, and the digit's box."""

    ink: Pixels
    box: tuple[int, int, int, int]  # x, y, width, height


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
        for candidate in (plain, 255 - plain):
            if has_strict_form(candidate):
                return candidate.astype(np.uint8)
    view, scale = _resized(pixels, VIEW_SIDE)
    view, left0, top0 = _without_frame(view)
    tone, axis = _tone(view, max(pixels.shape[:2]) >= 64)
    digit = _look(tone, closer=False, tiny=max(pixels.shape[:2]) < 24, grainy=scale < 0.5)
    x, y, w, h = digit.box
    x, y = x + left0, y + top0
    margin = 0.4 * max(w, h)
    height, width = tone.shape
    if max(w, h) + 2 * margin < 0.8 * max(height, width):
        left, top = max(0, round((x - margin) / scale)), max(0, round((y - margin) / scale))
        right, bottom = round((x + w + margin) / scale), round((y + h + margin) / scale)
        near, _ = _resized(pixels[top:bottom, left:right], VIEW_SIDE // 2)
        digit = _look(axis.apply(near), closer=True)
    return _place(_fit(digit))


def _resized(pixels: Pixels, side: int) -> tuple[Pixels, float]:
    """Brought to at most `side` and at least TINY_SIDE pixels; and the factor."""
    longest = max(pixels.shape[:2])
    if longest > side:
        scale = side / longest
        how = cv2.INTER_AREA
    elif longest < TINY_SIDE:
        scale = float(-(-TINY_SIDE // longest))
        how = cv2.INTER_CUBIC
    else:
        return pixels, 1.0
    h, w = pixels.shape[:2]
    size = (max(1, round(w * scale)), max(1, round(h * scale)))
    return cv2.resize(pixels, size, interpolation=how).astype(np.uint8), scale


def _without_frame(view: Pixels) -> tuple[Pixels, int, int]:
    """Cut off what surrounds the page on all sides: a table, a scan's black border, a frame.

    It is the border, yet the smaller part of the picture, and inside it there is a ring without
    it (no digit fills a ring). Returns the page and its left and top in `view`.
    """
    height, width = view.shape[:2]
    small = cv2.resize(view, (64, 64), interpolation=cv2.INTER_AREA)
    grey = small if small.ndim == 2 else cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    _, light = cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    outer = _ring_share(light, 0)
    if not (outer < 0.1 and light.mean() > 0.5) and not (outer > 0.9 and light.mean() < 0.5):
        return view, 0, 0
    for depth in range(1, 20):
        if abs(_ring_share(light, depth) - outer) > 0.9:
            x, y = -(-(depth + 1) * width // 64), -(-(depth + 1) * height // 64)
            return np.ascontiguousarray(view[y : height - y, x : width - x]), x, y
    return view, 0, 0


def _ring_share(mask: Pixels, depth: int) -> float:
    part = mask[depth : len(mask) - depth, depth : len(mask) - depth]
    return float(np.concatenate((part[0], part[-1], part[:, 0], part[:, -1])).mean())


@dataclass(frozen=True)
class Axis:
    """The direction in colour along which ink and ground differ, pointing towards the ground."""

    weights: tuple[float, ...]
    offset: float

    def apply(self, pixels: Pixels) -> Pixels:
        """uint8 [H, W], the ground light."""
        if pixels.ndim == 2:
            return pixels if self.weights[0] > 0 else cv2.bitwise_not(pixels).astype(np.uint8)
        matrix = np.array([[*self.weights, self.offset]], np.float32)
        return cv2.transform(pixels, matrix).astype(np.uint8)


def _tone(view: Pixels, photographed: bool = True) -> tuple[Pixels, Axis]:
    """One channel in which ink and ground differ most, the ground light.

    Of colours, the axis along which neighbouring pixels differ most (the first principal
    component of the picture less its blur): blue ink on white lies on one, and so do red on
    green of the same brightness. Slow changes of light and colour have no part in it.
    """
    if view.ndim == 2:
        axis = Axis((1.0,), 0.0)
    else:
        small = cv2.resize(view, (64, 64), interpolation=cv2.INTER_AREA).astype(np.float32)
        detail = (small - cv2.blur(small, (15, 15))).reshape(-1, 3)
        _, vectors = np.linalg.eigh(detail.T @ detail)
        main = vectors[:, 2] * (1 if vectors[:, 2].sum() >= 0 else -1)
        low, high = np.minimum(main, 0).sum(), np.maximum(main, 0).sum()
        main = main / (high - low)
        axis = Axis(tuple(main.tolist()), -255 * float(np.minimum(main, 0).sum()))
    tone = axis.apply(view)
    if not _ground_is_dark(tone, photographed):
        return tone, axis
    axis = Axis(tuple(-w for w in axis.weights), 255 - axis.offset)
    return axis.apply(view), axis


def _ground_is_dark(tone: Pixels, photographed: bool) -> bool:
    """Polarity, told by the ground and not by the ink.

    In an even light two tones meet in sharp edges, and the ground is the one at the border, or
    the broad one (strokes are narrow), or the one with more of both. In uneven light whatever
    is narrow, dark or light, is set aside and the ground continued beneath it from around; ink
    is what differs from that, as the inside of a 0 does not.
    """
    small, _ = _resized(tone, TINY_SIDE)
    if int(small.max()) - int(small.min()) < LEAST_CONTRAST:
        raise NoDigit("the image is blank: expected one digit in it")
    _, light = cv2.threshold(small, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    light = light.astype(np.uint8)
    if _is_sharp(small, light):
        ring = _border_share(light)
        if not 0.05 < ring < 0.95:
            return ring < 0.5
        dark, bright = (_thickness(part) for part in (cv2.bitwise_not(light), light))
        if min(dark, bright) < 0.1 and max(dark, bright) > 2 * min(dark, bright):
            return dark > bright
        if max(dark, bright) < 0.25 and not photographed:
            return ring + float(light.mean()) / 255 < 1
    return _ground_is_dark_in_uneven_light(tone)


def _ground_is_dark_in_uneven_light(tone: Pixels) -> bool:
    """Strokes are narrower than what they enclose: the narrowest structure that is strong is ink.

    A black hat of size k holds what is darker than around and narrower than k, a top hat what is
    lighter; the edges of shadows are in neither.
    """
    tone = cv2.GaussianBlur(tone, (3, 3), 0).astype(np.uint8)
    longest = max(tone.shape)
    widest = _odd(NARROW * longest)
    wider = _continued(tone, widest)
    cut = widest + longest // 20  # what stands at the very edge may be the end of a shadow
    hats = []
    for k in (longest // 48, longest // 24, longest // 12, widest):
        kernel = np.ones((_odd(k), _odd(k)), np.uint8)
        pair = [
            cv2.morphologyEx(wider, hat, kernel)[cut:-cut, cut:-cut].astype(np.float32)
            for hat in (cv2.MORPH_BLACKHAT, cv2.MORPH_TOPHAT)
        ]
        if not pair[0].size:
            return False
        hats.append(pair)
    strong = 0.5 * max(float(hat.max()) for hat in hats[-1])
    for dark, light in hats[:2]:
        if max(dark.max(), light.max()) >= strong:
            more_light = float((light[light >= strong] ** 2).sum())
            more_dark = float((dark[dark >= strong] ** 2).sum())
            if max(more_light, more_dark) > 2 * min(more_light, more_dark):
                return more_light > more_dark
    _, light = cv2.threshold(tone, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return 255 * _border_share(light) + float(light.mean()) < 1


def _odd(size: float) -> int:
    return max(3, int(size) | 1)


def _look(tone: Pixels, *, closer: bool, tiny: bool = False, grainy: bool = False) -> Digit:
    """Find the digit in a picture of dark ink on light ground."""
    if grainy:
        tone = cv2.GaussianBlur(tone, (3, 3), 0).astype(np.uint8)
    ink, mask, clarity = _masked(_ink_wide(tone, tiny), closer)
    tight = tiny or _is_tight(mask)
    even = clarity >= LEAST_CLARITY and _is_sharp(ink, mask)
    if not tiny and not (even and (tight or _border_share(mask) < 0.02)):
        narrow = _masked(_ink_narrow(tone), closer)
        if not even or _thickness(mask) > 0.15 or _border_share(narrow[1]) < 0.5 * _border_share(mask):
            ink, mask, clarity = narrow
            tight = False
    mask = _without_lines(mask)
    if clarity < LEAST_CLARITY:
        raise NoDigit("nothing in the image stands out from its ground: expected one digit")
    return _digit(ink, mask, tight)


def _is_tight(mask: Pixels) -> bool:
    """Whether the ink reaches the sides and fills none, as where a digit's box was cut out."""
    if max(mask.shape) > 2 * min(mask.shape):
        return True
    d = max(2, max(mask.shape) // 25)
    bands = (mask[:d], mask[-d:], mask[:, :d].T, mask[:, -d:].T)
    shares = sorted(float(band.max(axis=0).mean()) / 255 for band in bands)
    return shares[0] > 0 and shares[3] < 0.9


def _is_sharp(ink: Pixels, mask: Pixels) -> bool:
    """Ink has edges; shadow, vignette and the falling-off of light fade."""
    edge = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    step = cv2.morphologyEx(ink, cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8))
    contrast = cv2.mean(ink, mask)[0] - cv2.mean(ink, cv2.bitwise_not(mask))[0]
    return bool(cv2.mean(step, edge)[0] - cv2.mean(step)[0] > SHARP * contrast)


def _thickness(mask: Pixels) -> float:
    """Half the width of what is widest in the mask, as a share of the picture's longest side."""
    edged = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    return float(cv2.distanceTransform(edged, cv2.DIST_L2, 3).max()) / max(mask.shape)


def _without_lines(mask: Pixels) -> Pixels:
    """Without what runs from side to side and is thin: ruled lines, squared paper, folds."""
    for turned in (False, True):
        part = np.ascontiguousarray(mask.T) if turned else mask
        height, width = part.shape
        runs = cv2.morphologyEx(part, cv2.MORPH_OPEN, np.ones((1, max(9, width // 8)), np.uint8))
        if not runs.any():
            continue
        joined = cv2.dilate(runs, np.ones((3, 5), np.uint8))
        count, labels, stats, _ = cv2.connectedComponentsWithStats(joined)
        long = (stats[:, cv2.CC_STAT_WIDTH] > 0.97 * width) & (
            stats[:, cv2.CC_STAT_AREA] < 0.06 * height * stats[:, cv2.CC_STAT_WIDTH]
        )
        long[0] = False
        if long.any():
            lines = long[labels]
            rest = np.where(lines, 0, part).astype(np.uint8)
            bridge = cv2.morphologyEx(rest, cv2.MORPH_CLOSE, np.ones((9, 1), np.uint8))
            part = np.where(lines, bridge & part, rest)
            mask = np.ascontiguousarray(part.T) if turned else part
    return mask


def _border_share(mask: Pixels) -> float:
    edges = (mask[0], mask[-1], mask[:, 0], mask[:, -1])
    return float(np.concatenate(edges).mean()) / 255


def _ink_wide(tone: Pixels, tiny: bool = False) -> Pixels:
    """Ink of any width; right where the light is even."""
    k = _odd((1 if tiny else WIDE) * max(tone.shape))
    return _against(tone, cv2.morphologyEx(tone, cv2.MORPH_CLOSE, np.ones((k, k), np.uint8)))


def _ink_narrow(tone: Pixels) -> Pixels:
    """Ink narrower than light and shadow; the picture goes on beyond its edges as it ends there."""
    k = _odd(NARROW * max(tone.shape))
    wider = _continued(tone, k)
    ground = cv2.morphologyEx(wider, cv2.MORPH_CLOSE, np.ones((k, k), np.uint8))
    return _against(tone, ground[k:-k, k:-k])


def _continued(tone: Pixels, k: int) -> Pixels:
    """With k more pixels on each side, in which shading goes on as it was (odd reflection)."""
    ends = cv2.copyMakeBorder(cv2.blur(tone, (5, 5)), k, k, k, k, cv2.BORDER_REPLICATE)
    mirrored = cv2.copyMakeBorder(tone, k, k, k, k, cv2.BORDER_REFLECT)
    wider = cv2.addWeighted(ends, 2, mirrored, -1, 0).astype(np.uint8)
    wider[k:-k, k:-k] = tone
    return wider


def _against(tone: Pixels, ground: Pixels) -> Pixels:
    """How much darker each pixel is than its ground, 0..255: light and shadow divided out."""
    ground = cv2.max(ground, 1)
    return cv2.subtract(255, cv2.divide(tone, ground, scale=255)).astype(np.uint8)


def _masked(ink: Pixels, closer: bool) -> tuple[Pixels, Pixels, float]:
    """The ink with its mask (0 or 255), and how many times it exceeds the ground's unevenness."""
    inset = max(ink.shape) // 25  # what stands at the very edge must not hide what is fainter
    base, peak = np.percentile(
        ink[inset:-inset, inset:-inset] if min(ink.shape) > 4 * inset else ink,
        (30, 99.5 if closer else 99.9),
    )
    if peak < LEAST_CONTRAST:
        return ink, np.zeros_like(ink), 0.0
    otsu, _ = cv2.threshold(ink, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    for share in (min(max((otsu - base) / (peak - base), 0.3), 0.6), 0.6):
        _, mask = cv2.threshold(ink, base + share * (peak - base), 255, cv2.THRESH_BINARY)
        ground, uneven = cv2.meanStdDev(ink, mask=cv2.bitwise_not(mask))
        clarity = (cv2.mean(ink, mask)[0] - float(ground[0, 0])) / (float(uneven[0, 0]) + 1)
        if clarity >= LEAST_CLARITY:
            break
    return ink, mask.astype(np.uint8), clarity


def _digit(ink: Pixels, mask: Pixels, tight: bool) -> Digit:
    height, width = mask.shape
    r = max(1, max(mask.shape) // 120)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * r + 1, 2 * r + 1))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(cv2.dilate(mask, kernel))
    if count < 2:
        raise NoDigit("nothing in the image stands out from its ground: expected one digit")
    x, y, w, h, area = stats.T
    touches = (x <= r) | (y <= r) | (x + w >= width - r) | (y + h >= height - r)
    touches &= not tight
    long = np.maximum(w, h) / max(width, height)
    strength = cv2.multiply(ink, cv2.min(mask, 1)).astype(np.float64) ** 2
    mass = np.bincount(labels.ravel(), strength.ravel(), minlength=count)
    mass[0] = 0
    frame = (w > 0.5 * width) & (h > 0.5 * height) & ~touches
    for i in np.flatnonzero(frame):
        if i and _is_frame(labels[y[i] : y[i] + h[i], x[i] : x[i] + w[i]] == i):
            mass[i] = 0
    if mass.max() == 0:
        raise NoDigit("there is a frame in the image, but no digit in it")
    inside = np.where(touches, 0, mass)
    main = int(mass.argmax())
    if inside.max() > 0 and long[inside.argmax()] > 0.1:
        main = int(inside.argmax())
    reach = 0.35 * max(w[main], h[main])
    near = (
        (x < x[main] + w[main] + reach) & (x + w > x[main] - reach)
        & (y < y[main] + h[main] + reach) & (y + h > y[main] - reach)
    )
    keep = (mass > 0.04 * mass[main]) & near & (~touches | touches[main])
    keep[main] = True
    if max(w[main], h[main]) - 2 * r < 0.04 * max(width, height):
        raise NoDigit("only specks stand out from the ground: expected one digit")
    strong = ink[(mask > 0) & keep[labels]]
    base = float(np.median(ink[mask == 0])) if (mask == 0).any() else 0.0
    high = float(np.percentile(strong, 60))
    low = base + 0.15 * (high - base)
    soft = cv2.LUT(ink, _levels(low, high - 0.12 * (high - base)))
    soft = np.where(keep[labels], soft, 0).astype(np.uint8)
    return Digit(soft, tuple(cv2.boundingRect((soft > 64).astype(np.uint8))))


def _is_frame(part: NDArray[np.bool_]) -> bool:
    """Whether a component lies along the four sides of its box, corners included."""
    h, w = part.shape
    by, bx = max(2, h // 8), max(2, w // 8)
    core = part[by:-by, bx:-bx]
    corners = (part[:by, :bx], part[:by, -bx:], part[-by:, :bx], part[-by:, -bx:])
    return bool(core.mean() < 0.02 and all(corner.any() for corner in corners))


def _levels(low: float, high: float) -> Pixels:
    return np.clip((np.arange(256) - low) * (255 / max(high - low, 1)), 0, 255).astype(np.uint8)


def _fit(digit: Digit) -> Pixels:
    """The digit's box at FINE sub-pixels, its stroke brought near MNIST's width."""
    x, y, w, h = digit.box
    crop = digit.ink[y : y + h, x : x + w]
    fine = _scaled(crop, BOX * FINE)
    stroke = _stroke_width(fine)
    change = round(float(np.clip(stroke, THINNEST * FINE, WIDEST * FINE)) - stroke)
    if change == 0:
        return fine
    fine = _scaled(crop, BOX * FINE - change)
    n = abs(change)
    pen = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (n + 1, n + 1))
    if change > 0:
        return cv2.dilate(cv2.copyMakeBorder(fine, n, n, n, n, cv2.BORDER_CONSTANT), pen)[
            n // 2 : -(n // 2) or None, n // 2 : -(n // 2) or None
        ].astype(np.uint8)
    return cv2.erode(fine, pen, borderValue=0).astype(np.uint8)


def _scaled(crop: Pixels, side: int) -> Pixels:
    h, w = crop.shape
    k = side / max(h, w)
    size = (max(1, round(w * k)), max(1, round(h * k)))
    how = cv2.INTER_AREA if k < 1 else cv2.INTER_LINEAR
    return cv2.resize(crop, size, interpolation=how).astype(np.uint8)


def _stroke_width(fine: Pixels) -> float:
    """Mean width of the strokes, in pixels: four times a stroke's mean distance to its edge."""
    mask = cv2.copyMakeBorder((fine > 127).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    distance = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
    area = cv2.countNonZero(mask)
    return 4 * float(distance.sum()) / max(area, 1) - 1


def _place(fine: Pixels) -> Pixels:
    """Anti-aliased to pixels, at full contrast, the centre of mass at the centre."""
    ys, xs = np.flatnonzero(fine.max(1) > 64), np.flatnonzero(fine.max(0) > 64)
    if not len(ys):
        raise NoDigit("nothing in the image stands out from its ground: expected one digit")
    fine = fine[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
    fine = _scaled(fine, BOX * FINE)
    h, w = fine.shape
    rows, columns = -(-h // FINE), -(-w // FINE)
    top, left = (rows * FINE - h) // 2, (columns * FINE - w) // 2
    fine = cv2.copyMakeBorder(
        fine, top, rows * FINE - h - top, left, columns * FINE - w - left, cv2.BORDER_CONSTANT
    ).astype(np.uint8)
    box = cv2.resize(fine, (columns, rows), interpolation=cv2.INTER_AREA).astype(np.float32)
    box = np.minimum(box * (255 / box.max()), 255)
    m = cv2.moments(box)
    x = int(np.clip(round(SIDE / 2 - m["m10"] / m["m00"]), 0, SIDE - columns))
    y = int(np.clip(round(SIDE / 2 - m["m01"] / m["m00"]), 0, SIDE - rows))
    image = np.zeros((SIDE, SIDE), np.uint8)
    image[y : y + rows, x : x + columns] = np.rint(box)
    return image
