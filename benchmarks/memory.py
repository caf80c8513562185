"""Memory of a server: the sum over all its processes.

Counted as PSS (proportional set size): a page that several processes share counts once, divided
among them. Where the system does not tell it (only Linux does), as USS, the unshared pages.
"""

from __future__ import annotations

import psutil


def kind() -> str:
    """Which of the two is counted here, "PSS" or "USS"."""
    return "PSS" if hasattr(psutil.Process().memory_full_info(), "pss") else "USS"


def megabytes(pid: int) -> float:
    """MB (10^6 bytes) of process `pid` and all processes that descend from it."""
    main = psutil.Process(pid)
    total = 0
    for process in [main, *main.children(recursive=True)]:
        try:
            info = process.memory_full_info()
        except psutil.NoSuchProcess:
            continue
        total += getattr(info, "pss", info.uss)
    return total / 1e6
