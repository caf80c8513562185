"""The plain form: an encoded image or a `.npy` file as the body or in form fields; JSON back."""

from __future__ import annotations

import orjson

from handler.arrays import (
    MAX_IMAGES,
    NPY_MAGIC,
    Images,
    as_images,
    decode_each,
    one_image,
    parse_npy,
)
from handler.errors import TooLarge, Unreadable
from handler.labels import LABELS
from handler.preprocessing import prepare_image
from handler.protocols import Answer, Decoded, Predictions, Request

_ONE = [Answer(200, orjson.dumps(label)) for label in LABELS]


def decode_body(body: bytes | bytearray) -> Decoded:
    """Read a body that is one encoded image, or a `.npy` file of one or more images.

    Raises:
        RequestError: it cannot be read, or none of its images holds a digit.
    """
    if body[: len(NPY_MAGIC)] != NPY_MAGIC:
        return Decoded(prepare_image(body)[None], {}, _encode_one)
    array = parse_npy(body)
    images, refusals = as_images(array)
    if len(refusals) == len(images):
        raise refusals[0]
    single = array.shape in ((28, 28), (784,))
    return Decoded(images, refusals, _encode_one if single else _encode_list)


def decode_form(request: Request) -> Decoded:
    """Read a form whose fields are an image each, and answer by their names.

    Raises:
        RequestError: there is no field, or more than `MAX_IMAGES`.
    """
    fields = request.fields
    if not fields:
        raise Unreadable(_explain_no_field(request))
    if len(fields) > MAX_IMAGES:
        raise TooLarge(f"expected at most {MAX_IMAGES} form fields, got {len(fields)}")
    images, refusals = decode_each(fields.values(), decode_single)

    def encode(predictions: Predictions) -> Answer:
        answers = dict(zip(fields, predictions.labels(), strict=True))
        return Answer(predictions.status, orjson.dumps(answers))

    return Decoded(images, refusals, encode)


def decode_single(body: bytes | bytearray) -> Images:
    """Read a body that must hold exactly one image: [1,28,28], uint8 or float32.

    Raises:
        RequestError: it cannot be read, holds no digit, or more than one image.
    """
    if body[: len(NPY_MAGIC)] == NPY_MAGIC:
        return one_image(parse_npy(body))
    return prepare_image(body)[None]


def _encode_one(predictions: Predictions) -> Answer:
    return _ONE[int(predictions.digits[0])]


def _encode_list(predictions: Predictions) -> Answer:
    return Answer(predictions.status, orjson.dumps(predictions.labels()))


def _explain_no_field(request: Request) -> str:
    content_type = request.headers.lower.get("content-type", "")
    if content_type.startswith("application/x-www-form-urlencoded"):
        return (
            "expected an image as the body, got a form: TorchServe drops bodies of type "
            "application/x-www-form-urlencoded (curl's default for -d and --data-binary); send "
            "the file with `curl -T digit.png`, `curl -F data=@digit.png` or another content type"
        )
    return "expected an image as the body or in a form field, got none"
