"""How good a served model is: the report of `evaluation`, on what a running server answers.

`python -m training.evaluate` writes the same report on the model in process.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from client.api import DigitClient
from client.errors import UsageError
from client.images import ImageLike
from client.prediction import Prediction, raise_lost
from client.testset import read_test_set
from evaluation.labels import LabelsError, read_labels, thumbnail
from evaluation.metrics import REFUSED
from evaluation.report import Evaluation
from handler.errors import RequestError
from handler.preprocessing import prepare_image

Images = list[NDArray[np.uint8]] | NDArray[np.uint8]


def evaluate_mnist(client: DigitClient, data_dir: Path | None = None) -> Evaluation:
    """Ask for all of MNIST's 10,000 test images.

    Raises:
        UsageError: the data are missing, truncated or altered.
        ClientError: the server cannot be reached, or was lost on the way.
    """
    images, labels = read_test_set(data_dir)
    title = "MNIST test set"
    names = [f"test image {index}" for index in range(len(labels))]
    predictions = _ask(client, title, images)
    return _evaluation(title, labels, predictions, names=names, inputs=images, normalised=images)


def evaluate_folder(client: DigitClient, folder: Path) -> Evaluation:
    """Ask for the images that a folder's LABELS.tsv lists, each as the file it is.

    Raises:
        UsageError: the list, or a file that it names, is missing or not as expected.
        ClientError: the server cannot be reached, or was lost on the way.
    """
    try:
        files = read_labels(folder)
    except LabelsError as error:
        raise UsageError(str(error)) from error
    labels = np.array([file.digit for file in files], np.int64)
    title = folder.resolve().name
    predictions = _ask(client, title, [file.path for file in files])
    unseen = np.zeros((28, 28), np.uint8)
    inputs = [unseen] * len(files)
    normalised = [unseen] * len(files)
    for index, (file, prediction) in enumerate(zip(files, predictions, strict=True)):
        if prediction.digit != file.digit:  # only the misses are shown
            body = file.path.read_bytes()
            inputs[index] = thumbnail(body)
            normalised[index] = _as_the_model_saw_it(body)
    names = [file.name for file in files]
    return _evaluation(
        title, labels, predictions, names=names, inputs=inputs, normalised=normalised
    )


def _ask(client: DigitClient, title: str, images: Iterable[ImageLike]) -> list[Prediction]:
    with tqdm(desc=title, unit="image", leave=False, disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        predictions = client.predict(images, probabilities=True, progress=progress)
    raise_lost(predictions)
    return predictions


def _evaluation(  # noqa: PLR0913  (one for each attribute)
    title: str,
    labels: NDArray[np.int64],
    predictions: list[Prediction],
    *,
    names: list[str],
    inputs: Images,
    normalised: Images,
) -> Evaluation:
    nothing = np.zeros(10, np.float32)
    return Evaluation(
        title=f"{title}, served",
        labels=labels,
        digits=np.array([REFUSED if p.digit is None else p.digit for p in predictions], np.int64),
        probabilities=np.stack(
            [nothing if p.probabilities is None else p.probabilities for p in predictions]
        ),
        names=names,
        inputs=inputs,
        normalised=normalised,
        refusals={index: str(p.error) for index, p in enumerate(predictions) if p.error},
    )


def _as_the_model_saw_it(body: bytes) -> NDArray[np.uint8]:
    try:
        return prepare_image(body)
    except RequestError:
        return np.zeros((28, 28), np.uint8)  # the model saw nothing
