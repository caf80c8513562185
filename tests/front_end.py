"""What TorchServe's front end writes to a worker."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import TypeAlias

Written: TypeAlias = tuple[str, Mapping[str, str], Mapping[str, tuple[str, bytes]]]
"""A request: its id, its headers, and its fields, each with its content type."""

END = struct.pack("!i", -1)


def packed(value: bytes | str) -> bytes:
    """A value behind its length."""
    value = value.encode() if isinstance(value, str) else value
    return struct.pack("!i", len(value)) + value


def message(requests: Sequence[Written]) -> bytes:
    """A batch of requests."""
    parts = [b"I"]
    for request_id, headers, fields in requests:
        parts.append(packed(request_id))
        parts += [packed(name) + packed(value) for name, value in headers.items()]
        parts.append(END)
        parts += [packed(n) + packed(kind) + packed(value) for n, (kind, value) in fields.items()]
        parts.append(END)
    return b"".join([*parts, END])
