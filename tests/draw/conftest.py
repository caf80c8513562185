"""The page's server in front of the tests' TorchServe, and a real Chromium before it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

from client import DigitClient
from client.draw import DrawServer
from client.server import REPOSITORY, Server

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@contextmanager
def drawing(client: DigitClient) -> Iterator[DrawServer]:
    """The page's server on a port of its own."""
    with DrawServer(client, port=0) as page_server:
        thread = threading.Thread(target=page_server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield page_server
        finally:
            page_server.shutdown()
            thread.join()


@pytest.fixture(scope="session")
def page_server(server: Server) -> Iterator[DrawServer]:
    """One that asks the TorchServe of the tests."""
    with (
        DigitClient(server.url, server.key, timeout=5, deadline=5) as client,
        drawing(client) as it,
    ):
        yield it


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium, whose camera films the photo of a five."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on PATH; Debian's: apt-get install chromium")
    film = tmp_path_factory.mktemp("camera") / "five.mjpeg"
    film.write_bytes((REPOSITORY / "docs" / "five-on-paper.jpg").read_bytes())
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-video-capture={film}",
            ],
        )
        yield chromium
        chromium.close()
