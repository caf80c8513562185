"""The pages of docs/: their commands give the answers they show, their links and messages exist."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from client import errors as client_errors
from client.server import REPOSITORY, Server
from handler import errors as handler_errors

HTTP = (REPOSITORY / "docs" / "http-by-example.md").read_text()
EXAMPLES = re.findall(r"^```bash\n(.*?)^```\n```json\n(.*?)^```", HTTP, re.MULTILINE | re.DOTALL)
TROUBLES = (REPOSITORY / "docs" / "troubleshooting.md").read_text()
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


def strings() -> str:
    """Every text in the code that people are shown, with {} where a value is put in."""
    found = []
    for folder in ("client", "handler", "training", "evaluation"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    texts = [p.value if isinstance(p, ast.Constant) else "{}" for p in node.values]
                    found.append("".join(map(str, texts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return "\n".join(found)


def test_every_message_of_the_troubleshooting_page_is_one_that_is_printed() -> None:
    printed = strings()
    rows = re.findall(r"^\| `([^|]+?)` \|", TROUBLES, re.MULTILINE)
    assert len(rows) > 25
    # On the page … stands for what differs; each piece around it is in the code.
    pieces = [piece.strip() for row in rows for piece in row.split("…") if piece.strip()]
    assert [piece for piece in pieces if piece not in printed] == []
    assert "a message that nobody prints" not in printed


def test_every_code_of_an_error_is_on_the_troubleshooting_page() -> None:
    kinds = [
        kind
        for module in (client_errors, handler_errors)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Exception) and hasattr(kind, "code")
    ]
    codes = {kind.code for kind in kinds} - {"client_error", "bad_request", "usage"}
    assert len(codes) >= 10
    assert [code for code in sorted(codes) if f"`{code}`" not in TROUBLES] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"(?:\]\(|src=\"|srcset=\")([^)\"#\s]+)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []
