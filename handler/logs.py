"""What the worker says of itself, as the environment asks for it.

    LOG_FORMAT=json    each line is one JSON object; otherwise it is text
    ACCESS_LOG=info    a line for each request, with its id; otherwise none

TorchServe hands its environment on to its workers, and `log4j2.xml` reads the same two variables
for the front end, which writes its own lines and passes those of the worker on.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import orjson

from handler.protocols import Answer, Request

access = logging.getLogger("handler.access")
access.setLevel(logging.ERROR)  # one comparison a batch, unless a line for each request is wanted


class JsonLines(logging.Formatter):
    """A record as one line of JSON: its text, its traceback, and what was logged in `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        document = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        } | getattr(record, "fields", {})
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(document, default=str).decode()


def configure() -> None:
    """Set up the handler's loggers in a worker, as the environment asks for it."""
    if os.environ.get("LOG_FORMAT") == "json":
        lines = logging.StreamHandler(sys.stdout)
        lines.setFormatter(JsonLines())
        ours = logging.getLogger("handler")
        ours.addHandler(lines)
        ours.propagate = False  # what is not the handler's, metrics too, stays as it is
    if os.environ.get("ACCESS_LOG") == "info":
        access.setLevel(logging.INFO)


def log_answers(requests: Sequence[Request], answers: Sequence[Answer], seconds: float) -> None:
    """One line for each request of a batch that took so long, where that is asked for."""
    if not access.isEnabledFor(logging.INFO):
        return
    for request, answer in zip(requests, answers, strict=True):
        fields = {
            "request": request.id,
            "status": answer.status,
            "batch": len(requests),
            "milliseconds": round(1000 * seconds, 3),
        }
        access.info("request %s: %d", request.id, answer.status, extra={"fields": fields})
