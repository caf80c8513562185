"""The README's commands run as they are printed, in a checkout of the test's own."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from client.server import REPOSITORY
from tests.conftest import free_ports
from tests.docs.conftest import code, run

README = (REPOSITORY / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The README's code blocks of one language, in order."""
    return code(README, language)


def test_the_commands_work_as_printed(checkout: Path) -> None:
    port = free_ports()
    script = "set -eu\n" + "\n".join(blocks("bash")).replace(":8080", f":{port}")
    script = script.replace("make stop\n", "")  # the block below needs the server as well
    printed = run(checkout, ["bash", "-c", script], port)
    assert "77" in printed  # curl prints no newline: seven, seven, and the photo's five
    assert "775" in printed
    assert '{"predictions":[7,{"error":{"code":"unreadable"' in printed
    assert '"outputs":[{"name":"digit","shape":[1],"datatype":"INT64","data":[7]}' in printed
    assert "docs/seven.png\t7" in printed
    assert "16 right" in printed or "of 16 right" in printed
    (python,) = blocks("python")
    assert run(checkout, [sys.executable, "-c", python], port).startswith("7 5 ")
    assert "stopped" in run(checkout, ["make", "stop"], port)


def test_every_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    commands = "\n".join(blocks("sh") + blocks("bash"))
    named = set(re.findall(r"\bmake (?:-s )?([a-z]+)\b", commands))
    assert named <= targets
    assert {"draw", "start", "stop", "key"} <= named


def test_every_folder_of_the_house_exists() -> None:
    house = re.search(r"## The house\n\n```\n(.*?)```", README, re.DOTALL)
    assert house
    for line in house[1].splitlines():
        assert (REPOSITORY / line.split()[0]).exists(), line
