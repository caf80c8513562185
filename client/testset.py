"""MNIST's test set, which `plot` and `evaluate` show to the server.

This is the client's one import from `training`: reading MNIST has one definition.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.errors import UsageError
from training.data import DataError, read_mnist


def read_test_set(data_dir: Path | None = None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the images, uint8 [10000, 28, 28], and the digits they show, int64 [10000].

    Args:
        data_dir: a folder with MNIST's files. Default: the environment's MNIST_DIR, else data/.

    Raises:
        UsageError: a file is missing, truncated or altered.
    """
    try:
        return read_mnist("test", data_dir)
    except DataError as error:
        raise UsageError(str(error)) from error
