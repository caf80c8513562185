"""gRPC, both ports: without its key no call is let in, and with it none does harm."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from client.server import Server
from tests.conftest import TIMEOUT, serving
from tests.faults.conftest import Report, worker_of
from tests.faults.test_security import KINDS, keys
from tests.images import png
from tests.served.clients import messages

Mnist = tuple[NDArray[np.uint8], NDArray[np.int64]]
OK = grpc.StatusCode.OK
REFUSED = grpc.StatusCode.PERMISSION_DENIED  # TorchServe never says UNAUTHENTICATED
INFERENCE, MANAGEMENT = 3, 4  # the ports' offsets
PORTS = {
    INFERENCE: ("inference", "org.pytorch.serve.grpc.inference.InferenceAPIsService"),
    MANAGEMENT: ("management", "org.pytorch.serve.grpc.management.ManagementAPIsService"),
}


def predictions(body: bytes) -> bytes:
    """The message that asks for the digit of an encoded image."""
    request = messages.PredictionsRequest(model_name="mnist", input={"data": body})
    serialized: bytes = request.SerializeToString()
    return serialized


def text(number: int, value: str) -> bytes:
    """A field of a protobuf message, shorter than 128 bytes."""
    return bytes([number << 3 | 2, len(value)]) + value.encode()


MNIST = text(1, "mnist")
# All that TorchServe offers, each with a message that would be obeyed, written as protobuf does.
CALLS = [
    (INFERENCE, "Ping", b""),
    (INFERENCE, "Predictions", predictions(b"x")),
    (INFERENCE, "StreamPredictions", predictions(b"x")),
    (INFERENCE, "StreamPredictions2", predictions(b"x")),
    (MANAGEMENT, "DescribeModel", MNIST),
    (MANAGEMENT, "ListModels", b"\x08\x0a"),  # ten of them
    (MANAGEMENT, "RegisterModel", text(9, "mnist.mar")),
    (MANAGEMENT, "ScaleWorker", MNIST + b"\x18\x00\x20\x00\x30\x01"),  # to none, at once
    (MANAGEMENT, "SetDefault", MNIST + text(2, "1.0")),
    (MANAGEMENT, "UnregisterModel", MNIST + text(2, "1.0")),
]


def call(
    server: Server, port: int, method: str, message: bytes, key: str | None
) -> tuple[grpc.StatusCode, str]:
    """Call with the header `authorization` or without it: the status; the answers or details."""
    metadata = () if key is None else (("authorization", key),)
    with grpc.insecure_channel(f"127.0.0.1:{(server.port or 0) + port}") as channel:
        # Asked as a stream of one: for the server that is the same as a single request.
        ask = channel.stream_stream(f"/{PORTS[port][1]}/{method}")
        try:
            answers = list(ask(iter([message]), metadata=metadata, timeout=TIMEOUT))
        except grpc.RpcError as error:
            failure: Any = error
            return failure.code(), failure.details()
    return OK, b"".join(answers).decode(errors="replace")


@pytest.mark.parametrize(("port", "method", "message"), CALLS)
def test_no_key_and_wrong_keys_are_let_nowhere(
    server: Server, port: int, method: str, message: bytes, report: Report
) -> None:
    worker = worker_of(server)
    valid = keys(server)
    own = valid[PORTS[port][0]]
    tried: list[str | None] = [None, "", "Bearer", "Bearer x", "Basic eDp4", own]
    tried += [f"Bearer {valid[kind]}" for kind in KINDS if valid[kind] != own]
    tried += [f"Bearer {own}x", f"Bearer {own.swapcase()}", f"Bearer {own} {own}"]
    answers = [call(server, port, method, message, key) for key in tried]
    report(f"{method}: {len(tried)} keys, {sorted({code.name for code, _ in answers})}")
    assert {code for code, _ in answers} == {REFUSED}
    assert not any(secret in told for _, told in answers for secret in valid.values())
    assert worker_of(server).pid == worker.pid


def test_the_right_key_is_let_in(server: Server, mnist_test: Mnist) -> None:
    """The test above can fail."""
    valid = {kind: f"Bearer {key}" for kind, key in keys(server).items()}
    message = predictions(png(mnist_test[0][0]))
    assert call(server, INFERENCE, "Predictions", message, valid["inference"]) == (OK, "\n\x017")
    for method, sent in (("ListModels", b"\x08\x0a"), ("DescribeModel", MNIST)):
        code, told = call(server, MANAGEMENT, method, sent, valid["management"])
        assert (code, "mnist" in told) == (OK, True)


def test_a_stream_does_not_cost_the_worker(server: Server, mnist_test: Mnist) -> None:
    """TorchServe's front end ends a worker whose answer does not say whether the stream goes on."""
    key = f"Bearer {server.key}"
    worker = worker_of(server)
    message = predictions(png(mnist_test[0][0]))
    assert call(server, INFERENCE, "StreamPredictions", message, key) == (OK, "\n\x017")
    code, told = call(server, INFERENCE, "StreamPredictions", predictions(b"x"), key)
    assert (code, "unreadable" in told) == (OK, True)
    code, told = call(server, INFERENCE, "StreamPredictions2", message, key)
    assert (code, "sequenceId is required" in told) == (OK, True)
    assert worker_of(server).pid == worker.pid


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x.mar", "mnist.mar", "../mnist.mar"])
def test_nobody_registers_a_model(server: Server, url: str) -> None:
    """Not even with the management key; nor is the one that is served taken away."""
    key = f"Bearer {keys(server)['management']}"
    for method, message in (("RegisterModel", text(9, url)), ("UnregisterModel", MNIST)):
        code, told = call(server, MANAGEMENT, method, message, key)
        assert (code, "Model API disabled" in told) == (REFUSED, True)


def test_an_expired_key_is_let_nowhere(archive: Path) -> None:
    """Neither to the one port nor to the other; keys live for 0.1 minutes here."""
    lifetime = ("token_expiration_min=1440", "token_expiration_min=0.1")
    with serving(archive, lifetime) as server:
        valid = keys(server)
        for port, method in ((INFERENCE, "Ping"), (MANAGEMENT, "ListModels")):
            key = f"Bearer {valid[PORTS[port][0]]}"
            deadline = time.monotonic() + TIMEOUT
            while call(server, port, method, b"", key)[0] == OK:
                assert time.monotonic() < deadline
                time.sleep(0.2)
        for port, method, message in CALLS:
            key = f"Bearer {valid[PORTS[port][0]]}"
            assert call(server, port, method, message, key)[0] == REFUSED
