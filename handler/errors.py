"""Every reason to refuse a request, mapped to its HTTP status.

A `RequestError` is the client's fault and concerns one image or one request, never its
batch mates. Its message says what was expected and what came; it never contains bytes of the
user's input, so it is safe in a response body and in a log line.
"""

from __future__ import annotations


class RequestError(Exception):
    """Base of all refusals: `status` is the HTTP status, `code` its stable name for machines."""

    status = 400
    code = "bad_request"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def as_dict(self) -> dict[str, dict[str, str]]:
        """The body of the answer: `{"error": {"code": …, "message": …}}`."""
        return {"error": {"code": self.code, "message": self.message}}


class Unreadable(RequestError):
    """400: the bytes are not what they claim to be (truncated image, broken JSON, bad base64)."""

    status = 400
    code = "unreadable"


class TooLarge(RequestError):
    """413: too many bytes, pixels or images."""

    status = 413
    code = "too_large"


class InvalidShape(RequestError):
    """422: readable numbers of the wrong shape or type."""

    status = 422
    code = "invalid_shape"


class InvalidRange(RequestError):
    """422: readable numbers outside 0..255 (integers) or 0..1 (floats), NaN or infinity."""

    status = 422
    code = "invalid_range"


class NoDigit(RequestError):
    """422: an image in which nothing legible stands (blank, noise, a full frame)."""

    status = 422
    code = "no_digit"


class Busy(RequestError):
    """503: not the client's fault; the same request may be answered a little later."""

    status = 503
    code = "busy"
