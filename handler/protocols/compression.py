"""Compressed bodies, as `tritonclient` can send them: TorchServe hands them on as they are."""

from __future__ import annotations

import zlib

from handler.deadline import check_time
from handler.errors import TooLarge, Unreadable
from handler.protocols import Request

MAX_BYTES = 32 * 1024 * 1024  # as many as config.properties lets an uncompressed request have
_EITHER = 32 + zlib.MAX_WBITS  # gzip or zlib, told apart by their first bytes


def decompress(request: Request) -> Request:
    """The request with its body decompressed; HTTP's `deflate` means zlib's format.

    Raises:
        Unreadable: another `Content-Encoding` than gzip or deflate, or broken data.
        TooLarge: more than `MAX_BYTES` come out; no more than these are ever made.
        Busy: there is no time left for it.
    """
    encoding = request.headers.lower.get("content-encoding")
    if encoding is None:
        return request
    body = request.fields.get("body")
    if body is None or encoding.strip().lower() == "identity":
        return request
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        raise Unreadable("expected Content-Encoding to be gzip, deflate or identity")
    check_time()
    stream = zlib.decompressobj(_EITHER)
    try:
        plain = stream.decompress(body, MAX_BYTES)
    except zlib.error as error:
        raise Unreadable("expected a compressed body, as Content-Encoding says") from error
    if stream.unconsumed_tail:
        raise TooLarge(f"expected at most {MAX_BYTES} bytes in a compressed body, got more")
    if not stream.eof:
        raise Unreadable("expected a whole compressed body, got the beginning of one")
    return request._replace(fields={"body": plain})
