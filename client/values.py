"""What the options of `digits` may be: each function turns an option's text into its value.

They raise `argparse.ArgumentTypeError`, which says what was expected and what came.
"""

from __future__ import annotations

import argparse

LARGEST_GRID = 20  # beyond it the titles cannot be read


def grid(text: str) -> tuple[int, int]:
    """`4x5`: rows and columns."""
    rows, _, columns = text.lower().partition("x")
    sides = [int(side) if side.isdecimal() else 0 for side in (rows, columns)]
    if not all(1 <= side <= LARGEST_GRID for side in sides):
        raise argparse.ArgumentTypeError(
            f"expected rows x columns, 1x1 to {LARGEST_GRID}x{LARGEST_GRID}, got {text!r}"
        )
    return sides[0], sides[1]


def whole_number(text: str) -> int:
    """0, 1, 2, …"""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}")
    return int(text)


def port(text: str) -> int:
    """0 to 65535; 0 stands for any that is free."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a port, 0 to 65535, got {text!r}")
    return int(text)


def seconds(text: str) -> float:
    """Above 0, and finite."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected seconds above 0, got {text!r}")
    return number
