"""What deploy/SECURITY.md says, tried: each attack, and who is let in with which key."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import requests
from numpy.typing import NDArray

from client.server import REPOSITORY, Server
from tests.conftest import TIMEOUT, free_ports, make_home, serving
from tests.images import npy

Mnist = tuple[NDArray[np.uint8], NDArray[np.int64]]

# What each address is for: the port's offset, the method, the path, the kind of key it takes.
CALLS = [
    (0, "POST", "/predictions/mnist", "inference"),
    (0, "POST", "/predictions/mnist/1.0", "inference"),
    (0, "POST", "/explanations/mnist", "inference"),
    (0, "POST", "/v1/models/mnist:predict", "inference"),
    (0, "POST", "/v2/models/mnist/infer", "inference"),
    (0, "GET", "/ping", "inference"),
    (0, "POST", "/wfpredict/mnist", "inference"),
    (1, "GET", "/models", "management"),
    (1, "GET", "/models/mnist", "management"),
    (1, "PUT", "/models/mnist?min_worker=0", "management"),
    (1, "DELETE", "/models/mnist/1.0", "management"),
    (1, "PUT", "/models/mnist/1.0/set-default", "management"),
    (1, "POST", "/models?url=mnist.mar", "management"),
    (1, "POST", "/workflows?url=x.war", "management"),
    (1, "GET", "/workflows", "management"),
    (1, "GET", "/token?type=inference", "API"),
    (1, "GET", "/token?type=management", "API"),
]
KINDS = ("inference", "management", "API")


def keys(server: Server) -> dict[str, str]:
    """The three keys of a server's key file, by kind."""
    content = json.loads((server.home / "key_file.json").read_text())
    return {kind: content[kind]["key"] for kind in KINDS}


def call(server: Server, offset: int, method: str, path: str, key: str | None) -> requests.Response:
    """One call with the header `Authorization` or without it."""
    url = f"http://127.0.0.1:{(server.port or 0) + offset}{path}"
    headers = {} if key is None else {"Authorization": key}
    body = npy(np.zeros((28, 28), np.uint8)) if method == "POST" and not offset else b""
    return requests.request(
        method, url, data=body, headers=headers, timeout=TIMEOUT, allow_redirects=False
    )


@pytest.mark.parametrize(("offset", "method", "path", "kind"), CALLS)
def test_no_key_and_wrong_keys_are_let_nowhere(
    server: Server, offset: int, method: str, path: str, kind: str
) -> None:
    valid = keys(server)
    tried: list[str | None] = [None, "", "Bearer", "Bearer ", "Bearer x", "Basic eDp4", "Bearer \0"]
    tried += [f"Bearer {valid[other]}" for other in KINDS if other != kind]
    tried += [valid[kind], f"Bearer {valid[kind]}x", f"Bearer {valid[kind].swapcase()}"]
    for key in [key for key in tried if key is None or key.isprintable()]:
        answer = call(server, offset, method, path, key)
        assert 400 <= answer.status_code < 500, (key, answer.text)
        assert not any(secret in answer.text for secret in valid.values())


def test_two_things_are_told_to_everybody(server: Server) -> None:
    """TorchServe asks for no key there: counts of requests, and a description of its own API."""
    assert call(server, 2, "GET", "/metrics", None).status_code == 200
    described = call(server, 0, "GET", "/api-description", None)
    assert described.json()["info"]["title"] == "TorchServe APIs"
    assert call(server, 2, "POST", "/models?url=mnist.mar", None).status_code in (404, 405)


def test_the_right_key_is_let_in(server: Server) -> None:
    """The test above can fail: with its key a call is answered."""
    valid = keys(server)
    assert call(server, 0, "GET", "/ping", f"Bearer {valid['inference']}").status_code == 200
    assert call(server, 1, "GET", "/models", f"Bearer {valid['management']}").status_code == 200


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/evil.mar",
        "https://example.org/evil.mar",
        "file:///etc/passwd",
        "file:///tmp/evil.mar",
        "s3://bucket/evil.mar",
        "../mnist.mar",
        "..%2Fmnist.mar",
        "mnist.mar",
        "/etc/passwd",
        "http://169.254.169.254/latest/meta-data",
    ],
)
def test_nobody_registers_a_model(server: Server, url: str) -> None:
    """Not even with the management key; nor a workflow (CVE-2023-43654, CVE-2024-35198)."""
    key = f"Bearer {keys(server)['management']}"
    before = sorted(path.name for path in (server.home / "model_store").iterdir())
    for path in (f"/models?url={url}", f"/workflows?url={url}", f"/models?model_name=x&url={url}"):
        answer = call(server, 1, "POST", path, key)
        # TorchServe has no switch for workflows: it opens the archive, and finds it to be none.
        no_workflow = path.startswith("/workflows") and "not in the .gz format" in answer.text
        assert 400 <= answer.status_code < 500 or no_workflow, answer.text
    assert call(server, 1, "GET", "/workflows", key).json()["workflows"] == []
    models = call(server, 1, "GET", "/models", key).json()["models"]
    assert [model["modelName"] for model in models] == ["mnist"]
    assert sorted(path.name for path in (server.home / "model_store").iterdir()) == before


