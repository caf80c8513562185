"""Metrics against values worked out by hand; reports on files with known answers."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation import pictures, style
from evaluation.labels import LabelsError, read_labels, thumbnail
from evaluation.metrics import (
    REFUSED,
    accuracy,
    calibration_bins,
    confusion,
    expected_calibration_error,
    precision_recall,
    wilson,
)
from evaluation.report import Evaluation, caption, write_report
from handler.model import DigitModel
from training import evaluate
from training.data import read_mnist


def _probabilities(*rows: tuple[int, float]) -> np.ndarray:
    """Rows that give one digit its probability and share the rest out evenly."""
    table = np.zeros((len(rows), 10), np.float32)
    for row, (digit, share) in zip(table, rows, strict=True):
        row[:] = (1 - share) / 9
        row[digit] = share
    return table


def test_wilson_by_hand() -> None:
    # 8 of 10 at z = 2: centre (0.8 + 0.2) / 1.4, half 2 * sqrt(0.016 + 0.01) / 1.4
    interval = wilson(8, 10, z=2)
    assert interval.value == 0.8
    assert interval.low == pytest.approx(1 / 1.4 - 2 * 0.026**0.5 / 1.4)
    assert interval.high == pytest.approx(1 / 1.4 + 2 * 0.026**0.5 / 1.4)


def test_wilson_at_the_ends() -> None:
    assert wilson(0, 5).low == 0
    assert wilson(5, 5).high == 1
    # All of n right: the lower bound is n / (n + z²).
    assert wilson(365, 365, z=2).low == pytest.approx(365 / 369)
    for successes, trials in [(1, 0), (-1, 5), (6, 5)]:
        with pytest.raises(ValueError, match="expected 0 <= successes"):
            wilson(successes, trials)


def test_accuracy_counts_a_refusal_as_wrong() -> None:
    assert accuracy(np.array([1, 2, 3, 4]), np.array([1, 2, 3, REFUSED])).value == 0.75


def test_confusion_and_what_follows_from_it() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    matrix = confusion(labels, np.array([0, 0, 1, 1, REFUSED, 1]))
    assert matrix.shape == (10, 11)
    assert matrix[0, :2].tolist() == [2, 1]
    assert matrix[1, [1, 10]].tolist() == [1, 1]
    assert matrix[2, 1] == 1
    assert matrix.sum() == 6
    precision, recall = precision_recall(matrix)
    assert precision[:2].tolist() == [1.0, 1 / 3]
    assert recall[:3].tolist() == [2 / 3, 1 / 2, 0.0]
    assert np.isnan(precision[2])
    assert np.isnan(recall[3])


def test_calibration_by_hand() -> None:
    # Two predictions at 0.9 of which one is right, and one right at 0.5:
    # (2 * |0.9 - 0.5| + 1 * |0.5 - 1|) / 3
    labels = np.array([3, 3, 5])
    probabilities = _probabilities((3, 0.9), (4, 0.9), (5, 0.5))
    assert expected_calibration_error(labels, probabilities) == pytest.approx(1.3 / 3)
    low, high = calibration_bins(labels, probabilities)
    assert (low.count, low.accuracy) == (1, 1.0)
    assert (high.count, high.accuracy) == (2, 0.5)
    assert high.confidence == pytest.approx(0.9)
    assert low.low < 0.5 <= low.high


def test_full_confidence_falls_into_the_last_bin() -> None:
    (only,) = calibration_bins(np.array([1]), np.eye(10, dtype=np.float32)[[1]])
    assert only.high == 1
    assert expected_calibration_error(np.array([1]), np.eye(10)[[1]]) == 0
    assert np.isnan(expected_calibration_error(np.array([], np.int64), np.empty((0, 10))))


def _example() -> Evaluation:
    images = np.zeros((4, 28, 28), np.uint8)
    return Evaluation(
        title="four",
        labels=np.array([7, 7, 3, 0]),
        digits=np.array([7, 1, 3, REFUSED]),
        probabilities=_probabilities((7, 0.9), (1, 0.6), (3, 0.8), (0, 1.0)),
        names=["anna__a.png", "anna__b.png", "bert__c|d.png", "bert__e.png"],
        inputs=[images[0], np.zeros((40, 20, 3), np.uint8), images[2], images[3]],
        normalised=images,
        refusals={3: "nothing legible"},
    )


def test_report(tmp_path: Path) -> None:
    text = write_report(_example(), tmp_path / "reports", "four").read_text()
    assert "# four" in text
    assert "**Accuracy 50.00%**" in text
    assert "4 images, 2 missed, of which 1 refused" in text
    assert "| 7 | 2 | 100.00% | 50.00% |" in text
    assert "| anna | 2 | 1 | 50.00% (9.45% to 90.55%) |" in text
    assert "| anna__b.png | 7 | 1 60%, 0 4% |" in text
    assert "| bert__e.png | 0 | refused: nothing legible |" in text
    for name in ("confusion", "calibration", "misses"):
        assert f"(four-{name}.png)" in text
        with Image.open(tmp_path / "reports" / f"four-{name}.png") as picture:
            picture.load()


def test_report_without_misses_or_sources(tmp_path: Path) -> None:
    images = np.zeros((1, 28, 28), np.uint8)
    perfect = Evaluation(
        "one", np.array([2]), np.array([2]), _probabilities((2, 1.0)), ["a.png"], images, images
    )
    text = write_report(perfect, tmp_path, "one").read_text()
    assert text.endswith("## Misses\n\nNone.\n")
    assert "Per source" not in text


def test_report_where_everything_was_refused(tmp_path: Path) -> None:
    images = np.zeros((1, 28, 28), np.uint8)
    nothing = Evaluation(
        "none",
        np.array([2]),
        np.array([REFUSED]),
        np.zeros((1, 10), np.float32),
        ["a.png"],
        images,
        images,
        {0: "blank"},
    )
    assert "1 missed, of which 1 refused" in write_report(nothing, tmp_path, "none").read_text()


def test_caption_names_the_two_best_guesses() -> None:
    assert caption(_example(), 1).startswith("actual 7\n1 60%, ")
    assert caption(_example(), 3) == "actual 0\nrefused"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a.png 7\n", "line 1: expected path<tab>digit"),
        ("a.png\t7\nb.png\tseven\n", "line 2: expected path<tab>digit"),
        ("a.png\t7\n\nb.png\t7\n", r"line 3: there is no file .*b\.png"),
        ("\n", "lists no images"),
        (None, r"LABELS\.tsv cannot be read"),
    ],
)
def test_bad_label_files(tmp_path: Path, content: str | None, message: str) -> None:
    (tmp_path / "a.png").touch()
    if content is not None:
        (tmp_path / "LABELS.tsv").write_text(content)
    with pytest.raises(LabelsError, match=message):
        read_labels(tmp_path)


def test_thumbnails() -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (400, 200), (0, 0, 0, 0)).save(buffer, "png")
    assert thumbnail(buffer.getvalue()).shape == (56, 112, 3)
    assert (thumbnail(buffer.getvalue()) == 255).all()  # transparent means paper
    assert thumbnail(b"no image").shape == (112, 112, 3)


def test_the_command_on_a_folder(
    tmp_path: Path, model_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = read_mnist("test")
    folder = tmp_path / "mine"
    folder.mkdir()
    lines = []
    for index in range(20):
        Image.fromarray(images[index]).resize((280, 280)).save(folder / f"{index}.png")
        lines.append(f"{index}.png\t{labels[index]}\n")
    Image.new("L", (100, 100), 255).save(folder / "blank.png")
    (folder / "LABELS.tsv").write_text("".join(lines) + "blank.png\t0\n")
    output = tmp_path / "reports"
    arguments = ["--model", str(model_file), "--output", str(output), str(folder)]
    assert evaluate.main(arguments) == 0
    assert "1 refused" in capsys.readouterr().out
    assert "21 images" in (output / "mine.md").read_text()


def test_the_command_names_what_is_missing(
    tmp_path: Path, model_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main(["--model", str(tmp_path / "no.pt")]) == 1
    assert evaluate.main(["--model", str(model_file), str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "no.pt" in error
    assert "LABELS.tsv" in error


def test_on_mnist(model: DigitModel) -> None:
    result = evaluate.evaluate_mnist(model)
    assert result.accuracy.value > 0.99
    assert result.calibration_error < 0.005
    assert len(result.misses) == round(10_000 * (1 - result.accuracy.value))


@pytest.mark.parametrize("dark", [False, True])
def test_a_miss_is_visible_on_its_sheet(tmp_path: Path, dark: bool) -> None:
    ink = np.full((28, 28), 255, np.uint8)
    paths = [tmp_path / "sheet.png", tmp_path / "sheet.svg"]
    with style.theme(dark=dark):
        pictures.draw_misses([pictures.Miss(ink, np.zeros_like(ink), "actual 1")], *paths)
    assert paths[1].read_text().startswith("<?xml")
    sheet = np.asarray(Image.open(paths[0]).convert("L"))
    left, right = sheet[60, 60], sheet[60, 190]
    assert (left, right) == (255, 0)
    assert (sheet[-1, -1] < 40) == dark
