"""The pages of docs/: their commands give the answers they show, their links and messages exist."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from client.server import REPOSITORY, Server

HTTP = (REPOSITORY / "docs" / "http-by-example.md").read_text()
EXAMPLES = re.findall(r"^```bash\n(.*?)^```\n```json\n(.*?)^```", HTTP, re.MULTILINE | re.DOTALL)
PAGES = [*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").glob("*.md"))]


def parts(printed: str) -> tuple[object, str]:
    """The JSON document of an answer, whatever its spaces, and what curl printed behind it."""
    document, end = json.JSONDecoder().raw_decode(printed.strip())
    return document, printed.strip()[end:].strip()


@pytest.mark.parametrize(("command", "answer"), EXAMPLES)
def test_the_server_answers_as_the_page_says(server: Server, command: str, answer: str) -> None:
    done = subprocess.run(
        ["bash", "-euc", command.replace("http://127.0.0.1:8080", server.url)],
        cwd=REPOSITORY,
        env=os.environ | {"KEY": f"Authorization: Bearer {server.key}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert parts(done.stdout) == parts(answer)


def test_every_example_is_among_them() -> None:
    assert len(EXAMPLES) == HTTP.count("```bash") == 8
    assert parts('{"a": 1} 400') != parts('{"a": 1} 422')


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"(?:\]\(|src=\"|srcset=\")([^)\"#\s]+)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []
