"""LitServe: FastAPI in front, a worker process behind queues, batching in the worker."""

# No `from __future__ import annotations`: LitServe reads the types at run time.
from typing import Annotated

import litserve
from fastapi import Body, Response

from benchmarks.peers import shared
from handler.arrays import Images


class Digits(litserve.LitAPI):
    """The verbs of LitServe, and how it joins and splits a batch."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        """Load the model in the worker."""
        self.model = shared.load()

    def decode_request(self, request: Annotated[bytes, Body()]) -> Images:
        """Decode one request."""
        return shared.decode(request)

    def batch(self, inputs: list[Images]) -> list[Images]:
        """Keep the requests apart: they may hold several images each."""
        return inputs

    def predict(self, x: list[Images]) -> list[bytes]:
        """Predict a batch of requests."""
        return shared.answer(self.model, x)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        """One answer a request."""
        return output

    def encode_response(self, output: bytes) -> Response:
        """The answer is encoded already."""
        return Response(output, media_type="application/json")


if __name__ == "__main__":
    api = Digits(max_batch_size=shared.BATCH, batch_timeout=shared.WAIT)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=shared.WORKERS)
    server.run(host="127.0.0.1", port=shared.PORT, log_level="warning", generate_client_file=False)
