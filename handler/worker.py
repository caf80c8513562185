"""The worker's own loop: one process answers the batches of two of TorchServe's workers.

TorchServe sends a worker the next batch only once the last is answered. Meanwhile answers go out,
requests come in and a batch is gathered: the worker idles for a quarter of the time. Two workers
fill each other's gap; `handler.pairing` lets them share a process.

This stands in for one method of the running process, never for the installed files, and only in the
version whose protocol `handler.wire` knows. In any other, each worker goes on with TorchServe's own
loop, through `MnistHandler.handle`.
"""

from __future__ import annotations

import logging
import selectors
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn, TypeAlias, cast

from handler.pairing import same_user
from handler.protocols import Answer, Request
from handler.wire import read_batch, write_answers

logger = logging.getLogger(__name__)

Respond: TypeAlias = Callable[[Sequence[Request]], Sequence[Answer]]
Serve: TypeAlias = Callable[[socket.socket], NoReturn]


def when_loaded(serve: Serve) -> None:
    """Let `serve` have the connection once TorchServe has been told that the model is loaded."""
    from ts.service import Service  # noqa: PLC0415

    Service.set_cl_socket = lambda _, connection: serve(connection)


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
                watched = cast("socket.socket", key.fileobj)
                if watched.fileno() >= 0:  # the one before may have closed it, or changed its act
                    self._ready.get_key(watched).data(watched)

    def _watch(self, watched: socket.socket, act: Callable[[socket.socket], None]) -> None:
        self._ready.register(watched, selectors.EVENT_READ, act)

    def _forget(self, *watched: socket.socket) -> None:
        for each in watched:
            self._ready.unregister(each)
            each.close()

    def _accept(self, meeting: socket.socket) -> None:
        partner, _ = meeting.accept()
        if same_user(partner):
            self._watch(partner, self._adopt)
        else:
            partner.close()

    def _adopt(self, partner: socket.socket) -> None:
        """Take over the socket that the front end connects to, or notice the partner's end."""
        received, descriptors, _, _ = socket.recv_fds(partner, 1, 1)
        if not received:
            self._forget(partner)
            return
        listening = socket.socket(fileno=descriptors[0])
        self._watch(listening, partial(self._connect, partner))
        self._ready.modify(partner, selectors.EVENT_READ, partial(self._forget, listening))

    def _connect(self, partner: socket.socket, listening: socket.socket) -> None:
        """The front end has come, to stay."""
        connection, _ = listening.accept()
        self._forget(listening)
        end = partial(self._forget, partner, connection)
        self._watch(connection, partial(self._load, end))
        self._ready.modify(partner, selectors.EVENT_READ, lambda _: end())

    def _load(self, end: Callable[[], None], connection: socket.socket) -> None:
        """The first that the front end asks of a worker, to load the model, is done already."""
        from ts.protocol.otf_message_handler import (  # noqa: PLC0415
            create_load_model_response,
            retrieve_msg,
        )

        try:
            retrieve_msg(connection)
            connection.sendall(create_load_model_response(200, "loaded by its partner"))
        except (SystemExit, ConnectionError):  # TorchServe's own ends a process that nobody asks
            end()
        else:
            self._ready.modify(connection, selectors.EVENT_READ, partial(self._answer, end))

    def _answer(self, end: Callable[[], None], connection: socket.socket) -> None:
        """Answer the batch that has begun to arrive, or call `end` where the front end has gone."""
        try:
            batch = read_batch(connection)
            answers = self._respond([request for _, request in batch])
            connection.sendall(write_answers(batch, answers))
        except (EOFError, ConnectionError):
            logger.info("Frontend disconnected.")
            end()
