"""Faults are made for real: file systems, processes and sockets of the tests' own."""

from __future__ import annotations

import subprocess

import pytest


@pytest.fixture(scope="session")
def mounting() -> None:
    """Skip where this user may not mount a file system in a namespace of its own."""
    command = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("no file system can be mounted here")
