"""What the metrics address of a real TorchServe says of known requests, to the last count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
import yaml
from numpy.typing import NDArray

from client.server import REPOSITORY, Server
from handler.metrics import BOUNDS, LABEL_NAMES
from handler.model import DigitModel
from handler.preprocessing import prepare_image
from tests.conftest import TIMEOUT, serving
from tests.fragile import fragile_archive
from tests.metrics import PHOTO, Series, npy, read, read_until, send_every_kind


@pytest.fixture(scope="module")
def fragile_server(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of its own, so that no other test's requests are counted, and one that can fail."""
    with serving(fragile_archive(model_file, tmp_path_factory.mktemp("fragile"))) as running:
        yield running


def changes(before: dict[Series, float], after: dict[Series, float]) -> dict[Series, float]:
    """By how much each counter that is no time has grown, where it has."""
    grown = {series: value - before.get(series, 0) for series, value in after.items()}
    return {
        series: value
        for series, value in grown.items()
        if value and "seconds" not in series[0] and "microseconds" not in series[0]
    }


def test_known_requests_are_counted_exactly(
    fragile_server: Server,
    model: DigitModel,
    mnist_test: tuple[NDArray[np.uint8], NDArray[np.int64]],
) -> None:
    images = mnist_test[0]
    # The start has sent one request, the proof that it serves.
    before = read_until(fragile_server, lambda now: now.get(("mnist_confidence_count", "")) == 1)
    answers = send_every_kind(fragile_server, images)
    assert [answer.status_code for answer in answers] == [
        200,
        200,
        200,
        400,
        400,
        200,
        200,
        200,
        200,
    ]
    seen = np.stack([*images[[0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8]], prepare_image(PHOTO)])
    digits, probabilities = model.predict(seen)
    confidences = probabilities.max(axis=1)
    expected: dict[Series, float] = {
        ("mnist_requests_total", "plain"): 4,  # no_image among them, but no broken JSON
        ("mnist_requests_total", "form"): 1,
        ("mnist_requests_total", "v1"): 1,
        ("mnist_requests_total", "v2"): 1,
        ("mnist_requests_total", "explain"): 1,
        ("mnist_images_total", ""): len(seen) + 1,  # the refused instance holds its place
        ("mnist_normalised_total", ""): 1,
        ("mnist_errors_total", "unreadable"): 3,
        ("mnist_confidence_count", ""): len(seen),
        ("mnist_confidence_bucket", "+Inf"): len(seen),
        ("mnist_batches_total", ""): len(answers),  # one after the other
        ("Requests4XX", ""): 2,
        ("ts_inference_requests_total", ""): len(answers),
    }
    for digit, count in Counter(digits.tolist()).items():
        expected["mnist_predictions_total", str(digit)] = count
    for bound in BOUNDS.tolist():
        if (confidences <= bound).any():
            expected["mnist_confidence_bucket", str(bound)] = int((confidences <= bound).sum())
    total_confidence = ("mnist_confidence_sum", "")

    def counted(now: dict[Series, float]) -> dict[Series, float]:
        grown = changes(before, now)
        grown.pop(total_confidence, None)
        return grown

    after = read_until(fragile_server, lambda now: counted(now) == expected)
    assert counted(after) == expected
    total = after[total_confidence] - before[total_confidence]
    assert total == pytest.approx(float(confidences.sum()), abs=1e-4)

    for name in ("decode", "model", "busy"):
        series = (f"mnist_{name}_seconds_total", "")
        assert after[series] > before[series]
    parts = ("mnist_decode_seconds_total", ""), ("mnist_model_seconds_total", "")
    assert sum(after[part] for part in parts) < after["mnist_busy_seconds_total", ""]


def test_a_fault_is_counted_and_logged_with_the_id_that_the_client_has(
    fragile_server: Server, mnist_test: tuple[NDArray[np.uint8], NDArray[np.int64]]
) -> None:
    before = read(fragile_server)
    image = mnist_test[0][:1].copy()
    image[0, 0, 0] = 1
    answer = requests.post(
        f"{fragile_server.url}/predictions/mnist",
        data=npy(image),
        headers={"Authorization": f"Bearer {fragile_server.key}"},
        timeout=TIMEOUT,
    )
    assert answer.status_code == 500
    series = ("mnist_errors_total", "internal")
    after = read_until(fragile_server, lambda now: bool(changes(before, now).get(series)))
    assert changes(before, after)[series] == 1
    assert after["Requests5XX", ""] == before.get(("Requests5XX", ""), 0) + 1
    log = fragile_server.log.read_text()
    assert f"500, for the reason above: request {answer.headers['x-request-id']}" in log
    assert "broken on purpose" in log


def test_the_front_end_declares_what_the_handler_reports() -> None:
    declared = yaml.safe_load((REPOSITORY / "metrics.yaml").read_text())["model_metrics"]
    assert list(declared) == ["counter"]
    assert {metric["name"]: metric["dimensions"] for metric in declared["counter"]} == {
        name: [label] if label else [] for name, label in LABEL_NAMES.items()
    }
