"""gRPC: TorchServe's own service, and what it makes of the Open Inference Protocol's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.empty_pb2 import Empty
from kserve.protocol.grpc import grpc_predict_v2_pb2 as oip
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from numpy.typing import NDArray

from client.server import Server
from handler.model import DigitModel
from tests.conftest import TIMEOUT, serving
from tests.images import b64, png
from tests.served.clients import Images, authorization, grpc_channel, messages, services

Mnist = tuple[Images, NDArray[np.int64]]
# TorchServe moved the service into a package of its own, where no client looks for it.
SERVICE = "org.pytorch.serve.grpc.openinference.GRPCInferenceService"


def key(server: Server) -> list[tuple[str, str]]:
    return list(authorization(server).items())


@pytest.fixture
def stub(server: Server) -> Iterator[Any]:
    with grpc_channel(server) as channel:
        yield services.InferenceAPIsServiceStub(channel)


def predict(stub: Any, server: Server, **fields: bytes) -> Any:
    request = messages.PredictionsRequest(model_name="mnist", input=fields)
    return json.loads(stub.Predictions(request, metadata=key(server), timeout=TIMEOUT).prediction)


def test_ping(stub: Any, server: Server) -> None:
    answer = stub.Ping(Empty(), metadata=key(server), timeout=TIMEOUT)
    assert json.loads(answer.health) == {"status": "Healthy"}


def test_every_form_of_request(
    stub: Any, server: Server, mnist_test: Mnist, model: DigitModel
) -> None:
    images = mnist_test[0][:2]
    first, second = model.predict(images)[0].tolist()
    one, two = (png(image) for image in images)
    body = {"instances": [{"b64": b64(one)}, {"b64": b64(two)}]}
    assert predict(stub, server, data=one) == first
    assert predict(stub, server, body=one) == first
    assert predict(stub, server, left=one, right=two) == {"left": first, "right": second}
    assert predict(stub, server, data=json.dumps(body).encode()) == {"predictions": [first, second]}


def test_a_refusal_is_in_the_answer(stub: Any, server: Server) -> None:
    """TorchServe has no way from a handler's status to gRPC's: the call itself succeeds."""
    assert predict(stub, server, data=b"seven")["error"]["code"] == "unreadable"
    assert predict(stub, server)["error"]["code"] == "unreadable"


def test_no_key_no_answer(stub: Any) -> None:
    request = messages.PredictionsRequest(model_name="mnist", input={"data": b"x"})
    for metadata in ([], [("authorization", "Bearer wrong")]):
        with pytest.raises(grpc.RpcError) as raised:
            stub.Predictions(request, metadata=metadata, timeout=TIMEOUT)
        assert raised.value.code() == grpc.StatusCode.PERMISSION_DENIED


@pytest.fixture(scope="module")
def oip_server(archive: Path) -> Iterator[Server]:
    """A server that offers the Open Inference Protocol by gRPC, which is off by default."""
    a_line = "\nmodel_store=model_store\n"
    with serving(archive, (a_line, f"{a_line}ts_open_inference_protocol=true\n")) as running:
        yield running


def call(server: Server, method: str, request: Any, answer: Any) -> Any:
    """Call the service under TorchServe's name with the protocol's own messages."""
    with grpc_channel(server) as channel:
        ask = channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        return ask(request, metadata=key(server), timeout=TIMEOUT)


def infer_request(images: Images, datatype: str) -> Any:
    shape = [len(images)] if datatype == "BYTES" else images.shape
    request = oip.ModelInferRequest(model_name="mnist")
    tensor = request.inputs.add(name="images", datatype=datatype, shape=shape)
    if datatype == "UINT8":
        tensor.contents.uint_contents.extend(images.ravel().tolist())
    elif datatype == "FP32":
        tensor.contents.fp32_contents.extend((images / np.float32(255)).ravel().tolist())
    else:
        tensor.contents.bytes_contents.extend(png(image) for image in images)
    return request


@pytest.mark.parametrize("datatype", ["UINT8", "FP32", "BYTES"])
def test_the_open_inference_protocol_where_it_is_switched_on(
    oip_server: Server, mnist_test: Mnist, model: DigitModel, datatype: str
) -> None:
    images = mnist_test[0][:100]
    digits, probabilities = model.predict(images)
    request = infer_request(images, datatype)
    answer = call(oip_server, "ModelInfer", request, oip.ModelInferResponse)
    first, second = answer.outputs
    assert list(first.contents.int64_contents) == digits.tolist()
    served = np.reshape(second.contents.fp32_contents, probabilities.shape)
    assert np.allclose(served, probabilities, atol=1e-6)


def test_its_health(oip_server: Server) -> None:
    assert call(oip_server, "ServerLive", oip.ServerLiveRequest(), oip.ServerLiveResponse).live
    assert call(oip_server, "ServerReady", oip.ServerReadyRequest(), oip.ServerReadyResponse).ready
    ready = oip.ModelReadyRequest(name="mnist")
    assert call(oip_server, "ModelReady", ready, oip.ModelReadyResponse).ready


def test_stock_clients_of_the_open_inference_protocol_find_no_service(
    oip_server: Server, server: Server
) -> None:
    """docs/protocols.md says so; should it begin to work, that is wrong."""
    for running in (server, oip_server):
        with grpc_channel(running) as channel, pytest.raises(grpc.RpcError) as raised:
            GRPCInferenceServiceStub(channel).ServerLive(
                oip.ServerLiveRequest(), metadata=key(running), timeout=TIMEOUT
            )
        assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED
    with pytest.raises(grpc.RpcError) as raised:
        call(server, "ServerLive", oip.ServerLiveRequest(), oip.ServerLiveResponse)
    assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_refusal_by_it_ends_the_worker(oip_server: Server) -> None:
    """Why it is off: TorchServe's front end looks for an answer's outputs, and finds no refusal."""
    request = infer_request(np.zeros((1, 28, 28), np.uint8), "UINT8")
    with pytest.raises(grpc.RpcError) as raised:
        call(oip_server, "ModelInfer", request, oip.ModelInferResponse)
    assert raised.value.code() == grpc.StatusCode.INTERNAL
    assert "Worker died" in raised.value.details()
