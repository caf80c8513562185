"""The picture of misses, explained, asked of a real server by the command that users run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from client.__main__ import main
from client.server import Server
from handler.model import DigitModel


def test_misses_are_found_and_explained(
    server: Server,
    model: DigitModel,
    mnist_test: tuple[NDArray[np.uint8], NDArray[np.int64]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    images, labels = mnist_test
    missed = int((model.predict(images)[0] != labels).sum())
    assert missed >= 4
    output = tmp_path / "misses.png"
    arguments = ["plot", "--only-misses", "--explain", "--grid", "2x2", "--seed", "3", "--json"]
    where = ["--url", server.url, "--key", server.key, "--output", str(output)]
    assert main([*arguments, *where]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record == {"output": str(output), "right": 0, "images": 4, "seed": 3}
    # A grey digit has no colour; the frames of four misses and their attributions have.
    rgb = np.asarray(Image.open(output).convert("RGB")).astype(int)
    blue = (rgb[..., 2] - rgb[..., 0] > 40).sum()
    assert blue > 100
