"""The commands behind `digits`: each takes a client and its options, and prints.

All of them return the exit code. What is lost with the server is raised, what is refused is told.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import webbrowser
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from client import files
from client.api import DigitClient, Progress
from client.errors import NotOffered, Refused, ServerBusy, UsageError
from client.images import encode, png
from client.prediction import Prediction, raise_lost

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALL_PREDICTED, SOME_REFUSED = 0, 1
FILES_AT_ONCE = 1024  # the lines appear as it goes
EXPLAINED_AT_ONCE = 64  # in one picture
T = TypeVar("T")


def predict(client: DigitClient, names: list[str], as_json: bool, probabilities: bool) -> int:
    """Print a line for each image file: its name, a tab, its digit."""
    named = list(files.find(names))
    write = _print_json if as_json else _print_line
    code = ALL_PREDICTED
    starts = range(0, len(named), FILES_AT_ONCE)
    # Where the lines appear on a terminal, they are the progress.
    for start in starts if sys.stdout.isatty() else _watched(starts, "predicting"):
        batch = named[start : start + FILES_AT_ONCE]
        predictions = client.predict([image for _, image in batch], probabilities=probabilities)
        for (name, _), prediction in zip(batch, predictions, strict=True):
            write(name, prediction)
        sys.stdout.flush()
        raise_lost(p for p in predictions if not isinstance(p.error, ServerBusy))
        code = max(code, exit_code(predictions))
    return code


def plot(client: DigitClient, options: Namespace) -> int:
    """Draw random test digits, or misses among them, with what the server says about them."""
    # Slow to import, as matplotlib is, and only needed here.
    from client.plot import grid_figure  # noqa: PLC0415
    from client.testset import read_test_set  # noqa: PLC0415
    from evaluation import style  # noqa: PLC0415

    images, labels = read_test_set(options.data_dir)
    rows, columns = options.grid
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    candidates = np.arange(len(labels))
    if options.only_misses:
        with _progress("looking for misses", len(labels)) as progress:
            found = client.predict(images, progress=progress)
        raise_lost(found)
        candidates = np.flatnonzero([p.digit for p in found] != labels)
    count = min(len(candidates), rows * columns)
    chosen = np.random.default_rng(seed).choice(candidates, count, replace=False)
    images, labels = images[chosen], labels[chosen]
    encoded = [png(Image.fromarray(image)) for image in images]
    try:
        predictions = client.predict(encoded, probabilities=True)
    except NotOffered:  # a server without the protocol that has probabilities
        predictions = client.predict(encoded)
    raise_lost(predictions)
    explanations = None
    if options.explain:
        explanations = [
            None if prediction.error else client.explain(image)
            for image, prediction in zip(_watched(encoded), predictions, strict=True)
        ]
    with style.theme(dark=options.dark):
        figure = grid_figure(images, labels, predictions, rows, columns, explanations)
        _save(figure, options.output)
    right = sum(p.digit == int(label) for p, label in zip(predictions, labels, strict=True))
    _tell(
        options.json,
        {"output": str(options.output), "right": right, "images": count, "seed": seed},
        f"{options.output}: {right} of {count} right (seed {seed})",
    )
    if options.show:
        _show(options.output)
    return exit_code(predictions)


def evaluate(client: DigitClient, options: Namespace) -> int:
    """Write a report on MNIST's test set, or on each folder of images with a LABELS.tsv."""
    # They bring matplotlib and the preprocessing along.
    from client.evaluate import evaluate_folder, evaluate_mnist  # noqa: PLC0415
    from evaluation import style  # noqa: PLC0415
    from evaluation.labels import LabelsError, report_names  # noqa: PLC0415
    from evaluation.report import write_report  # noqa: PLC0415

    try:
        names = report_names(options.folders) or ["mnist"]
    except LabelsError as error:
        raise UsageError(str(error)) from error
    code = ALL_PREDICTED
    for name, folder in zip(names, options.folders or (None,), strict=True):
        evaluation = (
            evaluate_folder(client, folder) if folder else evaluate_mnist(client, options.data_dir)
        )
        with style.theme(dark=options.dark):
            report = write_report(evaluation, options.output, f"{name}-served")
        share = evaluation.accuracy
        _tell(
            options.json,
            {
                "title": evaluation.title,
                "images": len(evaluation.labels),
                "accuracy": share.value,
                "accuracy_interval": [share.low, share.high],
                "misses": len(evaluation.misses),
                "refusals": len(evaluation.refusals),
                "calibration_error": evaluation.calibration_error,
                "report": str(report),
            },
            f"{evaluation.summary()}\nreport: {report}",
        )
        if evaluation.refusals:
            code = SOME_REFUSED
    return code


