"""Evaluate a trained model in process, and write a report with pictures.

    python -m training.evaluate                  # on MNIST's 10,000 test images
    python -m training.evaluate FOLDER           # on a folder of images with a LABELS.tsv

`python -m client evaluate` writes the same report on what a running server answers.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from evaluation.labels import LabelsError, read_labels, report_names, thumbnail
from evaluation.metrics import REFUSED
from evaluation.report import Evaluation, write_report
from handler.errors import RequestError
from handler.model import DigitModel, ModelError
from handler.preprocessing import prepare_image
from training.data import REPOSITORY, DataError, read_mnist


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate", description="Evaluate a trained model in process."
    )
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--model", type=Path, default=REPOSITORY / "model_store" / "mnist.pt")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "reports")
    parser.add_argument("--data-dir", type=Path, help="folder with MNIST's idx files")
    arguments = parser.parse_args(argv)
    try:
        model = DigitModel(arguments.model)
        if not arguments.folders:
            _write(evaluate_mnist(model, arguments.data_dir), arguments.output, "mnist")
        for name, folder in zip(report_names(arguments.folders), arguments.folders, strict=True):
            _write(evaluate_folder(model, folder), arguments.output, name)
    except (DataError, LabelsError, ModelError, OSError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 1
    return 0


def evaluate_mnist(model: DigitModel, data_dir: Path | None = None) -> Evaluation:
    """Evaluate on the 10,000 test images.

    Raises:
        DataError: a file of MNIST is missing, truncated or altered.
    """
    images, labels = read_mnist("test", data_dir)
    digits, probabilities = model.predict(images)
    names = [f"test image {index}" for index in range(len(labels))]
    return Evaluation("MNIST test set", labels, digits, probabilities, names, images, images)


def evaluate_folder(model: DigitModel, folder: Path) -> Evaluation:
    """Evaluate on the images of a folder with LABELS.tsv, prepared as the server prepares them.

    Raises:
        LabelsError: the list, or a file that it names, is missing or not as expected.
    """
    files = read_labels(folder)
    inputs: list[npt.NDArray[np.uint8]] = []
    normalised = np.zeros((len(files), 28, 28), np.uint8)
    refusals = {}
    for index, file in enumerate(tqdm(files, folder.name, unit="image", leave=False)):
        body = file.path.read_bytes()
        inputs.append(thumbnail(body))
        try:
            normalised[index] = prepare_image(body)
        except RequestError as refusal:
            refusals[index] = str(refusal)
    digits, probabilities = model.predict(normalised)
    digits[list(refusals)] = REFUSED
    return Evaluation(
        title=folder.resolve().name,
        labels=np.array([file.digit for file in files]),
        digits=digits,
        probabilities=probabilities,
        names=[file.name for file in files],
        inputs=inputs,
        normalised=normalised,
        refusals=refusals,
    )


def _write(evaluation: Evaluation, folder: Path, stem: str) -> None:
    print(evaluation.summary())
    print(f"report: {write_report(evaluation, folder, stem)}")


if __name__ == "__main__":
    sys.exit(main())
