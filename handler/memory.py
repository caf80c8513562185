"""Memory of the process: what it keeps for the next batch, and what it gives back."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_MADV_DONTNEED = 4  # of madvise(2)
_SMAPS = Path("/proc/self/smaps")
# A read-only, private mapping of a file of which the process holds no changed page, in memory or
# swapped out: what the file says is all there is to it.
_UNCHANGED_FILE = re.compile(
    r"^([0-9a-f]+)-([0-9a-f]+) r-.p .* /.*\n"
    r"(?:[A-Z].*\n)*?Anonymous: +0 kB\n(?:[A-Z].*\n)*?Swap: +0 kB\n",
    re.MULTILINE,
)


def keep_freed_memory(most: int) -> None:
    """Let glibc keep what one batch frees for the next, instead of returning it to the system.

    By default it returns every block of some size, and each batch pays for fresh pages again:
    up to a third of the network's time. Does nothing where there is no glibc.

    Args:
        most: bytes that may be kept.
    """
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt, libc.malloc_trim  # noqa: B018 - AttributeError elsewhere than on glibc
    except (AttributeError, OSError, TypeError):
        return
    libc.malloc_trim(0)
    libc.mallopt(_M_MMAP_THRESHOLD, most)
    libc.mallopt(_M_TRIM_THRESHOLD, most)


def release_library_pages() -> None:
    """Give back the pages of shared libraries; the system reads those still needed again.

    Loading torch touches some 200 MB of libraries that nothing will look at again, most of all
    tables of a CUDA build on a machine without a GPU. A page that is needed comes back from the
    file cache within a microsecond. Does nothing where there is no Linux.
    """
    try:
        mappings = _UNCHANGED_FILE.findall(_SMAPS.read_text())
        madvise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError, TypeError):
        return
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for start, end in mappings:
        madvise(int(start, 16), int(end, 16) - int(start, 16), _MADV_DONTNEED)