def explain(client: DigitClient, options: Namespace) -> int:
    """Print a line for each image file, its name, its digit and the target; draw why."""
    # They bring the preprocessing along.
    from client.explain import Explained, heat_figure  # noqa: PLC0415
    from evaluation import style  # noqa: PLC0415
    from handler.errors import RequestError  # noqa: PLC0415
    from handler.preprocessing import prepare_image  # noqa: PLC0415

    named = list(files.find(options.files))
    if len(named) > EXPLAINED_AT_ONCE:
        raise UsageError(f"expected at most {EXPLAINED_AT_ONCE} images, got {len(named)}")
    drawn = []
    for name, image in _watched(named):
        try:
            body = encode(image)
            explanation = client.explain(body, target=options.target)
            # Drawn over what the model saw of it.
            drawn.append(Explained(name, prepare_image(body), explanation))
        except (Refused, RequestError) as error:
            if options.json:
                refusal = {"code": error.code, "message": str(error)}
                print(json.dumps({"name": name, "error": refusal}), flush=True)
            else:
                complain(f"{_on_one_line(name)}: {error}")
            continue
        _tell(
            options.json,
            {
                "name": name,
                "digit": explanation.digit,
                "target": explanation.target,
                "attributions": explanation.attributions.tolist(),
            },
            f"{_on_one_line(name)}\t{explanation.digit}\t{explanation.target}",
        )
    if drawn:
        with style.theme(dark=options.dark):
            _save(heat_figure(drawn), options.output)
        if not options.json:
            print(f"{options.output}: {len(drawn)} of {len(named)} explained")
    return ALL_PREDICTED if len(drawn) == len(named) else SOME_REFUSED


def draw(client: DigitClient, options: Namespace) -> int:
    """Serve the page to draw on until it is interrupted."""
    from client.draw import DrawServer  # noqa: PLC0415  (it brings the preprocessing along)

    with DrawServer(client, options.port) as server:
        _tell(
            options.json,
            {"url": server.url, "server": client.url},
            f"Draw at {server.url} (asks {client.url}; Ctrl-C ends it)",
        )
        if not options.no_browser:
            webbrowser.open(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return ALL_PREDICTED


def exit_code(predictions: Iterable[Prediction]) -> int:
    """Return 0 if every image was predicted, else 1."""
    return SOME_REFUSED if any(prediction.error for prediction in predictions) else ALL_PREDICTED


def complain(message: str) -> None:
    """Write one line to standard error, in red where that is a terminal that has colours."""
    coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    print(f"\x1b[31m{message}\x1b[0m" if coloured else message, file=sys.stderr)


def _tell(as_json: bool, record: dict[str, object], text: str) -> None:
    print(json.dumps(record) if as_json else text, flush=True)


@contextmanager
def _progress(title: str, count: int) -> Iterator[Progress]:
    """A bar on standard error, if that is a terminal and the work takes over a second."""
    with tqdm(desc=title, total=count, leave=False, disable=None, delay=1) as bar:

        def progress(done: int, _: int) -> None:
            bar.update(done - bar.n)

        yield progress


def _watched(things: Sequence[T], title: str = "explaining") -> Iterable[T]:
    """The things, with such a bar."""
    return tqdm(things, desc=title, leave=False, disable=None, delay=1)


def _print_line(name: str, prediction: Prediction) -> None:
    name = _on_one_line(name)
    if isinstance(prediction.error, (Refused, ServerBusy)):
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
    from evaluation.style import save  # noqa: PLC0415

    try:
        save(figure, output)
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
