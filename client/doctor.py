"""What keeps this checkout's server from starting or from serving: `python -m client doctor`.

A line a check, each with what to do where something is wrong. Nothing is started or changed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import NamedTuple

import requests

from client import checks
from client.checks import ServerError
from client.java import JavaMissing
from client.server import Server

HEALTHY, ILL = 0, 2
PING_SECONDS = 10.0  # longer than a worker takes to load again


class Finding(NamedTuple):
    """What one check found: `ok` is None where it is only worth knowing."""

    check: str
    ok: bool | None
    message: str


def run(server: Server, *, as_json: bool = False) -> int:
    """Print what each check finds, a line or a JSON object each; 0 if none failed, else 2."""
    failed = False
    for finding in _findings(server):
        failed |= finding.ok is False
        if as_json:
            print(json.dumps(finding._asdict()), flush=True)
        else:
            mark = {True: "ok", False: "FAIL", None: "-"}[finding.ok]
            print(f"{mark:5}{finding.check:11}{finding.message}".rstrip(), flush=True)
    return ILL if failed else HEALTHY


def _findings(server: Server) -> Iterator[Finding]:
    found = dict(server.conditions())
    if server.pid is not None:
        del found["ports"]  # its own
        found |= {"keys": lambda: checks.key_file(server.home / "key_file.json")}
        found |= {"server": lambda: _serves(server)}
    for name, condition in found.items():
        try:
            condition()
        except (ServerError, JavaMissing) as error:
            yield Finding(name, ok=False, message=str(error))
        else:
            yield Finding(name, ok=True, message="")
    if server.pid is None:
        yield Finding("server", ok=None, message=_why_none(server))
    if not os.access(server.store, os.W_OK):
        why = f"{server.store} is read-only: served as it is, never built anew"
        yield Finding("store", ok=None, message=why)


def _why_none(server: Server) -> str:
    if (server.run_dir / ".model_server.pid").exists():
        return "none runs; the last one was killed, and `make start` clears what it left behind"
    return "none runs; `make start` starts one"


def _serves(server: Server) -> None:
    """A prediction works."""
    remedy = f"`make stop start` starts it again, {server.log} may say why"
    try:
        answer = server.probe(PING_SECONDS)
    except (requests.RequestException, OSError, ValueError) as error:
        raise ServerError(
            f"process {server.pid} does not answer at {server.url} "
            f"({type(error).__name__}); {remedy}"
        ) from error
    if answer.status_code != requests.codes.ok:
        raise ServerError(f"process {server.pid} answers {answer.status_code} to a digit; {remedy}")
