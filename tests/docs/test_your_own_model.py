"""The page on another model, done: its files written, its commands run, its answer read."""

from __future__ import annotations

import re
from pathlib import Path

from client.server import REPOSITORY
from tests.conftest import free_ports
from tests.docs.conftest import code, run

PAGE = (REPOSITORY / "docs" / "your-own-model.md").read_text()


def test_another_model_is_trained_archived_and_served(checkout: Path) -> None:
    training, preprocessing, labels = code(PAGE, "python")
    (checkout / "clothes.py").write_text(training)
    (checkout / "handler" / "preprocessing.py").write_text(preprocessing)
    module = checkout / "handler" / "labels.py"
    changed, count = re.subn(r"^LABELS: .*\n", labels, module.read_text(), flags=re.MULTILINE)
    assert count == 1
    module.write_text(changed)
    port = free_ports()
    (commands,) = code(PAGE, "bash")
    script = "set -eu\nexport PYTHONPATH=$PWD\n" + commands.replace(":8080", f":{port}")
    printed = run(checkout, ["bash", "-c", script], port)
    accuracy = re.search(r"^([\d.]+)% of 200 test images$", printed, re.MULTILINE)
    assert accuracy
    assert float(accuracy[1]) > 95
    # The answer itself, not the name of the file in a command.
    assert '"Sneaker"' in printed
    assert printed.rstrip().endswith("stopped")
