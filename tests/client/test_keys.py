"""Where the key is found, how it is renewed, and what is said when neither works."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from client import DigitClient, Unauthorized, keys
from tests.client.conftest import Connect, pixels
from tests.client.stub import KEY_ERROR, Answer, Asked, Stub, respond

SEVEN = b"digit 7"


class Guard:
    """TorchServe's token authorization: one valid key, renewed into the file on demand."""

    def __init__(self, stub: Stub, file: Path) -> None:
        self.file = file
        self.key = "first"
        self.renewals = 0
        self._lock = threading.Lock()
        self.write()
        stub.respond = self

    def write(self) -> None:
        content = {
            "management": {"key": "m", "expiration time": "2030-01-01T00:00:00Z"},
            "inference": {"key": self.key, "expiration time": "2030-01-01T00:00:00Z"},
            "API": {"key": "api"},
        }
        self.file.write_text(json.dumps(content))

    def __call__(self, asked: Asked) -> Answer | None:
        sent = asked.headers["Authorization"]
        with self._lock:
            if asked.path == "/token?type=inference":
                if sent != "Bearer api":
                    return Answer(400, KEY_ERROR)
                self.renewals += 1
                self.key = f"renewed {self.renewals}"
                self.write()
                return Answer(200, b"\n")
            return respond(asked) if sent == f"Bearer {self.key}" else Answer(400, KEY_ERROR)


@pytest.fixture
def guard(stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Guard:
    monkeypatch.setenv("MNIST_MANAGEMENT_URL", stub.url)
    return Guard(stub, tmp_path / "key_file.json")


@pytest.mark.usefixtures("guard")
def test_the_key_file_is_found_in_the_working_directory(connect: Connect, stub: Stub) -> None:
    assert connect().predict(SEVEN)[0].digit == 7
    assert len(stub.asked) == 1


def test_the_key_file_is_found_in_the_repository(
    guard: Guard, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    guard.file.rename(root / "key_file.json")
    monkeypatch.setattr(keys, "REPOSITORY", root)
    assert connect().predict(SEVEN)[0].digit == 7


def test_arguments_win_over_the_environment_and_that_over_the_file(
    guard: Guard, connect: Connect, stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sent() -> str | None:
        return stub.asked[-1].headers["Authorization"]

    stub.respond = respond
    other = tmp_path / "other.json"
    guard.key = "other"
    guard.file.rename(tmp_path / "mine.json")
    guard.file = other
    guard.write()
    connect().predict(SEVEN)
    assert sent() is None
    monkeypatch.setenv("MNIST_KEY_FILE", str(tmp_path / "mine.json"))
    connect().predict(SEVEN)
    assert sent() == "Bearer first"
    connect(key_file=other).predict(SEVEN)
    assert sent() == "Bearer other"
    monkeypatch.setenv("MNIST_KEY", "environment")
    connect().predict(SEVEN)
    assert sent() == "Bearer environment"
    connect(key="argument").predict(SEVEN)
    assert sent() == "Bearer argument"


def test_an_expired_key_is_renewed_once_for_all_threads(guard: Guard, connect: Connect) -> None:
    guard.key = "the server's, but expired in the file"
    predictions = connect(connections=8, images_per_request=10).predict(pixels(400))
    assert [p.digit for p in predictions] == [i % 10 for i in range(400)]
    assert guard.renewals == 1


def test_a_key_that_somebody_else_renewed_is_read_again(guard: Guard, connect: Connect) -> None:
    client = connect()
    client.predict(SEVEN)
    guard.key = "a restarted server's"
    guard.write()
    assert client.predict(SEVEN)[0].digit == 7
    assert guard.renewals == 0


def test_a_half_written_key_file_is_read_again(
    guard: Guard, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard.file.write_text('{"management": {')
    monkeypatch.setattr("client.keys.time.sleep", lambda _: guard.write())
    assert connect().predict(SEVEN)[0].digit == 7


def test_no_key_at_all(guard: Guard, connect: Connect) -> None:
    guard.file.unlink()
    with pytest.raises(Unauthorized) as raised:
        connect().predict(SEVEN)
    for hint in (str(guard.file), "--key", "MNIST_KEY", "MNIST_KEY_FILE"):
        assert hint in str(raised.value)


def test_a_given_key_that_does_not_fit_is_not_renewed(guard: Guard, connect: Connect) -> None:
    with pytest.raises(Unauthorized, match="--key or MNIST_KEY"):
        connect(key="wrong").predict(SEVEN)
    assert guard.renewals == 0


def test_another_servers_key_file(guard: Guard, connect: Connect) -> None:
    guard.file.write_text(json.dumps({"inference": {"key": "a"}, "API": {"key": "b"}}))
    with pytest.raises(Unauthorized, match=r"neither .* nor the API key in .*key_file\.json"):
        connect().predict(SEVEN)


def test_another_servers_management_api(guard: Guard, connect: Connect, stub: Stub) -> None:
    stub.respond = lambda a: guard(a) if a.path.startswith("/token") else Answer(400, KEY_ERROR)
    with pytest.raises(Unauthorized, match=r"does not accept the key in .*, nor a renewed one"):
        connect().predict(SEVEN)
    assert guard.renewals == 3


def test_no_management_api(guard: Guard, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNIST_MANAGEMENT_URL", "http://127.0.0.1:1")
    guard.key = "expired"
    with pytest.raises(Unauthorized, match=r"nobody answers at http://127\.0\.0\.1:1/token"):
        connect().predict(SEVEN)


def test_a_file_that_is_no_key_file(
    guard: Guard, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard.file.write_text("[]")
    monkeypatch.setattr("client.keys.time.sleep", lambda _: None)
    with pytest.raises(Unauthorized, match="not a key file"):
        connect().predict(SEVEN)


@pytest.mark.parametrize(
    ("url", "management"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8081"),
        ("http://[::1]:9080", "http://[::1]:9081"),
        ("https://digits.example", "https://digits.example:444"),
    ],
)
def test_the_management_api_is_on_the_next_port(url: str, management: str) -> None:
    with DigitClient(url) as client:
        assert client._transport._keys._management_url == management


def test_the_keys_of_this_machine_are_not_sent_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MNIST_KEY_FILE", raising=False)
    content = {"inference": {"key": "secret"}, "API": {"key": "api"}}
    (tmp_path / "key_file.json").write_text(json.dumps(content))
    here, there = "http://127.0.0.1", "http://192.0.2.1"
    assert keys.Keys(None, None, f"{here}:8080", f"{here}:8081").current() == "secret"
    assert keys.Keys(None, None, f"{there}:8080", f"{there}:8081").current() is None
    assert keys.Keys(None, None, f"{there}:8080", f"{here}:8081").current() is None


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *[(host, True) for host in ("localhost", "127.0.0.1", "127.9.9.9", "[::1]")],
        *[(host, False) for host in ("127.example.com", "192.0.2.1", "localhost.example", "[::2]")],
    ],
)
def test_which_hosts_are_this_machine(host: str, expected: bool) -> None:
    assert keys.is_loopback(f"http://{host}:8080") == expected
