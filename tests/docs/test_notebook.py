"""The notebook, executed from top to bottom against a real server.

NOTEBOOK_OUTPUT=notebooks/served-digits.ipynb keeps what it printed and drew.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat

from client.server import REPOSITORY, Server
from tests.docs.conftest import output_of

NOTEBOOK = REPOSITORY / "notebooks" / "served-digits.ipynb"


def results(path: Path) -> list[str]:
    """The text of each cell's last value, in order."""
    return [
        output["data"]["text/plain"]
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "execute_result"
    ]


def test_it_runs_from_top_to_bottom(server: Server, tmp_path: Path) -> None:
    output = Path(os.environ.get("NOTEBOOK_OUTPUT") or tmp_path / "executed.ipynb").absolute()
    # In a process of its own: Jupyter's event loops and warnings are not this project's.
    command = [sys.executable, "-m", "jupyter", "execute", str(NOTEBOOK), f"--output={output}"]
    variables = {
        "MNIST_URL": server.url,
        "MNIST_KEY": server.key,
        "PYTHONPATH": str(REPOSITORY),
        "IPYTHONDIR": str(tmp_path),
        "JUPYTER_PLATFORM_DIRS": "1",
    }
    output_of(command, REPOSITORY, variables)
    values = results(output)
    assert values[0] == "((10000, 28, 28), dtype('uint8'), [7, 2, 1, 0, 4, 1, 4, 9])"
    assert values[1] == "7"
    assert int(values[3]) > 9_700  # the tests' own model is trained for seconds
    assert values[4] == "5"
    assert values[5] == "'the image is blank: expected one digit in it'"


def test_its_outputs_are_committed() -> None:
    cells = [
        cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"
    ]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    drawn = [o for cell in cells for o in cell.outputs if "image/png" in o.get("data", {})]
    assert len(drawn) == 5
    assert results(NOTEBOOK)[1] == "7"
