"""TorchServe's worker protocol, read and written a batch at a time.

TorchServe 0.12 reads each length and each value of a request with a `recv` of its own, some 35 of
them, builds four layers of dictionaries, and writes the answers value by value. For a small image
that is half of the worker's time. Here a batch is parsed from memory straight into `Request`s,
and its `Answer`s are written straight into the reply.

The protocol of version 0.12; integers are 4 bytes, big endian, and -1 ends a list:

    batch   = "I" request* -1
    request = bytes(id) header* -1 field* -1      header = bytes(name) bytes(value)
    bytes   = length, so many bytes               field  = bytes(name) bytes(type) bytes(value)

    reply   = code bytes(message) answer* -1
    answer  = bytes(id) bytes(type) status bytes(phrase) count header* bytes(body)
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TypeAlias

from handler.protocols import Answer, Headers, Request

Batch: TypeAlias = "list[tuple[bytes, Request]]"

_CHUNK = 1 << 18  # bytes asked of the socket at once
_integer = struct.Struct("!i").unpack_from
_pack = struct.Struct("!i").pack
_PREDICT = b"I"
_HEAD = _pack(200) + _pack(len(b"Prediction success")) + b"Prediction success"
_END = _pack(-1)


def read_batch(connection: socket.socket) -> Batch:
    """Read one batch: the id of each request, and the request.

    Reads ahead, but never past the batch: the front end sends the next one after the reply.

    Raises:
        EOFError: the front end has closed the connection.
        ValueError: what came is no batch.
    """
    buffer = _receive(connection, b"", 1)
    if buffer[:1] != _PREDICT:
        raise ValueError(f"expected the command {_PREDICT!r} from TorchServe, got {buffer[:1]!r}")
    batch: Batch = []
    fields: dict[str, bytes] | None = None  # of the request that is not all there yet
    at = start = 1
    while True:
        try:
            # Every value is followed by an integer, so that one cut short is noticed there.
            if fields is None:
                (length,) = _integer(buffer, at)
                at += 4
                if length < 0:
                    return batch
                request_id = buffer[at : at + length]
                at += length
                # Neither a length nor UTF-8 holds four of these bytes in a row.
                end = buffer.find(_END, at)
                headers = _parse_headers(buffer[at:end]) if end >= 0 else Headers()
                at = end + 4 if end >= 0 else len(buffer)
                (length,) = _integer(buffer, at)
                fields, start = {}, at
            else:
                (length,) = _integer(buffer, at)
            while length >= 0:
                at += 4 + length
                name = buffer[at - length : at].decode()
                (length,) = _integer(buffer, at)
                at += 4 + length
                (length,) = _integer(buffer, at)
                at += 4 + length
                value = buffer[at - length : at]
                (length,) = _integer(buffer, at)
                fields[name], start = value, at
            at += 4
        except struct.error:
            # On from the value that is not all there yet: a form has thousands of them.
            buffer = _receive(connection, buffer[start:], at + 4 - len(buffer))
            at = start = 0
        else:
            batch.append((request_id, Request(fields, headers, request_id.decode())))
            fields, start = None, at


@lru_cache(256)
def _parse_headers(block: bytes) -> Headers:
    """Header names and values; clients send the same ones again and again."""
    values = []
    at = 0
    while at < len(block):
        (length,) = _integer(block, at)
        at += 4 + length
        values.append(block[at - length : at].decode())
    return Headers(zip(values[::2], values[1::2], strict=True))


def _receive(connection: socket.socket, buffer: bytes, missing: int) -> bytes:
    """The buffer and at least `missing` more bytes.

    Raises:
        EOFError: they cannot come any more.
    """
    parts = [buffer]
    while missing > 0:
        part = connection.recv(max(missing, _CHUNK))
        if not part:
            raise EOFError
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def write_answers(batch: Batch, answers: Sequence[Answer]) -> bytes:
    """The reply to a batch."""
    parts = [_HEAD]
    for (request_id, request), answer in zip(batch, answers, strict=True):
        headers = headers_of(request, answer)
        parts += (
            *(_pack(len(request_id)), request_id),
            _encode_head(answer.content_type, answer.status, len(headers)),
            _encode_headers(headers) if headers else b"",
            *(_pack(len(answer.body)), answer.body),
        )
    parts.append(_END)
    return b"".join(parts)


def headers_of(request: Request, answer: Answer) -> Mapping[str, str]:
    """The answer's headers, with the one that TorchServe's gRPC needs.

    Where a call of `StreamPredictions` is not told whether more answers follow, the front end gives
    up on the worker, and everybody's requests with it. Other calls do not mind being told.
    """
    if request.headers.is_grpc:
        return {**answer.headers, "ts_stream_next": "false"}
    return answer.headers


@lru_cache
def _encode_head(content_type: str, status: int, headers: int) -> bytes:
    # No phrase: TorchServe would put it into the status line as it is.
    kind = content_type.encode()
    return _pack(len(kind)) + kind + struct.pack("!iii", status, 0, headers)


def _encode_headers(headers: Mapping[str, str]) -> bytes:
    texts = [text.encode() for header in headers.items() for text in header]
    return b"".join(_pack(len(text)) + text for text in texts)
