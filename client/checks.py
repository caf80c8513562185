"""What must hold before TorchServe can start, one function a condition.

Each raises a `ServerError` of one line that says what was expected, what is there and what to do.
`make start` runs them before it starts anything, `python -m client doctor` to tell what is wrong.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import psutil

SPACE = 64_000_000  # bytes: the unpacked archive, the keys, the log
LONGEST_PATH = 90  # letters: a Unix socket's path has 108, and its name is behind this one
_TORCHSERVE = "org.pytorch.serve.ModelServer"
# How the log names the cause of a server that does not start, and what to do about it.
_CAUSES = (
    (r"ModelError: (.+)", ""),
    (r"(No space left on device|Disk quota exceeded|File too large)", "; delete something there"),
    (r"(Address already in use)", "; end what listens there, or `make start PORT=9080`"),
    (r"(Cannot allocate memory|OutOfMemoryError.*|insufficient memory.*)", "; free some memory"),
    (r"Error: (Could not .+)", "; see vmargs in config.properties and JAVA_HOME"),
    (r"MODEL_LOG - (\w*(?:Error|Exception): .+)", "; `make archive` builds the archive anew"),
)


class ServerError(RuntimeError):
    """The server cannot be started or stopped; the message says why and what to do."""


def torchserve() -> Path:
    """The launcher of the TorchServe that is installed with this Python."""
    launcher = Path(sys.executable).with_name("torchserve")
    if not launcher.is_file():
        raise ServerError(f"no TorchServe at {launcher}; `make setup` installs it")
    return launcher


def settings(config: Path) -> str:
    """The text of the settings file."""
    try:
        return config.read_text()
    except (OSError, ValueError) as error:
        raise ServerError(
            f"the settings {config} cannot be read ({_reason(error)}); "
            "`git checkout config.properties` brings them back"
        ) from error


def archive(path: Path) -> None:
    """The archive is there, whole, and has the model and the handler that its manifest names."""
    if not path.is_file():
        raise ServerError(f"no archive at {path}; `make archive` builds it")
    remedy = f"remove {path}, and `make archive` builds it anew"
    try:
        with zipfile.ZipFile(path) as packed:
            damaged = packed.testzip()
            if damaged is not None:
                raise ServerError(f"the archive {path} is damaged at {damaged}; {remedy}")
            model = json.loads(packed.read("MAR-INF/MANIFEST.json"))["model"]
            missing = {model["serializedFile"], model["handler"]} - set(packed.namelist())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ServerError(f"the archive {path} is damaged ({_reason(error)}); {remedy}") from error
    if missing:
        raise ServerError(f"the archive {path} lacks {', '.join(sorted(missing))}; {remedy}")


def ports(numbers: Iterable[int]) -> None:
    """Each port can be listened on."""
    for port in numbers:
        if not 0 < port < 65536:
            raise ServerError(f"expected ports from 1 to 65535, got {port}; take a lower PORT")
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except PermissionError as error:
                raise ServerError(
                    f"port {port} is for the system's own services; `make start PORT=9080`"
                ) from error
            except OSError as error:
                raise ServerError(
                    f"port {port} is in use{_by_whom(port)}; end what listens there, or choose "
                    "another: `make start PORT=9080`"
                ) from error


def folder(home: Path) -> None:
    """The server's folder can be written to, has space, and has a path that is short enough."""
    run_dir = home / ".run"
    if len(str(run_dir)) > LONGEST_PATH:
        raise ServerError(
            f"the path {run_dir} is too long for a Unix socket ({LONGEST_PATH} letters); "
            "move the checkout to a shorter one"
        )
    try:
        free = shutil.disk_usage(home).free
        # Asked of the disk itself: quotas and limits of a process are not in its free space.
        # All but .run, logs and, with keys, home itself may be read-only, as in a container.
        with tempfile.TemporaryFile(dir=run_dir if run_dir.is_dir() else home) as probe:
            probe.write(bytes(1_000_000))
            probe.flush()
    except OSError as error:
        raise unwritable(home, error) from error
    if free < SPACE:
        raise ServerError(
            f"the disk of {home} is full: expected {SPACE / 1e6:.0f} MB free, "
            f"got {free / 1e6:.1f} MB; delete something there"
        )


def unwritable(home: Path, error: OSError) -> ServerError:
    """What it means that the server's folder could not be used for a start."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ServerError(f"the disk of {home} is full ({_reason(error)}); delete something there")
    if error.filename == str(torchserve()):
        return ServerError(f"{error.filename} cannot be run ({_reason(error)}) by this user")
    return ServerError(
        f"{error.filename or home} cannot be written ({_reason(error)}); the server keeps .run, "
        f"logs and key_file.json in {home}: give it a folder that its user may write to"
    )


def key_file(path: Path) -> None:
    """The key file can be read by its owner alone, who is who asks, and holds the keys."""
    try:
        status = path.stat()
        content = json.loads(path.read_bytes())
        kinds = [bool(content[kind]["key"]) for kind in ("inference", "management", "API")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ServerError(
            f"{path} holds no keys ({_reason(error)}); `make stop start` writes new ones"
        ) from error
    if not all(kinds) or status.st_mode & 0o077 or status.st_uid != os.getuid():
        raise ServerError(
            f"{path} must belong to its reader, mode 600, got owner {status.st_uid}, mode "
            f"{status.st_mode & 0o777:o}: others may have read it; `make stop start` makes new keys"
        )


def front_end(pid_file: Path, home: Path) -> int | None:
    """The process id of the TorchServe that runs in `home`, or None.

    A pid file outlives a server that was killed, and its number may by then be another
    process's, even another checkout's server.
    """
    try:
        pid = int(pid_file.read_text())
        process = psutil.Process(pid)
        ours = _TORCHSERVE in process.cmdline() and Path(process.cwd()) == home.resolve()
    except (OSError, ValueError, OverflowError, psutil.Error):
        return None
    return pid if ours else None


def cause(log: str) -> str | None:
    """Why a server did not start, in one line, where its log names a cause that is known."""
    text = "\n".join(_as_text(line) for line in log.splitlines())
    for pattern, remedy in _CAUSES:
        found = re.search(pattern, text)
        if found:
            return f"{found[1].strip()}{remedy}"
    return None


def _as_text(line: str) -> str:
    """A line of the log, as it would be without LOG_FORMAT=json."""
    try:
        document = json.loads(line)
        return f"{document['logger']} - {document['message']}"
    except (ValueError, KeyError, TypeError):
        return line


def _by_whom(port: int) -> str:
    """` by process 12 (java)`, where the system says so."""
    try:
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,)
            if listens and connection.pid:
                name = psutil.Process(connection.pid).name()
                return f" by process {connection.pid} ({name})"
    except (psutil.Error, OSError):
        pass  # other people's processes are not told to everybody
    return ""


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())
