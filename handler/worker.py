"""The worker's own loop: one process answers the batches of two of TorchServe's workers.

TorchServe sends a worker the next batch only once the last is answered. Meanwhile answers go out,
requests come in and a batch is gathered: the worker idles for a quarter of the time. Two workers
fill each other's gap, but each would hold a copy of torch, 300 MB. So the second hands its
connection over to the first, its partner, and only its place among TorchServe's processes is kept:
by `cat`, which ends when the partner lets the connection go.

Workers pair up by their number: 9000 with 9001, 9002 with 9003. One that finds no partner, such as
an only one, serves alone; so do all where there is no Linux.

This stands in for one method of the running process, never for the installed files, and only in the
version whose protocol `handler.wire` knows. In any other, each worker goes on with TorchServe's own
loop, through `MnistHandler.handle`, and says so in its log.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn, TypeAlias

from handler.protocols import Answer, Request
from handler.wire import read_batch, write_answers

logger = logging.getLogger(__name__)

KNOWN_VERSION = "0.12.0"
Respond: TypeAlias = Callable[[Sequence[Request]], Sequence[Answer]]
Serve: TypeAlias = Callable[[socket.socket], NoReturn]


def knows_torchserve() -> bool:
    """Whether this is the TorchServe whose worker this module can stand in for."""
    import ts  # noqa: PLC0415

    if ts.__version__ == KNOWN_VERSION:
        return True
    logger.warning("TorchServe %s speaks to its worker itself: slower", ts.__version__)
    return False


def when_loaded(serve: Serve) -> None:
    """Let `serve` have the connection once TorchServe has been told that the model is loaded."""
    from ts.service import Service  # noqa: PLC0415

    Service.set_cl_socket = lambda _, connection: serve(connection)


def number() -> int:
    """This worker's number, unique in its server: the end of its socket's name."""
    from ts.arg_parser import ArgParser  # noqa: PLC0415

    arguments = ArgParser.model_service_worker_args().parse_args()
    return int(arguments.port or arguments.sock_name.rpartition(".")[2])


def meet(model_dir: str, number: int) -> tuple[socket.socket | None, socket.socket | None]:
    """Find the other worker of this pair, or be found by it.

    Args:
        model_dir: where TorchServe unpacked the model, for this server alone.
        number: this worker's, unique in the server.

    Returns:
        A connection to the partner that serves for both; or, where this worker is the first, the
        socket that the other will connect to. Neither where there is no Linux.
    """
    if sys.platform != "linux":
        return None, None
    pair = f"{os.getppid()} {number // 2} {model_dir}"
    # A name outside the file system: it is free again when the process that took it has ended.
    name = f"\0mnist {hashlib.sha256(pair.encode()).hexdigest()}"
    meeting = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    while not _bind(meeting, name):
        try:
            meeting.connect(name)
        except ConnectionRefusedError:  # it is about to listen, or has just ended
            time.sleep(0.01)
            continue
        if not _same_user(meeting):
            meeting.close()
            raise PermissionError("another user holds the name of this worker's partner")
        return meeting, None
    meeting.listen()
    return None, meeting


def _bind(meeting: socket.socket, name: str) -> bool:
    """Take the name, unless another process has it."""
    try:
        meeting.bind(name)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    return True


def hand_over(partner: socket.socket, connection: socket.socket) -> NoReturn:
    """Give the connection to the partner, and become the process that waits for its end."""
    socket.send_fds(partner, [b"\0"], [connection.fileno()])
    os.dup2(partner.fileno(), 0)
    os.execvp("cat", ["cat"])  # noqa: S606, S607


class Worker:
    """Answers what comes on its own connection, and on those that partners hand over."""

    def __init__(self, meeting: socket.socket | None, respond: Respond) -> None:
        """Prepare to answer with `respond`; partners connect to `meeting`."""
        self._meeting, self._respond = meeting, respond
        self._ready = selectors.DefaultSelector()

    def serve(self, connection: socket.socket) -> NoReturn:
        """Answer until the front end closes this connection, this worker's own; then exit."""
        self._watch(connection, partial(self._answer, sys.exit))
        if self._meeting is not None:
            self._watch(self._meeting, self._accept)
        while True:
            for key, _ in self._ready.select():
                key.data(key.fileobj)

    def _watch(self, watched: socket.socket, act: Callable[[socket.socket], None]) -> None:
        self._ready.register(watched, selectors.EVENT_READ, act)

    def _accept(self, meeting: socket.socket) -> None:
        partner, _ = meeting.accept()
        if _same_user(partner):
            self._watch(partner, self._adopt)
        else:
            partner.close()

    def _adopt(self, partner: socket.socket) -> None:
        """Take a partner's connection, or notice that it has ended."""
        self._ready.unregister(partner)
        received, descriptors, _, _ = socket.recv_fds(partner, 1, 1)
        if not received:
            partner.close()
            return
        connection = socket.socket(fileno=descriptors[0])

        def end() -> None:
            self._ready.unregister(connection)
            connection.close()
            partner.close()

        self._watch(connection, partial(self._answer, end))

    def _answer(self, end: Callable[[], None], connection: socket.socket) -> None:
        """Answer the batch that has begun to arrive, or call `end` where the front end has gone."""
        try:
            batch = read_batch(connection)
            answers = self._respond([request for _, request in batch])
            connection.sendall(write_answers(batch, answers))
        except (EOFError, ConnectionError):
            logger.info("Frontend disconnected.")
            end()


def _same_user(connection: socket.socket) -> bool:
    """Whether the other end is a process of this user's; the name is anybody's to connect to."""
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return bool(struct.unpack("3i", peer)[1] == os.getuid())
