"""Where pixels become model input; training, handler, client and tests all import this module.

1. An image that has MNIST's form already (28×28, one channel, dark border) passes untouched.
2. Any other is brought into that form by `handler.normalising`.
3. One with nothing legible in it is refused.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from handler.deadline import check_time
from handler.decoding import Bytes, Pixels, decode_image
from handler.errors import Busy, NoDigit, RequestError
from handler.metrics import METRICS
from handler.normalising import SIDE, normalise

__all__ = ["has_mnist_form", "normalise", "prepare_image", "prepare_images", "to_tensor"]

Images = NDArray[np.uint8] | NDArray[np.float32]

_grid = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
_RING = np.concatenate([_grid[0], _grid[-1], _grid[1:-1, 0], _grid[1:-1, -1]])
# Of 255. MNIST's brightest ring has a mean of 8.4, where a stroke touches it; JPEG adds a little.
# A photographed blackboard is brighter, and the lightest ink on paper leaves the ring above 200.
DARK_RING = 16
# Of 255. MNIST's images all reach 254; what stays below this is too faint for the model.
BRIGHT_INK = 96


def to_tensor(images: Images) -> torch.Tensor:
    """Images [N, 28, 28] to model input float32 [N, 1, 28, 28] in [0, 1].

    uint8 is scaled exactly as torchvision's `ToTensor` does (converted, then divided by 255);
    float32 in [0, 1] passes as it is.
    """
    tensor = torch.from_numpy(images).unsqueeze(1)
    return tensor if tensor.dtype == torch.float32 else tensor.to(torch.float32).div_(255)


def has_mnist_form(images: Images) -> NDArray[np.bool_]:
    """For images [N, 28, 28], uint8 or float in [0, 1]: bool [N], dark border and bright ink."""
    flat = images.reshape(len(images), SIDE * SIDE)
    full = 255.0 if flat.dtype == np.uint8 else 1.0
    dark = flat[:, _RING].mean(axis=1) <= DARK_RING / 255 * full
    form: NDArray[np.bool_] = dark & (flat.max(axis=1) >= BRIGHT_INK / 255 * full)
    return form


_FAINT = bytes(range(BRIGHT_INK))


def _is_mnist(image: Pixels) -> bool:
    """`has_mnist_form` of one image [28, 28] without NumPy's cost per call: 1 µs, not 6."""
    raw = image.tobytes()
    ring = raw[:28] + raw[-28:] + raw[28:-28:28] + raw[55:-28:28]
    # Most rings are black and most strokes white, which takes less time to see than to add up.
    dark = not ring.strip(b"\0") or sum(ring) <= DARK_RING * len(ring)
    return dark and (255 in raw or raw.translate(None, _FAINT) != b"")


def prepare_image(body: Bytes) -> Pixels:
    """One encoded image to uint8 [28, 28], ready for `to_tensor`.

    Raises Unreadable, TooLarge, Busy (see `decode_image`, and where memory is short) or NoDigit.
    """
    try:
        pixels = decode_image(body)
        if pixels.shape == (SIDE, SIDE) and _is_mnist(pixels):
            return pixels
        METRICS.totals["mnist_normalised_total"] += 1
        return normalise(pixels)
    except (MemoryError, cv2.error) as error:
        if isinstance(error, cv2.error) and error.code != cv2.Error.StsNoMem:
            raise
        raise Busy(
            "the server has no memory for this image; send a smaller one, or ask again"
        ) from error


def prepare_images(images: Images) -> tuple[Images, dict[int, RequestError]]:
    """Images given as numbers [N, 28, 28], uint8 or float32 in [0, 1], ready for `to_tensor`.

    Returns images of the same shape and type, and the refusals by index; a refused image is
    all zeros. Where every image has MNIST's form, the array itself is returned.
    """
    form = has_mnist_form(images)
    if form.all():
        return images, {}
    METRICS.totals["mnist_normalised_total"] += int((~form).sum())
    ready = images.copy()
    refusals: dict[int, RequestError] = {}
    for i in np.flatnonzero(~form).tolist():
        pixels = images[i] if images.dtype == np.uint8 else np.rint(images[i] * 255)
        try:
            check_time()
            clean = normalise(pixels.astype(np.uint8))
        except (Busy, NoDigit) as refusal:
            # A new one: the raised one holds its frames, and these the pixels of every step.
            refusals[i] = type(refusal)(refusal.message)
            clean = np.zeros((SIDE, SIDE), np.uint8)
        ready[i] = clean if images.dtype == np.uint8 else clean.astype(np.float32) / 255
    return ready, refusals
