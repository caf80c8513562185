"""What an answer calls class 0, 1, …: to serve another model, put its class names here."""

from __future__ import annotations

LABELS: tuple[int | str, ...] = tuple(range(10))
