"""The commands behind `python -m client`: each takes a client and its options, and prints.

All of them return the exit code. What is lost with the server is raised, what is refused is told.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from client import files
from client.api import DigitClient
from client.errors import NotOffered, Refused, UsageError
from client.images import encode, png
from client.plot import grid_figure
from client.prediction import Prediction, raise_lost

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALL_PREDICTED, SOME_REFUSED = 0, 1
FILES_AT_ONCE = 1024  # the lines appear as it goes
EXPLAINED_AT_ONCE = 64  # in one picture


def predict(client: DigitClient, names: list[str], as_json: bool, probabilities: bool) -> int:
    """Print a line for each image file: its name, a tab, its digit."""
    named = list(files.find(names))
    write = _print_json if as_json else _print_line
    code = ALL_PREDICTED
    for start in range(0, len(named), FILES_AT_ONCE):
        batch = named[start : start + FILES_AT_ONCE]
        predictions = client.predict([image for _, image in batch], probabilities=probabilities)
        for (name, _), prediction in zip(batch, predictions, strict=True):
            write(name, prediction)
        sys.stdout.flush()
        raise_lost(predictions)
        code = max(code, exit_code(predictions))
    return code


def plot(  # noqa: PLR0913  (one for each option)
    client: DigitClient,
    *,
    output: Path,
    grid: tuple[int, int],
    seed: int | None,
    data_dir: Path | None,
    show: bool,
) -> int:
    """Draw random test digits with what the server says about them, each sent alone as a PNG."""
    from client.testset import read_test_set  # noqa: PLC0415  (only where it is needed)

    images, labels = read_test_set(data_dir)
    rows, columns = grid
    seed = secrets.randbelow(2**32) if seed is None else seed
    chosen = np.random.default_rng(seed).choice(len(labels), rows * columns, replace=False)
    images, labels = images[chosen], labels[chosen]
    encoded = [png(Image.fromarray(image)) for image in images]
    try:
        predictions = client.predict(encoded, probabilities=True)
    except NotOffered:  # a server without the protocol that has probabilities
        predictions = client.predict(encoded)
    raise_lost(predictions)
    _save(grid_figure(images, labels, predictions, rows, columns), output)
    right = sum(p.digit == label for p, label in zip(predictions, labels, strict=True))
    print(f"{output}: {right} of {len(labels)} right (seed {seed})")
    if show:
        _show(output)
    return exit_code(predictions)


def evaluate(client: DigitClient, folders: list[Path], output: Path, data_dir: Path | None) -> int:
    """Write a report on MNIST's test set, or on each folder of images with a LABELS.tsv."""
    # They bring matplotlib and the preprocessing along.
    from client.evaluate import evaluate_folder, evaluate_mnist  # noqa: PLC0415
    from evaluation.report import write_report  # noqa: PLC0415

    code = ALL_PREDICTED
    for folder in folders or (None,):
        evaluation = evaluate_folder(client, folder) if folder else evaluate_mnist(client, data_dir)
        stem = f"{folder.resolve().name if folder else 'mnist'}-served"
        print(evaluation.summary())
        print(f"report: {write_report(evaluation, output, stem)}")
        if evaluation.refusals:
            code = SOME_REFUSED
    return code


def explain(client: DigitClient, names: list[str], target: int | None, output: Path) -> int:
    """Print a line for each image file, its name, its digit and the target; draw why."""
    # They bring the preprocessing along.
    from client.explain import Explained, heat_figure  # noqa: PLC0415
    from handler.errors import RequestError  # noqa: PLC0415
    from handler.preprocessing import prepare_image  # noqa: PLC0415

    named = list(files.find(names))
    if len(named) > EXPLAINED_AT_ONCE:
        raise UsageError(f"expected at most {EXPLAINED_AT_ONCE} images, got {len(named)}")
    drawn = []
    for name, image in named:
        try:
            body = encode(image)
            explanation = client.explain(body, target=target)
            # Drawn over what the model saw of it.
            drawn.append(Explained(name, prepare_image(body), explanation))
        except (Refused, RequestError) as error:
            complain(f"{_on_one_line(name)}: {error}")
            continue
        print(_on_one_line(name), explanation.digit, explanation.target, sep="\t", flush=True)
    if drawn:
        _save(heat_figure(drawn), output)
        print(f"{output}: {len(drawn)} of {len(named)} explained")
    return ALL_PREDICTED if len(drawn) == len(named) else SOME_REFUSED


def exit_code(predictions: Iterable[Prediction]) -> int:
    """Return 0 if every image was predicted, else 1."""
    return SOME_REFUSED if any(prediction.error for prediction in predictions) else ALL_PREDICTED


def complain(message: str) -> None:
    """Write one line to standard error."""
    print(message, file=sys.stderr)


def _print_line(name: str, prediction: Prediction) -> None:
    name = _on_one_line(name)
    if isinstance(prediction.error, Refused):
        complain(f"{name}: {prediction.error}")
    elif prediction.digit is not None:
        row = () if prediction.probabilities is None else prediction.probabilities
        print(name, prediction.digit, *(f"{p:.4f}" for p in row), sep="\t")


def _on_one_line(name: str) -> str:
    return name.replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def _print_json(name: str, prediction: Prediction) -> None:
    record: dict[str, object] = {"name": name}
    if prediction.error:
        record["error"] = {"code": prediction.error.code, "message": str(prediction.error)}
    else:
        record["digit"] = prediction.digit
    if prediction.probabilities is not None:
        record["confidence"] = prediction.confidence
        record["probabilities"] = prediction.probabilities.tolist()
    print(json.dumps(record))  # ASCII, whatever the name


def _save(figure: Figure, output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(output)
    except ValueError as error:  # matplotlib does not know the suffix
        raise UsageError(f"{output}: {error}") from error


def _show(picture: Path) -> None:
    """Open the picture in the desktop's viewer, if there is a desktop."""
    headless = sys.platform not in ("darwin", "win32") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    if headless:
        complain(f"There is no display; the picture is in {picture}.")
    else:
        with Image.open(picture) as image:
            image.show()