@pytest.mark.parametrize(
    "path",
    [
        "/predictions/../../etc/passwd",
        "/predictions/..%2f..%2fetc%2fpasswd",
        "/predictions/mnist/../../../key_file.json",
        "/predictions/mnist%00",
        "//predictions//mnist",
        "/models",
        "/token?type=inference",
        "/predictions/mnist/9.9",
        "/key_file.json",
    ],
)
def test_paths_lead_nowhere(server: Server, path: str) -> None:
    """As they are, without a library that tidies them up."""
    valid = keys(server)
    request = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {valid['inference']}\r\n"
        "Content-Length: 0\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port or 0), timeout=TIMEOUT) as opened:
        opened.sendall(request.encode())
        answer = opened.recv(100_000)
    assert answer.startswith(b"HTTP/1.1 4"), answer
    assert b"root:" not in answer
    assert not any(secret.encode() in answer for secret in valid.values())


def test_every_port_is_on_loopback(server: Server) -> None:
    """And nothing else of the server's is open."""
    front_end = psutil.Process(server.pid)
    pids = {process.pid for process in (front_end, *front_end.children(recursive=True))}
    listening = set()
    for connection in psutil.net_connections("tcp"):
        address: Any = connection.laddr
        if connection.pid in pids and connection.status == psutil.CONN_LISTEN:
            listening.add((address.ip.removeprefix("::ffff:"), address.port))
    port = server.port or 0
    assert listening == {("127.0.0.1", port + offset) for offset in range(5)}


def test_secrets_are_their_owners_alone(server: Server) -> None:
    status = (server.home / "key_file.json").stat()
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_uid == os.getuid()
    assert stat.S_IMODE(server.run_dir.stat().st_mode) == 0o700
    log = server.log.read_text()
    assert not any(secret in log for secret in keys(server).values())


def test_no_snapshot_is_written_or_read(server: Server) -> None:
    """A snapshot of an earlier run could bring other settings; --ncs does neither."""
    assert "--no-config-snapshots" in psutil.Process(server.pid).cmdline() or not list(
        server.home.rglob("*.cfg")
    )


@pytest.fixture
def short_lived(archive: Path) -> Iterator[Server]:
    """A server whose keys live for 0.1 minutes."""
    lifetime = ("token_expiration_min=1440", "token_expiration_min=0.1")
    with serving(archive, lifetime) as server:
        yield server


def test_an_expired_key_is_let_nowhere(short_lived: Server) -> None:
    """And the API key, which has no end, gets a new one."""
    valid = keys(short_lived)
    deadline = time.monotonic() + TIMEOUT
    old = f"Bearer {valid['inference']}"
    while call(short_lived, 0, "GET", "/ping", old).status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    answer = call(short_lived, 0, "POST", "/predictions/mnist", old)
    assert (answer.status_code, "Token" in answer.text) == (400, True)
    api = f"Bearer {valid['API']}"
    assert call(short_lived, 1, "GET", "/token?type=inference", api).status_code == 200
    new = keys(short_lived)["inference"]
    assert new != valid["inference"]
    assert call(short_lived, 0, "GET", "/ping", f"Bearer {new}").status_code == 200


@pytest.mark.usefixtures("mounting")
def test_it_serves_on_a_read_only_file_system(archive: Path) -> None:
    """Everything read-only but the server's own folder."""
    home = make_home(archive)
    port = str(free_ports())
    code = (
        "import sys; from pathlib import Path; from client.server import Server\n"
        "import os, psutil\n"
        "s = Server(Path(sys.argv[1]), int(sys.argv[2]))\n"
        "s.start(); p = psutil.Process(s.pid)\n"
        "print(len(p.children()), s.probe(9).text)\n"
        "s.stop()"
    )
    script = f"""
        set -e
        mount --bind {home} {home}
        mount -o remount,ro,bind /
        cd {home}
        exec setpriv --no-new-privs --bounding-set -all --inh-caps -all "$@"
        """
    command = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [*command, str(home), port],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    finally:
        shutil.rmtree(home)
    assert done.stderr == ""
    assert done.stdout.strip() == "2 1"  # two workers, one answer
