"""docs/troubleshooting.md has every message and code that is printed, and none that is not."""

from __future__ import annotations

import ast
import builtins
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache

import pytest

from client import errors as client_errors
from client.server import REPOSITORY
from handler import errors as handler_errors

TROUBLES = (REPOSITORY / "docs" / "troubleshooting.md").read_text()
FOLDERS = ("client", "handler", "training", "evaluation")
PARSED = {
    path: ast.parse(path.read_text())
    for folder in FOLDERS
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
}
# Says it to a programmer who calls a formula wrongly; no command can.
ASIDE = {"expected 0 <= successes <= trials >= 1, got {} of {}"}
# `parser.error("…")`, and what makes an error of a few words.
MAKERS = {"error", "_failed"}
FEWEST_LETTERS = 9  # that a row names, or it would cover whatever is printed


def rows(page: str) -> list[tuple[str, str, str]]:
    """Message, cause and cure of each row."""
    table = re.findall(r"^\| `([^|]+?)` \|(.*)\|((?:[^|]|\\\|)*)\|$", page, re.MULTILINE)
    return [(message, cause.strip(), cure.strip()) for message, cause, cure in table]


def pieces(message: str) -> list[str]:
    """On the page … stands for what differs; what is around it."""
    return [piece.strip() for piece in message.split("…") if piece.strip()]


def text(node: ast.expr) -> str:
    """A text as it is written, with {} where a value is put in."""
    match node:
        case ast.Constant(value=str(value)):
            return value
        case ast.JoinedStr(values=values):
            return "".join(text(part) for part in values)
    return "{}"


def strings() -> str:
    """Every text in the code and on the page to draw on."""
    texts = [
        text(node)
        for tree in PARSED.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr | ast.Constant)
    ]
    return "\n".join([*texts, (REPOSITORY / "client" / "page" / "draw.js").read_text()])


@cache
def exceptions() -> set[str]:
    """The names of all classes of errors, Python's and the project's."""
    names = {
        name
        for name, kind in vars(builtins).items()
        if isinstance(kind, type) and issubclass(kind, Exception)
    } | {"ArgumentTypeError"}
    classes = [n for tree in PARSED.values() for n in ast.walk(tree) if isinstance(n, ast.ClassDef)]
    while more := {c.name for c in classes if {name_of(b) for b in c.bases} & names} - names:
        names |= more
    return names


def name_of(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else getattr(node, "attr", "")


def messages() -> Iterator[tuple[str, str]]:
    """Where an error is made, and its message; one that a function words, as that words it."""
    for path, tree in PARSED.items():
        words = wordings(tree)
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            if name_of(node.func) in exceptions() | MAKERS:
                message = node.args[0]
                begins = message.values[0] if isinstance(message, ast.JoinedStr) else message
                named = begins.value if isinstance(begins, ast.FormattedValue) else begins
                named = named.func if isinstance(named, ast.Call) else named
                for wording in words.get(name_of(named), [text(message)]):
                    if re.search(r"[a-z]{3}", wording):  # not f"{path}: {error}"
                        yield f"{path.relative_to(REPOSITORY)}:{node.lineno}", wording


def wordings(tree: ast.Module) -> dict[str, list[str]]:
    """The texts that each function returns, or that are given each name."""
    found: dict[str, list[str]] = defaultdict(list)
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] += [text(node.value)]
        elif isinstance(node, ast.FunctionDef):
            returns = (n for n in ast.walk(node) if isinstance(n, ast.Return) and n.value)
            found[node.name] += [text(r.value) for r in returns if r.value]
    return {
        name: texts for name, texts in found.items() if all(re.search("[a-z]", t) for t in texts)
    }


def uncovered(page: str) -> list[tuple[str, str]]:
    """Messages that no row of `page` has."""
    known = [
        re.compile(".*".join(map(re.escape, found)), re.DOTALL)
        for found in (pieces(message) for message, _, _ in rows(page))
        if len("".join(found)) >= FEWEST_LETTERS
    ]
    return [
        (place, message)
        for place, message in messages()
        if message not in ASIDE and not any(row.search(message) for row in known)
    ]


def test_every_message_is_on_the_page() -> None:
    assert len(list(messages())) > 120
    assert uncovered(TROUBLES) == []


@pytest.mark.parametrize(
    "message",
    [
        "the image is blank: expected one digit in it",
        "Nobody answers at …",
        "no archive at …",
        "expected …, got NaN or infinity",
        "ray is not installed: …",
        "no prediction in time",
    ],
)
def test_a_row_that_is_taken_away_is_missed(message: str) -> None:
    lines = TROUBLES.splitlines()
    rest = [line for line in lines if not line.startswith(f"| `{message}`")]
    assert len(rest) == len(lines) - 1
    (missed,) = {message for _, message in uncovered("\n".join(rest))}
    assert re.search(".*".join(map(re.escape, pieces(message))), missed)


def test_every_message_of_the_page_is_one_that_is_printed() -> None:
    printed = strings()
    unknown = [p for message, _, _ in rows(TROUBLES) for p in pieces(message) if p not in printed]
    assert unknown == []
    assert "a message that nobody prints" not in printed


def test_every_row_has_its_cause_and_its_cure() -> None:
    lines = [line for line in TROUBLES.splitlines() if line.startswith("| `")]
    assert len(lines) == len(rows(TROUBLES)) > 100
    assert [message for message, cause, cure in rows(TROUBLES) if not cause or not cure] == []


def test_every_code_of_an_error_is_on_the_page() -> None:
    kinds = [
        kind
        for module in (client_errors, handler_errors)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Exception) and hasattr(kind, "code")
    ]
    codes = {kind.code for kind in kinds} - {"client_error", "bad_request", "usage"}
    assert len(codes) >= 10
    assert [code for code in sorted(codes) if f"`{code}`" not in TROUBLES] == []
