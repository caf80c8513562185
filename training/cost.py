"""Time per image of saved models, side by side: frozen, batches of 64, one thread.

python -m training.cost model_store/mlp.pt model_store/mnist.pt

The first model is the yardstick. Processor time is counted, not the clock's, the models take
turns in short rounds, and each is given the median of its rounds: whatever else the machine does
disturbs little, and all of them alike. A round is several batches, so that each model finds its
weights in the cache, as on a busy server.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from training import export

BATCH = 64
ROUNDS = 40
BATCHES = 20  # in one round


def seconds_per_image(contents: Sequence[bytes], rounds: int = ROUNDS) -> list[float]:
    """Return for each TorchScript file's content the processor seconds per image."""
    models = [export.freeze(export.from_bytes(content)) for content in contents]
    images = torch.rand(BATCH, 1, 28, 28)
    times: list[list[float]] = [[] for _ in models]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for number in range(rounds + 1):
                for model, record in zip(models, times, strict=True):
                    started = time.thread_time()
                    for _ in range(BATCHES):
                        model(images)
                    if number:  # the first round profiles and compiles the graph
                        record.append(time.thread_time() - started)
    finally:
        torch.set_num_threads(threads)
    return [statistics.median(record) / (BATCHES * BATCH) for record in times]


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m training.cost", description="Compare the time per image of saved models."
    )
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL")
    models = parser.parse_args(argv).models
    try:
        times = seconds_per_image([path.read_bytes() for path in models])
    except (OSError, RuntimeError) as error:
        print(f"cost: {str(error).splitlines()[0]}", file=sys.stderr)
        return 1
    for path, seconds in zip(models, times, strict=True):
        print(f"{path}: {seconds * 1e6:.2f} µs per image, {seconds / times[0]:.1f} × {models[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
