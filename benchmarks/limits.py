"""What one thread can do without any server: the limits that a server is measured against."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from handler.model import DigitModel, freeze, optimise
from handler.preprocessing import prepare_image, to_tensor

BATCHES = (64, 128, 256, 1000)


def measure(
    model: Path, images: NDArray[np.uint8], bodies: Sequence[bytes], seconds: float
) -> Iterator[tuple[str, float]]:
    """Images a second on one thread.

    Args:
        model: the TorchScript file.
        images: at least 1,000 of them, [N,28,28].
        bodies: encoded images.
        seconds: for each limit.

    Yields:
        `decode`: encoded images to pixels in MNIST's form;
        `frozen@N`: the frozen network alone, on a ready float32 batch of N;
        `optimised@N`: the same in oneDNN's layouts, as it is served on a CPU;
        `decode+model@64`: from encoded images to digits.
    """
    torch.set_num_threads(1)
    served = DigitModel(model)  # also sets how freed memory is kept, for every limit alike
    yield "decode", len(bodies) / _time(lambda: [prepare_image(body) for body in bodies], seconds)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.filterwarnings("ignore", message=r"[\s\S]*torch\.jit")
        network = torch.jit.load(str(model), map_location="cpu")  # type: ignore[no-untyped-call]
        network.eval()
        frozen, optimised = freeze(network), optimise(freeze(network), torch.device("cpu"))
        for name, layout in (("frozen", frozen), ("optimised", optimised)):
            for size in BATCHES:
                batch = to_tensor(images[:size])
                yield f"{name}@{size}", size / _time(_call(layout, batch), seconds)

    def decode_and_predict() -> None:
        served.predict(np.stack([prepare_image(body) for body in bodies]))

    yield f"decode+model@{len(bodies)}", len(bodies) / _time(decode_and_predict, seconds)


def _call(network: Callable[[torch.Tensor], object], batch: torch.Tensor) -> Callable[[], object]:
    return lambda: network(batch)


def _time(work: Callable[[], object], seconds: float) -> float:
    """Median seconds of a call."""
    for _ in range(5):
        work()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)
