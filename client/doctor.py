"""What keeps this checkout's server from starting or from serving: `python -m client doctor`.

A line a check, each with what to do where something is wrong. Nothing is started or changed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import requests

from client import checks
from client.checks import ServerError
from client.java import JavaMissing
from client.server import Server

HEALTHY, ILL = 0, 2
PING_SECONDS = 10.0  # longer than a worker takes to load again


def run(server: Server) -> int:
    """Print a line for each check; return 0 if all of them passed, else 2."""
    found = dict(server.conditions())
    if server.pid is not None:
        del found["ports"]  # its own
        found |= {"keys": lambda: checks.key_file(server.home / "key_file.json")}
        found |= {"server": lambda: _serves(server)}
    passed = [_passes(name, condition) for name, condition in found.items()]
    if server.pid is None:
        _tell("-", "server", _why_none(server))
    if not os.access(server.store, os.W_OK):
        _tell("-", "store", f"{server.store} is read-only: served as it is, never built anew")
    return HEALTHY if all(passed) else ILL


def _passes(name: str, condition: Callable[[], object]) -> bool:
    try:
        condition()
    except (ServerError, JavaMissing) as error:
        _tell("FAIL", name, str(error))
        return False
    _tell("ok", name, "")
    return True


def _tell(mark: str, name: str, text: str) -> None:
    print(f"{mark:5}{name:11}{text}".rstrip())
    sys.stdout.flush()


def _why_none(server: Server) -> str:
    if (server.run_dir / ".model_server.pid").exists():
        return "none runs; the last one was killed, and `make start` clears what it left behind"
    return "none runs; `make start` starts one"


def _serves(server: Server) -> None:
    """A prediction works."""
    try:
        answer = server.probe(PING_SECONDS)
    except (requests.RequestException, OSError, ValueError) as error:
        raise ServerError(
            f"process {server.pid} does not answer at {server.url} ({type(error).__name__}); "
            f"`make stop start` starts it again, {server.log} may say why"
        ) from error
    if answer.status_code != requests.codes.ok:
        raise ServerError(
            f"process {server.pid} answers {answer.status_code} to a digit; "
            f"`make stop start` starts it again, {server.log} may say why"
        )
