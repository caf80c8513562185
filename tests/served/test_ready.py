"""Ready means that a real prediction works, not that a port answers."""

from __future__ import annotations

import http.server
import json
import threading
from pathlib import Path

import pytest

from client import server as client_server
from client.server import Server
from tests.conftest import free_ports


def test_a_serving_server_is_ready(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(client_server, "Server", lambda port: server)  # noqa: ARG005
    assert client_server.main(["ready"]) == 0
    assert capsys.readouterr().out == "ready\n"


def test_neither_a_proxy_nor_a_netrc_stands_between(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("default login somebody password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert server.is_ready()


def test_what_answers_without_predicting_is_not_ready(tmp_path: Path) -> None:
    class NoModel(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_error(503)

        def log_message(self, *arguments: object) -> None:
            pass

    key = {"inference": {"key": "key"}}
    (tmp_path / "key_file.json").write_text(json.dumps(key))
    port = free_ports(1)
    assert not Server(tmp_path, port).is_ready()
    with http.server.HTTPServer(("127.0.0.1", port), NoModel) as front_end:
        threading.Thread(target=front_end.serve_forever, daemon=True).start()
        assert not Server(tmp_path, port).is_ready()
        front_end.shutdown()
