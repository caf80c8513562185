"""mosec: a Rust front end, Python workers behind Unix sockets, batching in Rust."""

from __future__ import annotations

from mosec import Server, Worker

from benchmarks.peers import shared
from handler.arrays import Images


class Digits(Worker):
    """Decodes, predicts and encodes in one stage: a second process would only add a copy."""

    def __init__(self) -> None:
        super().__init__()
        self.model = shared.load()

    def deserialize(self, data: bytes) -> Images:
        """Decode one request."""
        return shared.decode(data)

    def forward(self, data: list[Images]) -> list[bytes]:
        """Predict a batch of requests."""
        return shared.answer(self.model, data)

    def serialize(self, data: bytes) -> bytes:
        """The answer is encoded already."""
        return data


if __name__ == "__main__":
    server = Server()
    server.append_worker(
        Digits,
        num=shared.WORKERS,
        max_batch_size=shared.BATCH,
        max_wait_time=int(shared.WAIT * 1000),
    )
    server.run()
