"""Pixels to model input: MNIST untouched, the rest in its form, nothing illegible guessed."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms.functional import to_tensor as torchvision_to_tensor

from handler.errors import NoDigit, RequestError, TooLarge, Unreadable
from handler.model import DigitModel
from handler.normalising import has_strict_form, normalise
from handler.preprocessing import (
    _is_mnist,
    has_mnist_form,
    prepare_image,
    prepare_images,
    to_tensor,
)
from tests.images import png, png_chunk, png_header_only
from training.data import read_mnist

Pixels = NDArray[np.uint8]
Mnist = tuple[Pixels, NDArray[np.int64]]


@pytest.fixture(scope="module")
def all_images(mnist_test: Mnist) -> Pixels:
    return np.concatenate([read_mnist("train")[0], mnist_test[0]])


def test_all_of_mnist_is_scaled_as_torchvision_scales_it(all_images: Pixels) -> None:
    ours = to_tensor(all_images)
    assert ours.shape == (70_000, 1, 28, 28)
    scale = torchvision_to_tensor(np.arange(256, dtype=np.uint8).reshape(16, 16, 1)).ravel()
    assert torch.equal(ours[:, 0], scale[torch.from_numpy(all_images).long()])
    for image, tensor in zip(all_images[::7000], ours[::7000], strict=True):
        assert torch.equal(tensor, torchvision_to_tensor(image[:, :, None]))


def test_all_of_mnist_passes_untouched(all_images: Pixels) -> None:
    images, refusals = prepare_images(all_images)
    assert images is all_images
    assert refusals == {}
    assert all(_is_mnist(image) for image in all_images)
    assert all(has_strict_form(image) for image in all_images)


def test_every_test_image_as_a_file_comes_back_bit_for_bit(mnist_test: Mnist) -> None:
    for image in mnist_test[0]:
        assert np.array_equal(prepare_image(png(image)), image)


def test_the_check_for_mnists_form_can_fail(all_images: Pixels) -> None:
    """Inverted, bright at the border, faint or empty: none of it passes untouched."""
    digits = all_images[::70]
    for other in (255 - digits, np.maximum(digits, 40), digits // 4, np.zeros_like(digits)):
        assert not has_mnist_form(other).any()
        assert not any(_is_mnist(image) for image in other)
        assert not has_mnist_form((other / 255).astype(np.float32)).any()


def test_floats_pass_and_are_judged_alike(mnist_test: Mnist) -> None:
    floats = (mnist_test[0][:100] / 255).astype(np.float32)
    floats[3] = 0
    floats[5] = 1 - floats[5]
    images, refusals = prepare_images(floats)
    assert images.dtype == np.float32
    assert list(refusals) == [3]
    assert np.array_equal(images[6:], floats[6:])
    assert np.allclose(images[5], mnist_test[0][5] / 255, atol=1 / 255)


def enlarged(image: Pixels, factor: int) -> Pixels:
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC).astype(
        np.uint8
    )


def shaded(image: Pixels) -> Pixels:
    light = np.linspace(0.75, 1.0, image.shape[1])
    return ((255 - image * 0.8) * light).astype(np.uint8)


def pasted(image: Pixels) -> Pixels:
    canvas = np.zeros((400, 500), np.uint8)
    canvas[20:132, 350:462] = image
    return canvas


def as_jpeg(image: Pixels) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=70)
    return np.asarray(Image.open(file))


DISTORTIONS: dict[str, Callable[[Pixels], Pixels]] = {
    "enlarged ×4": lambda image: enlarged(image, 4),
    "enlarged ×20": lambda image: enlarged(image, 20),
    "inverted": lambda image: 255 - image,
    "inverted ×10": lambda image: 255 - enlarged(image, 10),
    "blue on cream": lambda image: (
        np.array([250, 240, 210]) - enlarged(image, 8)[..., None] / 255 * np.array([200, 160, 60])
    ).astype(np.uint8),
    "JPEG": lambda image: as_jpeg(255 - enlarged(image, 8)),
    "on a larger canvas": lambda image: pasted(enlarged(image, 4)),
    "shaded": lambda image: shaded(enlarged(image, 10)),
}


@pytest.mark.parametrize("name", DISTORTIONS)
def test_distorted_digits_are_still_recognised(
    model: DigitModel, mnist_test: Mnist, name: str
) -> None:
    images, labels = mnist_test[0][:500], mnist_test[1][:500]
    plain = (model.predict(images)[0] == labels).sum()
    distorted = np.stack([normalise(DISTORTIONS[name](image)) for image in images])
    assert (model.predict(distorted)[0] == labels).sum() >= plain - 5  # 1 % of 500
    for image in distorted:
        assert np.array_equal(prepare_image(png(image)), image)  # what it puts out, it passes


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((28, 28), np.uint8),
        np.full((28, 28), 255, np.uint8),
        np.full((300, 200), 128, np.uint8),
        np.full((300, 200, 3), (200, 180, 160), np.uint8),
        np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8),
        np.random.default_rng(1).integers(0, 256, (200, 200), np.uint8),
        np.random.default_rng(2).normal(128, 20, (200, 200)).clip(0, 255).astype(np.uint8),
        np.tile(np.linspace(40, 220, 200).astype(np.uint8), (200, 1)),
        cv2.rectangle(np.full((200, 200), 255, np.uint8), (20, 20), (180, 180), 0, 6),
    ],
)
def test_what_holds_no_digit_is_refused(picture: Pixels) -> None:
    with pytest.raises(NoDigit):
        prepare_image(png(picture))


def test_pictures_of_every_size_end_in_form_or_in_a_reason() -> None:
    random = np.random.default_rng(0)
    for _ in range(300):
        height, width = (int(side) for side in random.integers(1, 120, 2))
        shape = (height, width, 3) if random.random() < 0.5 else (height, width)
        picture = random.integers(0, 256, shape, np.uint8) // int(random.integers(1, 200))
        try:
            image = normalise(picture)
        except NoDigit:
            continue
        assert image.shape == (28, 28)
        assert image.dtype == np.uint8


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def with_transparent_colour(image: Image.Image, grey: int) -> bytes:
    """A 16-bit PNG with the tRNS chunk that Pillow does not write for it."""
    body = encoded(image, "PNG")
    return body[:33] + png_chunk(b"tRNS", struct.pack("!H", grey)) + body[33:]


def test_every_format_and_mode_shows_the_same_digit(model: DigitModel, mnist_test: Mnist) -> None:
    grey = Image.fromarray(255 - enlarged(mnist_test[0][0], 8))
    clear = Image.new("RGBA", grey.size, (0, 0, 0, 0))
    clear.paste((20, 30, 90, 255), mask=Image.fromarray(enlarged(mnist_test[0][0], 8)))
    sixteen = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    turned = Image.Exif()
    turned[0x0112] = 6  # shown rotated by 90° clockwise
    bodies = [
        *(encoded(grey, kind) for kind in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")),
        encoded(grey.convert("1"), "PNG"),
        encoded(grey.convert("P"), "PNG"),
        encoded(grey.convert("RGB"), "JPEG"),
        encoded(grey.convert("CMYK"), "JPEG"),
        encoded(sixteen, "PNG"),
        encoded(sixteen, "TIFF"),
        encoded(Image.fromarray(np.asarray(sixteen).astype(">u2")), "TIFF"),
        with_transparent_colour(sixteen, 65_535),
        encoded(grey, "PNG", transparency=255),
        encoded(Image.fromarray(np.asarray(grey) / np.float32(255)), "TIFF"),
        encoded(Image.fromarray(np.asarray(grey).astype(np.int32) * 200), "TIFF"),
        encoded(clear, "PNG"),
        encoded(clear, "WEBP"),
        encoded(grey.rotate(90, expand=True), "JPEG", exif=turned),
    ]
    images = np.stack([prepare_image(body) for body in bodies])
    assert model.predict(images)[0].tolist() == [7] * len(bodies)


def test_a_digit_saved_in_colour_keeps_its_pixels(mnist_test: Mnist) -> None:
    for image in mnist_test[0][:100]:
        assert np.array_equal(prepare_image(png(np.stack([image] * 3, axis=2))), image)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", Unreadable),
        (b"seven", Unreadable),
        (png_header_only(10_000, 10_000), TooLarge),
        (png_header_only(1, 60_000), TooLarge),
        (png_header_only(100, 100)[:60], Unreadable),
        (b"%PDF-1.4 " + bytes(100), Unreadable),
    ],
)
def test_what_cannot_be_read_says_why(body: bytes, error: type[RequestError]) -> None:
    with pytest.raises(error) as caught:
        prepare_image(body)
    assert len(caught.value.message) > 20


def test_no_damaged_file_gets_past_the_fast_path(mnist_test: Mnist) -> None:
    """Each byte of a PNG flipped, each length cut: the same pixels, or a refusal."""
    image = mnist_test[0][0]
    whole = png(image)
    refused = 0
    for index in range(len(whole)):
        for damaged in (
            whole[:index],
            whole[:index] + bytes([whole[index] ^ 0x55]) + whole[index + 1 :],
        ):
            try:
                assert np.array_equal(prepare_image(damaged), image)
            except RequestError:
                refused += 1
    assert refused > len(whole)


@pytest.mark.parametrize("width", range(4, 40))
def test_a_bare_stroke_of_any_width_is_placed(width: int) -> None:
    """A box two pixels wide once looked like a list of points to OpenCV's moments."""
    picture = np.full((240, 240), 255, np.uint8)
    picture[40:200, 100 : 100 + width] = 0
    assert has_mnist_form(normalise(picture)[None]).all()
