"""What a request may look like, one module a protocol, and the choice between them.

A protocol turns a request into `Decoded`: its images, and a function that writes its answer.
Nothing here knows TorchServe: a request is its form fields and headers, an answer is bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from handler.arrays import MAX_IMAGES, Images
from handler.deadline import check_time
from handler.errors import RequestError, TooLarge, Unreadable
from handler.explain import Attribution
from handler.labels import LABELS

MOST_PARTS = 40 * MAX_IMAGES
"""Lists, objects and quotation marks of a JSON document; an image has 30 of them at most.

Three bytes of each would become 90 in memory, and take longer than the images of a batch may.
"""


class Headers(dict[str, Any]):
    """The headers of a request, as they came, and what TorchServe adds to them.

    A header's value is a string, under the client's casing of its name; TorchServe adds, for each
    field, a dict with its content type, under the field's name. What they say is found out once:
    clients send the same headers again and again, and `handler.wire` then gives the same object.
    """

    @cached_property
    def lower(self) -> Mapping[str, str]:
        """The headers by their names in lower case; of two that differ in casing, the first."""
        headers = [(name.lower(), value) for name, value in self.items() if isinstance(value, str)]
        return dict(reversed(headers))

    @cached_property
    def is_grpc(self) -> bool:
        """Whether the request came by gRPC: it has no header then, and so no `url_path` either."""
        return not self.lower

    @cached_property
    def is_kserve(self) -> bool:
        """Whether a KServe address was called (/v1/models/… or /v2/models/…).

        TorchServe tells the path behind /predictions and /explanations in `url_path`, which is
        missing for the other two; those two can be told apart by the body alone.
        """
        return "url_path" not in self and not self.is_grpc

    @cached_property
    def explains(self) -> bool:
        """Whether an explanation was asked for, by its address.

        TorchServe sets the header `explain`, in this casing, over whatever the client sent.
        """
        return self.get("explain") == "True"


class Request(NamedTuple):
    """One HTTP or gRPC request, as the server hands it over.

    `fields` holds the form fields by name, or the whole body under `body`; `id` is the answer's
    `x-request-id`.
    """

    fields: Mapping[str, bytes | bytearray]
    headers: Headers
    id: str = ""


class Predictions(NamedTuple):
    """What the model says of one request's images: digits int64 [N], probabilities float32 [N,10].

    The images refused are in `refusals` by index; their digits and probabilities mean nothing.
    `attributions` has one for each other image, by index, if the request asked for them.
    """

    digits: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    refusals: Mapping[int, RequestError]
    attributions: Mapping[int, Attribution] = {}

    def labels(self) -> list[Any]:
        """The label of each image, or `{"error": {…}}` in the place of a refused one."""
        labels: list[Any] = [LABELS[digit] for digit in self.digits.tolist()]
        for index, refusal in self.refusals.items():
            labels[index] = refusal.as_dict()
        return labels

    @property
    def status(self) -> int:
        """200 if anything could be predicted, else the status of the first refusal."""
        if len(self.refusals) < len(self.digits):
            return 200
        return self.refusals[0].status


class Answer(NamedTuple):
    """One HTTP answer; `headers` are those beyond `Content-Type`."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = {}


class Decoded(NamedTuple):
    """A request understood: N ≥ 1 images, and how its answer is written.

    `images` is [N,28,28] in MNIST's form, uint8 0..255 or float32 0..1; an image in `refusals`
    keeps its place there, so that indices agree. `targets` is None for a prediction; for an
    explanation it names the class to explain by image, None meaning the predicted one.
    """

    images: Images
    refusals: Mapping[int, RequestError]
    encode: Callable[[Predictions], Answer]
    targets: Sequence[int | None] | None = None


def looks_like_json(body: bytes | bytearray) -> bool:
    """Whether a body begins as a JSON object or list, which no image file does."""
    return body[:64].lstrip()[:1] in (b"{", b"[")


def load_json(body: bytes | bytearray) -> Any:
    """Parse JSON.

    Raises:
        Unreadable: it is broken, with the place.
        TooLarge: it has more parts than any request needs.
        Busy: there is no time left for it.
    """
    check_time()
    if sum(body.count(part) for part in (b"[", b"{", b'"')) > MOST_PARTS:
        raise TooLarge(f"expected JSON with at most {MAX_IMAGES} images in it, got many more parts")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Unreadable(
            f"expected JSON, got broken JSON at line {error.lineno}, column {error.colno}"
        ) from error
