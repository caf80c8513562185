"""What a process that has imported torch gives back, and that it still works afterwards."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import re
import torch
from handler import memory
def resident():  # kB
    with open("/proc/self/status") as status:
        return int(re.search(r"VmRSS:\\s+(\\d+) kB", status.read())[1])
images = torch.rand(64, 1, 28, 28, generator=torch.Generator().manual_seed(0))
network = torch.nn.Conv2d(1, 8, 3)
with torch.inference_mode():
    before, expected = resident(), network(images)
    memory.release_library_pages()
    after = resident()
    assert torch.equal(network(images), expected)
print(before, after)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mappings are Linux's")
def test_library_pages_are_given_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=True
    )
    before, after = map(int, done.stdout.split())
    # The smallest build of torch touches well over 50 MB of its libraries while it loads.
    assert before - after > 30_000
