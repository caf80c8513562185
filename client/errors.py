"""What can go wrong between a client and the server, in words for people.

Every message is one line that says what was tried and what to do about it.
"""

from __future__ import annotations


class ClientError(Exception):
    """Base of everything below. `code` is its stable, machine-readable name."""

    code = "client_error"


class ServerUnreachable(ClientError):
    """Nobody answered at the URL, or not in time."""

    code = "server_unreachable"


class ServerFailed(ClientError):
    """The server answered, but with a fault of its own (5xx, 429) or with something unexpected."""

    code = "server_failed"


class ServerBusy(ServerFailed):
    """The server has no time, or no memory, for all that was sent to it at once (503 `busy`)."""

    code = "busy"


class NotOffered(ClientError):
    """The server does not have the model or the protocol that was asked for (404, 405, 501)."""

    code = "not_offered"


class Unauthorized(ClientError):
    """The server wants a key, and the one at hand does not fit and could not be renewed."""

    code = "unauthorized"


class Refused(ClientError):
    """One image was not predicted, and asking again would not help. Others are not affected.

    Attributes:
        code: the server's name for the reason (`unreadable`, `too_large`, `invalid_shape`,
            `invalid_range`, `no_digit`, …), or `unreadable_file` if it never left this machine.
        status: the HTTP status that was given for this image alone, else None.
    """

    def __init__(self, message: str, code: str = "refused", status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class UsageError(ClientError):
    """A command cannot be carried out as it was given: no such folder, no such option."""

    code = "usage"
