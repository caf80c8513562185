"""Other people's clients, each asking for the digits of images [N,28,28] in one of its ways."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tritonclient.http as triton
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from numpy.typing import NDArray

from client.server import Server
from tests.conftest import TIMEOUT
from tests.images import b64, npy, png

Images = NDArray[np.uint8]
Ask = Callable[[Server, Images], list[int]]
BATCH = 250  # images in a request
GRPC_PORT = 3  # after the inference port

# grpcio compiles it as it is read.
messages, services = grpc.protos_and_services("tests/served/protos/inference.proto")


def authorization(server: Server) -> dict[str, str]:
    """The header that every client has to add; gRPC wants its name in lower case."""
    return {"authorization": f"Bearer {server.key}"}


def in_form(images: Images, form: str) -> tuple[NDArray[Any], str]:
    """Images as the tensor of an Open Inference Protocol datatype, and that datatype."""
    if form == "UINT8":
        return images, "UINT8"
    if form == "FP32":
        return images / np.float32(255), "FP32"
    files = [png(image) for image in images]
    if form == "base64":  # how encoded images travel in JSON
        return np.array([b64(file) for file in files], object), "BYTES"
    return np.array(files, object), "BYTES"


def ask_triton(form: str, binary: bool, compression: str | None = None) -> Ask:
    """`InferenceServerClient.infer` of tritonclient."""

    def ask(server: Server, images: Images) -> list[int]:
        tensor, datatype = in_form(images, form)
        given = triton.InferInput("images", list(tensor.shape), datatype)
        given.set_data_from_numpy(tensor, binary_data=binary)
        # Not shared: the client belongs to the thread that made it.
        with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
            answer = client.infer(
                "mnist",
                [given],
                outputs=[triton.InferRequestedOutput("digit", binary_data=binary)],
                headers=authorization(server),
                request_compression_algorithm=compression,
            )
        digits: list[int] = answer.as_numpy("digit").tolist()
        return digits

    return ask


def ask_kserve_v1(server: Server, images: Images) -> list[int]:
    """`InferenceRESTClient.infer` of kserve, with v1's instances."""
    body = {"instances": [{"b64": b64(png(image))} for image in images]}
    digits: list[int] = kserve_infer(server, "v1", body)["predictions"]
    return digits


def ask_kserve_v2(form: str, binary: bool) -> Ask:
    """The same client with v2's tensors."""

    def ask(server: Server, images: Images) -> list[int]:
        tensor, datatype = in_form(images, form)
        given = InferInput("images", list(tensor.shape), datatype)
        given.set_data_from_numpy(tensor, binary_data=binary)
        answer = kserve_infer(server, "v2", InferRequest("mnist", [given]))
        digits: list[int] = answer.outputs[0].as_numpy().tolist()
        return digits

    return ask


def kserve_infer(server: Server, protocol: str, body: Any) -> Any:
    """One request of kserve's client, which is asynchronous only."""

    async def infer() -> Any:
        async with InferenceRESTClient(RESTConfig(protocol=protocol, timeout=TIMEOUT)) as client:
            headers = authorization(server)
            return await client.infer(server.url, body, model_name="mnist", headers=headers)

    return asyncio.run(infer())


def ask_grpc(field: str, alone: bool) -> Ask:
    """`Predictions` of TorchServe's own gRPC service, each image alone or all in a `.npy` file."""

    def ask(server: Server, images: Images) -> list[int]:
        bodies = [png(image) for image in images] if alone else [npy(images)]
        with grpc_channel(server) as channel:
            stub = services.InferenceAPIsServiceStub(channel)
            requests = [
                messages.PredictionsRequest(model_name="mnist", input={field: body})
                for body in bodies
            ]
            metadata = list(authorization(server).items())
            calls = [
                stub.Predictions.future(request, metadata=metadata, timeout=TIMEOUT)
                for request in requests
            ]
            answers = b",".join(call.result().prediction for call in calls)
        return [int(digit) for digit in answers.strip(b"[]").split(b",")]

    return ask


def grpc_channel(server: Server) -> Any:
    """A connection to the server's gRPC port."""
    return grpc.insecure_channel(f"127.0.0.1:{(server.port or 0) + GRPC_PORT}")


def ask_curl(server: Server, images: Images) -> list[int]:
    """`curl -T`, one file after the other on one connection."""
    address = f"{server.url}/predictions/mnist"
    with tempfile.TemporaryDirectory() as folder:
        settings = [f'header = "Authorization: Bearer {server.key}"']
        for index, image in enumerate(images):
            file = Path(folder, f"{index}.png")
            file.write_bytes(png(image))
            settings += [f'upload-file = "{file}"', f'url = "{address}"']
        command = ["curl", "--silent", "--fail", "--config", "-"]
        printed = subprocess.run(
            command,
            input="\n".join(settings),
            capture_output=True,
            text=True,
            check=True,
            timeout=10 * TIMEOUT,
        ).stdout
    return [int(digit) for digit in printed]


CLIENTS: dict[str, Ask] = {
    "tritonclient, UINT8, binary": ask_triton("UINT8", True),
    "tritonclient, UINT8, JSON": ask_triton("UINT8", False),
    "tritonclient, FP32, binary": ask_triton("FP32", True),
    "tritonclient, FP32, JSON": ask_triton("FP32", False),
    "tritonclient, BYTES, binary": ask_triton("BYTES", True),
    "tritonclient, BYTES, JSON": ask_triton("base64", False),
    "tritonclient, gzip": ask_triton("UINT8", True, "gzip"),
    "tritonclient, deflate": ask_triton("UINT8", True, "deflate"),
    "kserve, v1": ask_kserve_v1,
    "kserve, v2, UINT8, binary": ask_kserve_v2("UINT8", True),
    "kserve, v2, UINT8, JSON": ask_kserve_v2("UINT8", False),
    "kserve, v2, FP32, binary": ask_kserve_v2("FP32", True),
    "kserve, v2, BYTES, binary": ask_kserve_v2("BYTES", True),
    "kserve, v2, BYTES, JSON": ask_kserve_v2("base64", False),
    "grpcio, images alone": ask_grpc("data", True),
    "grpcio, a .npy file": ask_grpc("body", False),
    "curl": ask_curl,
}
