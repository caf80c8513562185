"""The key that TorchServe asks for: where it is found and how it is renewed.

TorchServe writes `key_file.json` into its working directory when it starts. The inference key in
it expires after `token_expiration_min` minutes. `GET /token?type=inference` on the management
port, with the API key of the same file, writes a new one into the file (the answer's body is
empty) and makes the old one invalid at once.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import requests

from client.errors import Unauthorized

KEY_FILE = "key_file.json"
REPOSITORY = Path(__file__).resolve().parent.parent
RENEWAL_TIMEOUT = 10.0


class Keys:
    """One server's inference key: an explicit one, or the one in its key file, renewed on demand.

    Args:
        key: use this key and look no further. Default: the environment's MNIST_KEY.
        key_file: TorchServe's key file. Default: the environment's MNIST_KEY_FILE; else, for a
            server on this machine, key_file.json in the working directory or in the repository's
            root. Another machine's server is never sent the keys of this one's.
        url: the server's inference address.
        management_url: where a new key is asked for.

    Raises:
        ValueError: the explicit key cannot be one.
    """

    def __init__(
        self, key: str | None, key_file: Path | None, url: str, management_url: str
    ) -> None:
        self._explicit = (key or os.environ.get("MNIST_KEY") or "").strip() or None
        if self._explicit and not re.fullmatch("[!-~]+", self._explicit):
            raise ValueError(
                "expected a key of letters, digits and signs, got spaces, line breaks or others in "
                "it (--key, MNIST_KEY); `make key` prints it"
            )
        chosen = key_file or os.environ.get("MNIST_KEY_FILE")
        found_here = [Path.cwd() / KEY_FILE, REPOSITORY / KEY_FILE]
        if chosen:
            self._places = [Path(chosen)]
        else:
            here = is_loopback(url) and is_loopback(management_url)
            self._places = found_here if here else []
        self._management_url = management_url
        self._current = self._explicit
        self._lock = threading.Lock()

    @property
    def source(self) -> str:
        """Say in words where the key is from."""
        path = self._path()
        return "the given key" if self._explicit else f"the key in {path}" if path else "no key"

    def current(self) -> str | None:
        """Return the key to send, or None if there is none (a server may run without keys)."""
        with self._lock:
            if self._current is None:
                self._current = self._read("inference")
            return self._current

    def replace(self, rejected: str | None) -> None:
        """Find another key than `rejected`, which the server did not accept.

        Several threads may ask at the same time: one of them renews. Another process may have
        renewed it, or a restarted server written a new file: then the file is right already.

        Raises:
            Unauthorized: there is none, with what was tried and what to do.
        """
        with self._lock:
            if self._explicit:
                raise Unauthorized(
                    "The server does not accept the key given by --key or MNIST_KEY: it may have "
                    f"expired. Leave it out where the server's {KEY_FILE} can be read."
                )
            if self._read("inference") == rejected:
                self._renew()
            self._current = self._read("inference")

    def _renew(self) -> None:
        path = self._path()
        if path is None:
            places = " or ".join(str(place) for place in self._places) or f"{KEY_FILE} for it"
            raise Unauthorized(
                f"The server asks for a key and there is no {places}: give --key or MNIST_KEY, "
                "or point MNIST_KEY_FILE at the file that TorchServe wrote where it was started."
            )
        url = f"{self._management_url}/token?type=inference"
        headers = {"Authorization": f"Bearer {self._read('API')}"}
        try:
            with requests.Session() as session:
                session.trust_env = not is_loopback(url)
                answer = session.get(
                    url, headers=headers, timeout=RENEWAL_TIMEOUT, allow_redirects=False
                )
        except requests.RequestException as error:
            raise Unauthorized(
                f"The server does not accept the key in {path}, and no new one could be had: "
                f"nobody answers at {url}. Set MNIST_MANAGEMENT_URL, or restart the server."
            ) from error
        if answer.status_code != requests.codes.ok:
            raise Unauthorized(
                f"The server accepts neither the inference key nor the API key in {path}: the "
                "file is another server's, or an older one's. Point MNIST_KEY_FILE at the right "
                "one, or restart the server."
            )

    def _path(self) -> Path | None:
        return next((place for place in self._places if place.is_file()), None)

    def _read(self, name: str) -> str | None:
        path = self._path()
        if path is None:
            return None
        for pause in (0.05, 0.2, None):  # TorchServe rewrites the file in place
            try:
                return str(json.loads(path.read_bytes())[name]["key"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                if pause is None:
                    raise Unauthorized(
                        f"{path} is not a key file of TorchServe's ({type(error).__name__}): "
                        "restart the server in that folder, or give --key or MNIST_KEY."
                    ) from error
                time.sleep(pause)
        return None


def is_loopback(url: str) -> bool:
    """Tell whether the URL is this machine's own: then no proxy of the environment's is used."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name, and of names 127.example.com is not this machine's
        return host == "localhost"
