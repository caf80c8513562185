"""Two of TorchServe's workers share one process, and so one copy of torch.

The first to start is an ordinary worker. The second, its partner, does no more than TorchServe
waits for, it listens for the front end and says so; then it hands its socket over to the first, and
becomes `cat`, which ends when the first one lets go of it. So it costs no memory, and starts at
once. `handler.worker` answers for both.

Workers pair up by their number: 9000 with 9001, 9002 with 9003. One that finds no partner, such as
an only one, serves alone; so do all where there is no Linux or more than one GPU, and under any
version of TorchServe but the one whose worker this stands in for.
"""

from __future__ import annotations

import errno
import gc
import hashlib
import os
import platform
import socket
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import ts
from ts.arg_parser import ArgParser

KNOWN_VERSION = "0.12.0"
GPUS = Path("/proc/driver/nvidia/gpus")
PATIENCE = 2.0  # seconds until a partner that was found listens; it does within milliseconds

meeting: socket.socket | None = None
"""Where the partner of this process, if it is the first of a pair, hands its socket over."""


def knows_torchserve() -> bool:
    """Whether this is the TorchServe whose worker this package can stand in for."""
    return bool(ts.__version__ == KNOWN_VERSION)


def pair(model_dir: Path) -> None:
    """Find the other worker of this one's pair, or be found by it. The second does not return.

    Args:
        model_dir: where TorchServe unpacked the model, for this server alone.
    """
    global meeting
    arguments = ArgParser.model_service_worker_args().parse_args()
    if sys.platform != "linux" or arguments.sock_type != "unix" or not knows_torchserve():
        return
    if GPUS.exists() and len(list(GPUS.iterdir())) > 1:  # TorchServe spreads its workers over them
        return
    name = arguments.sock_name
    partner, meeting = meet(model_dir, int(name.rpartition(".")[2]))
    if partner is not None:
        hand_over(partner, name)
    # Loading torch makes many objects and little garbage; the handler turns this on again.
    gc.disable()


def meet(model_dir: Path, number: int) -> tuple[socket.socket | None, socket.socket | None]:
    """Find the other worker of a pair, or be found by it.

    Args:
        model_dir: a folder of this server's alone.
        number: this worker's, unique in the server.

    Returns:
        A connection to the partner that serves for both; or, where this worker is the first, the
        socket that the other will connect to.

    Raises:
        PermissionError, TimeoutError: another user's process waits there, or one that does not
            listen. Python prints either, and the worker starts without a partner.
    """
    pair_id = f"{os.getppid()} {number // 2} {model_dir.resolve()}"
    # A name outside the file system: it is free again when the process that took it has ended.
    name = f"\0mnist {hashlib.sha256(pair_id.encode()).hexdigest()}"
    waiting = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    deadline = time.monotonic() + PATIENCE
    while not _bind(waiting, name):
        try:
            waiting.connect(name)
        except ConnectionRefusedError:  # it is about to listen, or has just ended
            if time.monotonic() > deadline:
                waiting.close()
                raise TimeoutError(
                    "a process that does not listen has taken its partner's name"
                ) from None
            time.sleep(0.01)
            continue
        if not same_user(waiting):
            waiting.close()
            raise PermissionError("another user holds the name of this worker's partner")
        return waiting, None
    waiting.listen()
    return None, waiting


def _bind(waiting: socket.socket, name: str) -> bool:
    """Take the name, unless another process has it."""
    try:
        waiting.bind(name)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    return True


def same_user(connection: socket.socket) -> bool:
    """Whether the other end is a process of this user's; the name is anybody's to connect to."""
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return bool(struct.unpack("3i", peer)[1] == os.getuid())


def hand_over(partner: socket.socket, name: str) -> NoReturn:
    """Do what TorchServe's worker does at its start, for the partner; wait for the partner's end.

    Args:
        partner: the connection to it.
        name: where TorchServe will connect to, a socket in the file system.
    """
    with suppress(FileNotFoundError):
        Path(name).unlink()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(name)
    listening.listen(1)
    socket.send_fds(partner, [b"\0"], [listening.fileno()])
    # The front end waits for these very lines.
    print(f"[PID]{os.getpid()}", "Torch worker started.", sep="\n")
    print(f"Python runtime: {platform.python_version()}", flush=True)
    os.dup2(partner.fileno(), 0)
    os.execvp("cat", ["cat"])  # noqa: S606, S607
