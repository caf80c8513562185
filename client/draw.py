"""Draw a digit, or show a photo of one, and see what the served model makes of it.

    python -m client draw       # or: make draw, which starts the server as well

A page and the small server that it talks to. That one asks TorchServe through the client library,
so the key never reaches the browser. It listens on loopback alone, and answers to that name alone:
another site's script can neither reach it under a name of its own (DNS rebinding) nor post to it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from client.api import DigitClient
from client.errors import ClientError, Refused, UsageError
from handler.errors import RequestError
from handler.preprocessing import prepare_image

LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 8090
MAX_BYTES = 32 << 20  # as TorchServe's max_request_size
IDLE_SECONDS = 30  # a connection may be silent for as long
PAGE = Path(__file__).with_name("page")
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/draw.css": ("draw.css", "text/css; charset=utf-8"),
    "/draw.js": ("draw.js", "text/javascript; charset=utf-8"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "camera=(self)",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
Json = dict[str, Any]


class DrawServer(ThreadingHTTPServer):
    """Serves the page at `url`, and to it what the model's server says.

    Args:
        client: asks the model's server; the caller closes it.
        port: on loopback; 0 takes any that is free.

    Raises:
        UsageError: the port is in use, or not for this user.
    """

    daemon_threads = True

    def __init__(self, client: DigitClient, port: int = DEFAULT_PORT) -> None:
        self.client = client
        # One explanation at a time: each costs as much as hundreds of predictions.
        self._explainer = ThreadPoolExecutor(1, thread_name_prefix="explain")
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except PermissionError as error:
            raise UsageError(
                f"port {port} is for the system's own services; choose another with --port"
            ) from error
        except OSError as error:
            raise UsageError(
                f"port {port} is in use; end what listens there, or choose another with --port"
            ) from error

    @property
    def url(self) -> str:
        """The page's address."""
        return f"http://{LOOPBACK}:{self.server_port}/"

    @property
    def hosts(self) -> set[str]:
        """What a browser on this machine may call this server."""
        return {f"{name}:{self.server_port}" for name in (LOOPBACK, "localhost")}

    def server_close(self) -> None:
        """Stop listening and explaining."""
        super().server_close()
        self._explainer.shutdown(cancel_futures=True)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over browsers that hang up, as they do when a page is closed."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def health(self) -> Json:
        """Tell that the model's server predicts, by a prediction.

        Raises:
            ClientError: it does not.
        """
        stroke = np.zeros((28, 28), np.uint8)
        stroke[4:24, 13:15] = 255
        self.client.predict(stroke)
        return {"ready": True}

    def predict(self, image: bytes) -> Json:
        """Return the digit, its ten probabilities and the 784 pixels, 0..255, that were seen.

        Raises:
            ClientError: the image is refused, or the server lost.
        """
        (prediction,) = self.client.predict([image], probabilities=True)
        if prediction.error:
            raise prediction.error
        if prediction.probabilities is None:
            raise AssertionError  # they were asked for
        try:
            # The server's own code on the same bytes; its answer holds no pixels.
            seen = prepare_image(image)
        except RequestError as error:  # a .npy file, which the server takes as well
            raise Refused(error.message, error.code) from error
        return {
            "digit": prediction.digit,
            "probabilities": prediction.probabilities.tolist(),
            "seen": seen.ravel().tolist(),
        }

    def explain(self, image: bytes) -> Json:
        """Return the digit that is explained, and 784 attributions.

        Raises:
            ClientError: the image is refused, or the server lost.
        """
        explanation = self._explainer.submit(self.client.explain, image).result()
        return {
            "target": explanation.target,
            "attributions": explanation.attributions.ravel().tolist(),
        }


class _Handler(BaseHTTPRequestHandler):
    """One request of the page's."""

    server: DrawServer
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    server_version, sys_version = "digits", ""

    def do_GET(self) -> None:
        if not self._is_ours():
            return
        if self.path == "/health":
            self._answer(self.server.health)
        elif self.path in FILES:
            name, content_type = FILES[self.path]
            self._send(HTTPStatus.OK, content_type, (PAGE / name).read_bytes())
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page; expected /")

    def do_POST(self) -> None:
        if not self._is_ours():
            return
        asked = {"/predict": self.server.predict, "/explain": self.server.explain}.get(self.path)
        length = self.headers.get("Content-Length", "")
        if asked is None:
            self._refuse(HTTPStatus.NOT_FOUND, "expected /predict or /explain")
        elif not length.isdecimal():
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "expected an image and its Content-Length")
        elif int(length) > MAX_BYTES:
            self._refuse(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"expected an image of at most {MAX_BYTES >> 20} MiB, got {int(length) >> 20} MiB",
            )
        else:
            image = self.rfile.read(int(length))
            self._answer(lambda: asked(image))

    def _is_ours(self) -> bool:
        """Refuse what another site's script sends: it names another host, or another origin."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if host in self.server.hosts and origin in (None, f"http://{host}"):
            return True
        self._refuse(HTTPStatus.FORBIDDEN, f"this page is for {self.server.url} alone")
        return False

    def _answer(self, ask: Callable[[], Json]) -> None:
        try:
            status, answer = HTTPStatus.OK, ask()
        except ClientError as error:
            refused = isinstance(error, Refused)
            status = HTTPStatus.UNPROCESSABLE_ENTITY if refused else HTTPStatus.SERVICE_UNAVAILABLE
            answer = {"error": {"code": error.code, "message": str(error)}}
        self._send(status, "application/json", json.dumps(answer).encode())

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        """Answer without reading the body, which then ends the connection."""
        self.close_connection = True
        answer = {"error": {"code": status.phrase.lower().replace(" ", "_"), "message": message}}
        self._send(status, "application/json", json.dumps(answer).encode())

    def _send(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base's name)
        """Keep the terminal quiet; what goes wrong is on the page."""
