"""One request and its answer, over a network where things go wrong.

Inference changes nothing on the server, so that asking again is always safe. It is asked again
when the connection is lost, when the time is up and when the server says that it is busy or
broken (429, 5xx); never when it says that the request is wrong.
"""

from __future__ import annotations

import itertools
import random
import re
import threading
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from client.errors import (
    ClientError,
    NotOffered,
    Refused,
    ServerBusy,
    ServerFailed,
    ServerUnreachable,
    Unauthorized,
)
from client.keys import Keys, is_loopback

REFUSALS = {400, 413, 422}
NOT_OFFERED = {404, 405, 501}
# 507 is TorchServe's answer while a worker that died is restarted.
TRANSIENT = {429, 500, 502, 503, 504, 507}
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  # seconds
CONNECT_TIMEOUT = 3.0  # seconds; more than this is no server on a network worth the name
STRANGER_ATTEMPTS = 3  # nobody has ever answered: most likely no server was started
KEY_ATTEMPTS = 3  # a key may be renewed by another process between two of ours


@dataclass(frozen=True)
class Request:
    """A request's path, body and headers; what `Transport.post` sends."""

    path: str
    body: bytes
    headers: dict[str, str]


class _Bearer(AuthBase):
    """As an `auth` object, because requests lets a ~/.netrc override a plain header."""

    def __init__(self, key: str | None) -> None:
        self.key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self.key:
            request.headers["Authorization"] = f"Bearer {self.key}"
        return request


class Transport:
    """Sends requests to one server; safe to use from many threads, each with its own session.

    Args:
        url: the server's inference address, such as http://127.0.0.1:8080.
        keys: where the key comes from.
        timeout: seconds that one attempt may take.
        deadline: seconds that all attempts of one request may take together.
    """

    def __init__(self, url: str, keys: Keys, timeout: float, deadline: float) -> None:
        self.url = url
        self._keys = keys
        self._timeout = timeout
        self._deadline = deadline
        self._answered = False
        self._local = threading.local()
        self._sessions: list[requests.Session] = []

    def post(
        self, request: Request, cancelled: threading.Event, patient: bool = True
    ) -> requests.Response:
        """Return the server's answer to `request`, a 200.

        Args:
            request: what to send.
            cancelled: once set, no further attempt is made.
            patient: whether to ask again where the server is too busy for the request; not so
                where less can be asked for.

        Raises:
            Refused: 400, 413, 422; it is about what was sent.
            NotOffered: 404, 405, 501.
            Unauthorized: no key fits, nor a renewed one.
            ServerUnreachable: no answer by the deadline.
            ServerBusy: it has no time for all that was asked, or none until the deadline.
            ServerFailed: 429 or 5xx until the deadline, or an unexpected status.
        """
        end = time.monotonic() + self._deadline
        rejections = 0
        for attempt in itertools.count(1):
            key = self._keys.current()
            wait = FIRST_PAUSE * 2 ** (attempt - 1)
            try:
                answer = self._send(request, key, end - time.monotonic())
            except requests.RequestException as error:
                failure: ClientError = self._unreachable(error)
                again = self._answered or attempt < STRANGER_ATTEMPTS
            else:
                self._answered = True
                if answer.status_code == requests.codes.ok:
                    return answer
                failure = explain(answer)
                if isinstance(failure, Unauthorized):
                    rejections += 1
                    if rejections > KEY_ATTEMPTS:
                        raise self._unauthorized()
                    self._keys.replace(key)
                    continue
                too_much = isinstance(failure, ServerBusy) and not patient
                again = answer.status_code in TRANSIENT and not too_much
                wait = max(wait, _seconds(answer.headers.get("Retry-After")))
            pause = min(LONGEST_PAUSE, wait) * random.uniform(0.5, 1)  # noqa: S311
            if not again or time.monotonic() + pause >= end or cancelled.wait(pause):
                raise failure
        raise AssertionError  # the count has no end

    def close(self) -> None:
        """Close every connection."""
        for session in self._sessions:
            session.close()

    def _send(self, request: Request, key: str | None, left: float) -> requests.Response:
        timeout = max(0.01, min(self._timeout, left))
        return self._session().post(
            self.url + request.path,
            data=request.body,
            headers=request.headers,
            auth=_Bearer(key),
            timeout=(min(CONNECT_TIMEOUT, timeout), timeout),
            allow_redirects=False,
        )

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = requests.Session()
            session.trust_env = not is_loopback(self.url)
            session.mount(self.url, HTTPAdapter(pool_connections=1, pool_maxsize=1))
            self._local.session = session
            self._sessions.append(session)
        return session

    def _unreachable(self, error: requests.RequestException) -> ServerUnreachable:
        if isinstance(error, requests.Timeout):
            what = f"{self.url} does not answer in time"
        elif self._answered:
            what = f"The connection to {self.url} is lost"
        else:
            what = f"Nobody answers at {self.url}"
        return ServerUnreachable(
            f"{what} ({_root_cause(error)}): start the server (make start), or set MNIST_URL."
        )

    def _unauthorized(self) -> Unauthorized:
        return Unauthorized(
            f"{self.url} does not accept {self._keys.source}, nor a renewed one: it is another "
            "server's. Set MNIST_KEY_FILE and MNIST_MANAGEMENT_URL to this server's."
        )


def explain(answer: requests.Response) -> ClientError:
    """Turn an answer that is not a 200 into the exception that says what it means."""
    status = answer.status_code
    code, message = error_of(answer)
    # TorchServe answers 400 to a bad key, as the contract does to a bad image.
    if code == "InvalidKeyException" or status in (401, 403):
        return Unauthorized(f"The server does not accept the key: {message}")
    if status in REFUSALS:
        return Refused(message, code, status)
    if code == ServerBusy.code:
        return ServerBusy(f"The server is busy: {message}")
    where = urlsplit(answer.url).path
    if status in NOT_OFFERED:
        return NotOffered(f"The server does not offer {where} ({status}): {message}")
    return ServerFailed(f"The server answers {status} to {where}: {message}")


def error_of(answer: requests.Response) -> tuple[str, str]:
    """Read the code and the message out of an error body, in whichever form it came."""
    try:
        body = answer.json()
    except ValueError:
        body = answer.text[:200] or f"{answer.status_code} {answer.reason}"
    return read_error(body)


def read_error(body: object) -> tuple[str, str]:
    """Read `{"error": {"code", "message"}}`, `{"error": "code: message"}` or TorchServe's form.

    The message is made safe for a terminal: one line, printable characters only.
    """
    if isinstance(body, dict):
        body = body.get("error", body)
    if isinstance(body, dict):
        code = body.get("type") or body.get("code") or "refused"
        message = body.get("message")
    else:
        named = re.match(r"([a-z_]+): (.*)", str(body), re.DOTALL)
        code, message = named.groups() if named else ("refused", body)
    line = " ".join(str(message or "no reason given").split())
    return str(code), "".join(c for c in line if c.isprintable())


def _seconds(retry_after: str | None) -> float:
    """Read a Retry-After header; a date instead of seconds is ignored."""
    return float(retry_after) if retry_after and retry_after.isdecimal() else 0.0


def _root_cause(error: BaseException) -> str:
    """What the operating system said, from under the layers of requests and urllib3."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return str(getattr(error, "strerror", None) or error)
