"""The pinned files: whole, of one mind, and bound to no index."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from client.server import REPOSITORY

REQUIREMENTS = (REPOSITORY / "requirements.txt").read_text()
PIN = re.compile(
    r"^([\w.-]+)==(\S+)(.*)\n((?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE
)


def pinned() -> dict[str, str]:
    """The versions in requirements.txt that Linux and macOS install, by normalised name."""
    found = PIN.findall(REQUIREMENTS)
    return {canonicalize_name(n): v for n, v, marker, _ in found if "win32" not in marker}


def constraints() -> dict[str, str]:
    """The versions in constraints.txt by normalised name."""
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): pin for name, pin in pairs}


def test_every_requirement_has_a_hash_and_no_file_an_address() -> None:
    rest = PIN.sub("", REQUIREMENTS)
    assert [line for line in rest.splitlines() if line and not line.startswith("#")] == []
    for name in ("requirements.txt", "constraints.txt"):
        text = (REPOSITORY / name).read_text()
        assert "//" not in text
        assert "--index" not in text
        assert "--find-links" not in text


def test_both_files_pin_the_same() -> None:
    pins = pinned()
    assert len(pins) > 40
    assert pins.items() <= constraints().items()


def test_every_dependency_is_pinned_inside_its_range() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    for dependency in map(Requirement, project["dependencies"]):
        assert dependency.specifier.contains(pinned()[canonicalize_name(dependency.name)])


@pytest.mark.parametrize("name", ["torch", "numpy", "pillow", "opencv-python-headless"])
def test_they_are_what_is_tested(name: str) -> None:
    assert version(name).split("+")[0] == pinned()[name]
