"""What the long tests of `deploy/` need to be asked for."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Known where this folder is named: `pytest tests/deploy --clean-root FOLDER`."""
    parser.addoption(
        "--clean-root",
        type=Path,
        metavar="FOLDER",
        help="build and run the Containerfile's image in FOLDER (as make container does)",
    )
