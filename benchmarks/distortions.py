"""Accuracy on the 10,000 test images, each distorted in ways that pictures of digits are.

    python -m benchmarks.distortions --model model_store/mnist.pt

Every image is distorted, encoded, and sent through `prepare_image`, as the server would. Prints
a Markdown table: the distortion, what it does, the accuracy, the refusals, and the median time
from encoded bytes to model input. Only the first two rows take the path of an image that has
MNIST's form already.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from handler.errors import RequestError
from handler.preprocessing import prepare_image, to_tensor
from training.data import read_mnist

Pixels = NDArray[np.uint8]
Random = np.random.Generator


@dataclass(frozen=True)
class Distortion:
    """One way to spoil a digit: uint8 [28, 28], light on dark, to pixels and a file format."""

    name: str
    apply: Callable[[Pixels, Random], Pixels]
    extension: str = ".png"
    quality: int = 95

    def encode(self, image: Pixels, random: Random) -> bytes:
        spoiled = self.apply(image, random)
        if spoiled.ndim == 3:
            spoiled = cv2.cvtColor(spoiled, cv2.COLOR_RGB2BGR).astype(np.uint8)
        settings = [cv2.IMWRITE_JPEG_QUALITY, self.quality] if self.extension == ".jpg" else []
        return cv2.imencode(self.extension, spoiled, settings)[1].tobytes()


def enlarged(image: Pixels, factor: float, how: int = cv2.INTER_CUBIC) -> Pixels:
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=how).astype(np.uint8)


def inverted(image: Pixels) -> Pixels:
    return (255 - image).astype(np.uint8)


def coloured(image: Pixels, random: Random) -> Pixels:
    """Ink and ground of two random colours that differ by at least 100 of 255 in brightness."""
    while True:
        ground, ink = random.uniform(0, 255, (2, 3))
        if abs(float((ink - ground) @ (0.299, 0.587, 0.114))) >= 100:
            break
    share = image[..., None] / 255
    mixed: Pixels = np.rint(ground * (1 - share) + ink * share).astype(np.uint8)
    return mixed


def pasted(image: Pixels, random: Random, width: int, height: int) -> Pixels:
    """Somewhere on a black canvas of the given size."""
    h, w = image.shape
    y, x = random.integers(0, height - h + 1), random.integers(0, width - w + 1)
    canvas = np.zeros((height, width), np.uint8)
    canvas[y : y + h, x : x + w] = image
    return canvas


def shaded(image: Pixels, random: Random, depth: float = 0.35, grain: float = 4) -> Pixels:
    """Dark ink on paper whose light falls off by `depth` across it, with grain of that σ."""
    h, w = image.shape
    angle = random.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-0.5 : 0.5 : h * 1j, -0.5 : 0.5 : w * 1j]
    light = 1 - depth * (0.5 + (x * np.cos(angle) + y * np.sin(angle)) / np.sqrt(2))
    paper = (230 - 190 * (image / 255.0)) * light + random.normal(0, grain, (h, w))
    rounded: Pixels = np.clip(np.rint(paper), 0, 255).astype(np.uint8)
    return rounded


def all_together(image: Pixels, random: Random) -> Pixels:
    """Enlarged, off-centre, shaded and grainy, on a random place of a larger page."""
    large = enlarged(image, random.uniform(4, 10))
    return shaded(pasted(large, random, 480, 360), random)


DISTORTIONS = (
    Distortion("none", lambda image, _: image),
    Distortion("JPEG quality 70, 28×28", lambda image, _: image, ".jpg", 70),
    Distortion("inverted, 28×28", lambda image, _: inverted(image)),
    Distortion("enlarged ×4", lambda image, _: enlarged(image, 4)),
    Distortion("enlarged ×4, nearest", lambda image, _: enlarged(image, 4, cv2.INTER_NEAREST)),
    Distortion("enlarged ×7.3, linear", lambda image, _: enlarged(image, 7.3, cv2.INTER_LINEAR)),
    Distortion("enlarged ×10", lambda image, _: enlarged(image, 10)),
    Distortion("enlarged ×20", lambda image, _: enlarged(image, 20)),
    Distortion("enlarged ×10, inverted", lambda image, _: inverted(enlarged(image, 10))),
    Distortion("coloured, 28×28", coloured),
    Distortion("coloured, enlarged ×8", lambda image, r: coloured(enlarged(image, 8), r)),
    Distortion("JPEG quality 70, ×8", lambda image, _: enlarged(image, 8), ".jpg", 70),
    Distortion(
        "JPEG quality 70, coloured, ×8",
        lambda image, r: coloured(enlarged(image, 8), r),
        ".jpg",
        70,
    ),
    Distortion("pasted off-centre on 100×80", lambda image, r: pasted(image, r, 100, 80)),
    Distortion(
        "enlarged ×6, pasted on 640×480", lambda image, r: pasted(enlarged(image, 6), r, 640, 480)
    ),
    Distortion("lightly shaded, 28×28", lambda image, r: shaded(image, r, 0.2, 2)),
    Distortion("lightly shaded, ×10", lambda image, r: shaded(enlarged(image, 10), r)),
    Distortion("×4–×10, pasted, shaded, grain, JPEG 70", all_together, ".jpg", 70),
)


@dataclass(frozen=True)
class Score:
    """What a distortion did to the whole test set."""

    accuracy: float
    refused: int
    median_ms: float


def measure(
    distortion: Distortion,
    images: Pixels,
    labels: NDArray[np.int64],
    model: torch.nn.Module,
    seed: int = 0,
) -> Score:
    """Distort, prepare and classify every image; a refused one counts as wrong."""
    random = np.random.default_rng(seed)
    ready = np.zeros_like(images)
    legible = np.ones(len(images), bool)
    times = []
    for i, image in enumerate(tqdm(images, desc=distortion.name, leave=False, disable=None)):
        body = distortion.encode(image, random)
        start = time.perf_counter()
        try:
            ready[i] = prepare_image(body)
        except RequestError:
            legible[i] = False
        times.append(time.perf_counter() - start)
    with torch.inference_mode():
        digits = torch.cat([model(batch).argmax(1) for batch in torch.split(to_tensor(ready), 500)])
    right = (digits.numpy() == labels) & legible
    return Score(float(right.mean()), int((~legible).sum()), float(np.median(times)) * 1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("model_store/mnist.pt"))
    parser.add_argument("--limit", type=int, default=10_000, help="how many of the test images")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    model = torch.jit.load(str(arguments.model)).eval()  # type: ignore[no-untyped-call]
    images, labels = read_mnist("test")
    images, labels = images[: arguments.limit], labels[: arguments.limit]
    print(f"| distortion ({len(images)} images each) | accuracy | refused | ms |")
    print("|---|---|---|---|")
    for distortion in DISTORTIONS:
        score = measure(distortion, images, labels, model, arguments.seed)
        print(
            f"| {distortion.name} | {score.accuracy:.2%} | {score.refused} "
            f"| {score.median_ms:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
