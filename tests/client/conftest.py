"""A stub server for every test, and nothing of the surroundings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from client import DigitClient, keys, transport
from tests.client.stub import Stub

Connect = Callable[..., DigitClient]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings and no key file from outside; retries without their pauses."""
    for name in ("URL", "KEY", "KEY_FILE", "MANAGEMENT_URL", "DIR"):
        monkeypatch.delenv(f"MNIST_{name}", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(keys, "REPOSITORY", tmp_path)
    monkeypatch.setattr(transport, "FIRST_PAUSE", 0.0001)


@pytest.fixture
def stub() -> Iterator[Stub]:
    """A server that behaves until told otherwise."""
    server = Stub()
    yield server
    server.close()


@pytest.fixture
def connect(stub: Stub) -> Iterator[Connect]:
    """Clients of the stub, closed at the end."""
    clients = []

    def make(**settings: Any) -> DigitClient:
        clients.append(DigitClient(stub.url, **settings))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def pixels(count: int) -> NDArray[np.uint8]:
    """Images [count, 28, 28] that the stub reads as 0, 1, …, 9, 0, 1, …"""
    images = np.zeros((count, 28, 28), np.uint8)
    images[:, 0, 0] = np.arange(count) % 10
    return images
