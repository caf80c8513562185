"""How long the images of one batch may take together, while everybody else's wait for them.

Two kilobytes of WebP can unfold to 64 megapixels, and 50 of deflate to 10,000 images that must be
brought into MNIST's form: seconds of work each, and a batch may hold dozens. After the first of the
times below, large images are refused; after the second, all but the plainest requests. With what
else a batch may take, `service.MOST_IMAGES` and `service.EXPLAIN_SECONDS`, the worker so answers
before TorchServe would replace it (`responseTimeout`), even where two batches wait for it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from handler.errors import Busy

LARGE_SECONDS, ALL_SECONDS = 4.0, 10.0

_started: ContextVar[float] = ContextVar("_started", default=math.inf)


@contextmanager
def shared_time() -> Iterator[None]:
    """Let what is decoded in this block share the times above; outside of it none is limited."""
    token = _started.set(time.monotonic())
    try:
        yield
    finally:
        _started.reset(token)


def check_time(large: bool = False) -> None:
    """Ask, before any work that may take long, whether there is time for it.

    Raises:
        Busy: what came before in the batch has used it up.
    """
    if time.monotonic() - _started.get() > (LARGE_SECONDS if large else ALL_SECONDS):
        raise Busy("more was sent at once than there is time for; send less, or ask again")
