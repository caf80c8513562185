"""A digit's pixels as the strokes of a pen: thinned to one pixel, then followed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Point = tuple[int, int]


def trace(image: NDArray[np.uint8]) -> list[list[Point]]:
    """Return strokes, lists of (x, y) in 0..27, that cover the skeleton of `image` [28, 28]."""
    left = {(int(x), int(y)) for y, x in np.argwhere(thin(image > 100))}
    strokes = []
    while left:
        # Begin at an end where there is one, so that a line is not cut into two.
        start = min(left, key=lambda point: (len(_near(point, left)), point))
        stroke = [start]
        left.discard(start)
        while following := _near(stroke[-1], left):
            stroke.append(min(following, key=lambda point: _turn(stroke, point)))
            left.discard(stroke[-1])
        strokes.append(stroke)
    return [stroke for stroke in strokes if len(stroke) > 2] or strokes


def thin(ink: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Thin by Zhang and Suen's rules (CACM 1984), which keep lines whole."""
    mask = np.pad(ink, 1)
    changed = True
    while changed:
        changed = False
        for step in (0, 1):
            doomed = [
                (y, x) for y, x in np.argwhere(mask).tolist() if _may_go(_ring(mask, y, x), step)
            ]
            for y, x in doomed:
                mask[y, x] = False
            changed = changed or bool(doomed)
    return mask[1:-1, 1:-1]


def _ring(mask: NDArray[np.bool_], y: int, x: int) -> list[bool]:
    """The eight neighbours, clockwise from the one above."""
    around = [(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)]
    return [bool(mask[y + dy, x + dx]) for dy, dx in around]


def _may_go(p: list[bool], step: int) -> bool:
    crossings = sum(not a and b for a, b in zip(p, p[1:] + p[:1], strict=True))
    first, second = ((0, 2, 4), (2, 4, 6)) if step == 0 else ((0, 2, 6), (0, 4, 6))
    return (
        2 <= sum(p) <= 6
        and crossings == 1
        and not all(p[i] for i in first)
        and not all(p[i] for i in second)
    )


def _near(point: Point, points: set[Point]) -> list[Point]:
    x, y = point
    around = [(x + dx, y + dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1) if dx or dy]
    return [other for other in around if other in points]


def _turn(stroke: list[Point], point: Point) -> tuple[int, Point]:
    """How far from straight on: a pen goes straight over a crossing."""
    if len(stroke) < 2:
        return 0, point
    (x0, y0), (x1, y1) = stroke[max(0, len(stroke) - 4)], stroke[-1]
    ahead = (x1 - x0) * (point[0] - x1) + (y1 - y0) * (point[1] - y1)
    return -ahead, point
