"""TorchServe's worker protocol, read and written a batch at a time.

TorchServe 0.12 reads each length and each value of a request with a `recv` of its own, some 35 of
them, builds four layers of dictionaries, and writes the answers value by value. For a small image
that is half of the worker's time. Here a batch is parsed from memory straight into `Request`s,
and its `Answer`s are written straight into the reply.

This stands in for two private functions of the running process, never for the installed files,
and only in the version whose protocol it knows. In any other the worker goes on with TorchServe's
own, through `MnistHandler.handle`, and says so in its log.

The protocol; integers are 4 bytes, big endian, and -1 ends a list:

    batch   = request* -1
    request = bytes(id) header* -1 field* -1      header = bytes(name) bytes(value)
    bytes   = length, so many bytes               field  = bytes(name) bytes(type) bytes(value)

    reply   = code bytes(message) answer* -1
    answer  = bytes(id) bytes(type) status bytes(phrase) count header* bytes(body)
"""

from __future__ import annotations

import logging
import socket
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from handler.protocols import Answer, Request

logger = logging.getLogger(__name__)

KNOWN_VERSION = "0.12.0"
Batch: TypeAlias = "list[tuple[bytes, Request]]"
Respond: TypeAlias = Callable[[Sequence[Request]], Sequence[Answer]]

_CHUNK = 1 << 18  # bytes asked of the socket at once
_integer = struct.Struct("!i").unpack_from
_pack = struct.Struct("!i").pack
_HEAD = _pack(200) + _pack(len(b"Prediction success")) + b"Prediction success"
_END = _pack(-1)


def read_batch(connection: socket.socket) -> Batch:
    """Read one batch, whose command byte has been read: the id of each request, and the request.

    Reads ahead, but never past the batch: the front end sends the next one after the reply.
    """
    buffer = bytearray(connection.recv(_CHUNK))
    batch: Batch = []
    at = start = 0
    while True:
        try:
            # Every value is followed by an integer, so that one cut short is noticed there.
            (length,) = _integer(buffer, at)
            at += 4
            if length < 0:
                return batch
            request_id = bytes(buffer[at : at + length])
            at += length
            headers: dict[str, Any] = {}
            (length,) = _integer(buffer, at)
            while length >= 0:
                at += 4 + length
                name = buffer[at - length : at].decode()
                (length,) = _integer(buffer, at)
                at += 4 + length
                headers[name] = buffer[at - length : at].decode()
                (length,) = _integer(buffer, at)
            at += 4
            fields = {}
            (length,) = _integer(buffer, at)
            while length >= 0:
                at += 4 + length
                name = buffer[at - length : at].decode()
                (length,) = _integer(buffer, at)
                at += 4 + length
                (length,) = _integer(buffer, at)
                at += 4 + length
                fields[name] = buffer[at - length : at]
                (length,) = _integer(buffer, at)
            at += 4
        except struct.error:
            _receive(connection, buffer, at + 4 - len(buffer))
            at = start
        else:
            batch.append((request_id, Request(fields, headers, request_id.decode())))
            start = at


def _receive(connection: socket.socket, buffer: bytearray, missing: int) -> None:
    """Append at least `missing` bytes to the buffer; the process ends where no more can come."""
    while missing > 0:
        part = connection.recv(max(missing, _CHUNK))
        if not part:
            logger.info("Frontend disconnected.")
            sys.exit(0)
        buffer += part
        missing -= len(part)


def write_answers(batch: Batch, answers: Sequence[Answer]) -> bytes:
    """The reply to a batch."""
    parts = [_HEAD]
    for (request_id, request), answer in zip(batch, answers, strict=True):
        parts += (_pack(len(request_id)), request_id, _encode(answer, headers_of(request, answer)))
    parts.append(_END)
    return b"".join(parts)


def headers_of(request: Request, answer: Answer) -> Mapping[str, str]:
    """The answer's headers, with the one that TorchServe's gRPC needs.

    Where a call of `StreamPredictions` is not told whether more answers follow, the front end gives
    up on the worker, and everybody's requests with it. Other calls do not mind being told.
    """
    return {**answer.headers, "ts_stream_next": "false"} if request.is_grpc else answer.headers


def _encode(answer: Answer, headers: Mapping[str, str]) -> bytes:
    kind = answer.content_type.encode()
    # No phrase: TorchServe would put it into the status line as it is.
    middle = struct.pack("!iii", answer.status, 0, len(headers))
    packed = b"".join(
        _pack(len(text)) + text
        for header in headers.items()
        for text in (header[0].encode(), header[1].encode())
    )
    return b"".join((_pack(len(kind)), kind, middle, packed, _pack(len(answer.body)), answer.body))


def install(respond: Respond) -> bool:
    """Let this worker read and write its batches here; whether it does."""
    import ts  # noqa: PLC0415
    from ts.protocol import otf_message_handler as protocol  # noqa: PLC0415
    from ts.service import Service  # noqa: PLC0415

    if ts.__version__ != KNOWN_VERSION:
        logger.warning("TorchServe %s speaks to its worker itself: slower", ts.__version__)
        return False

    def predict(_: Service, batch: Batch) -> bytes:
        return write_answers(batch, respond([request for _, request in batch]))

    protocol._retrieve_inference_msg = read_batch
    Service.predict = predict
    return True
