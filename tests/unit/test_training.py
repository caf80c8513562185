"""All networks train, calibrate, export and are recorded; the same seed gives the same bytes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from handler.preprocessing import to_tensor
from training import __main__ as cli
from training import cost, export, summary, teacher
from training.augment import Strength, augment
from training.calibrate import find_temperature, fold_temperature
from training.data import DataError, read_mnist
from training.models import ARCHITECTURES, CNN
from training.recipes import RECIPES, Recipe
from training.replica import Replica
from training.train import predict, train

SHORT = {
    "cnn": dataclasses.replace(RECIPES["cnn", "fast"], epochs=1),
    "mlp": dataclasses.replace(RECIPES["mlp", "fast"], epochs=1),
    "teacher": dataclasses.replace(RECIPES["teacher", "default"], epochs=1),
}


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = read_mnist("train")
    return to_tensor(images[:1000]), torch.from_numpy(labels[:1000])


def _train(recipe: Recipe, digits: tuple[torch.Tensor, torch.Tensor]) -> nn.Module:
    return train(recipe, *digits, test_accuracy=lambda _: 0.0)[0]


@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
def test_same_seed_same_bytes(arch: str, digits: tuple[torch.Tensor, torch.Tensor]) -> None:
    first, second = (export.to_bytes(_train(SHORT[arch], digits)) for _ in range(2))
    assert first == second
    other = _train(dataclasses.replace(SHORT[arch], seed=1), digits)
    assert export.to_bytes(other) != first


def test_threads_change_no_weight(digits: tuple[torch.Tensor, torch.Tensor]) -> None:
    recipe = dataclasses.replace(SHORT["cnn"], shards=3, sharpness=0.05)
    alone, history = train(recipe, *digits, test_accuracy=lambda _: 0.0, threads=1)
    together, same = train(recipe, *digits, test_accuracy=lambda _: 0.0, threads=3)
    assert export.weights_sha256(alone) == export.weights_sha256(together)
    assert history == same
    # The shards' own random numbers, norms and ascents do matter.
    whole = _train(dataclasses.replace(recipe, shards=1), digits)
    assert export.weights_sha256(whole) != export.weights_sha256(alone)


def test_shards_have_the_gradients_of_the_whole_batch(
    digits: tuple[torch.Tensor, torch.Tensor],
) -> None:
    # Without dropout and norms the mean over equal shards is the mean over the batch.
    recipe = Recipe("cnn", epochs=1)
    torch.manual_seed(0)
    model = export.fold_batch_norm(CNN()).requires_grad_()
    images, labels = digits[0][:64], digits[1][:64]
    F.cross_entropy(model(images), labels, label_smoothing=0.1).backward()  # type: ignore[no-untyped-call]
    expected = [parameter.grad for parameter in model.parameters()]
    replicas = [Replica(model, recipe, number) for number in (1, 2)]
    for replica, shard in zip(replicas, torch.arange(64).tensor_split(2), strict=True):
        replica.learn(model.parameters(), images[shard], labels[shard], None)
    for want, *found in zip(expected, *(r.gradients for r in replicas), strict=True):
        assert want is not None
        assert torch.allclose(torch.stack(found).mean(0), want, atol=1e-5)


@pytest.mark.parametrize("arch", ["cnn", "teacher"])
def test_training_learns(arch: str, digits: tuple[torch.Tensor, torch.Tensor]) -> None:
    recipe = dataclasses.replace(RECIPES["cnn", "fast"], arch=arch, epochs=6, batch_size=50)
    model = _train(recipe, digits)
    assert (predict(model, digits[0]).argmax(1) == digits[1].numpy()).mean() > 0.95


def test_a_distilled_network_learns_from_the_teacher_alone(
    digits: tuple[torch.Tensor, torch.Tensor],
) -> None:
    recipe = dataclasses.replace(RECIPES["cnn", "default"], epochs=6, batch_size=50)
    wrong = (digits[0], (digits[1] + 1) % 10)
    model = _train(recipe, wrong)
    assert (predict(model, digits[0]).argmax(1) == digits[1].numpy()).mean() > 0.95


def test_the_teacher_is_the_one_that_was_recorded() -> None:
    record = json.loads(teacher.PATH.with_suffix(".json").read_text())
    model = teacher.load()
    assert export.weights_sha256(model) == record["weights_sha256"]
    images, labels = read_mnist("test")
    digits = predict(model, to_tensor(images)).argmax(1)
    assert (digits == labels).sum() == round(10_000 * record["test_accuracy"])


def test_a_teacher_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "teacher.pt"
    monkeypatch.setattr(teacher, "PATH", path)
    with pytest.raises(DataError, match=r"teacher\.pt: expected the teacher .* No such file"):
        teacher.load()
    path.write_bytes(export.to_bytes(CNN()))
    with pytest.raises(DataError, match=r"teacher\.pt: expected the teacher"):
        teacher.load()


@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
def test_the_file_computes_what_the_network_computed(arch: str) -> None:
    torch.manual_seed(0)
    model = ARCHITECTURES[arch]()
    for module in model.modules():  # so that folding the norms has something to do
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features)
            module.running_var = torch.rand(module.num_features) + 0.5
    model.eval()
    saved = export.from_bytes(export.to_bytes(export.fold_batch_norm(model)))
    images = torch.rand(7, 1, 28, 28)
    with torch.inference_mode():
        logits = saved(images)
        assert torch.allclose(logits, model(images), atol=1e-4)
    assert not saved.training
    assert logits.shape == (7, 10)
    assert logits.dtype == torch.float32


def test_folding_removes_every_norm() -> None:
    folded = export.fold_batch_norm(CNN())
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]


def test_not_torchscript() -> None:
    with pytest.raises(RuntimeError):
        export.from_bytes(b"not a model")


def test_weights_sha256_sees_values_names_and_shapes() -> None:
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    before = export.weights_sha256(layer)
    assert export.weights_sha256(layer) == before
    with torch.no_grad():
        layer.weight[0, 0] += 1e-6
    assert export.weights_sha256(layer) != before


def test_temperature_is_found_and_folded() -> None:
    rng = np.random.default_rng(0)
    honest = rng.normal(size=(20_000, 10)).astype(np.float32) * 2
    chances = torch.from_numpy(honest).softmax(1)
    labels = torch.multinomial(chances, 1, generator=torch.Generator().manual_seed(0))[:, 0].numpy()
    # Logits three times too large claim too much: the temperature must be three.
    temperature = find_temperature(honest * 3, labels)
    assert temperature == pytest.approx(3, rel=0.03)
    head = nn.Linear(4, 10)
    inputs = torch.rand(5, 4)
    expected = head(inputs) / temperature
    fold_temperature(head, temperature)
    assert torch.allclose(head(inputs), expected, atol=1e-6)


def test_temperature_minimises_the_likelihood() -> None:
    logits = np.random.default_rng(1).normal(size=(500, 10)).astype(np.float32)
    labels = logits.argmax(1)
    labels[::5] = 0
    best = find_temperature(logits, labels)

    def cost(temperature: float) -> float:
        return float(
            F.cross_entropy(torch.from_numpy(logits) / temperature, torch.from_numpy(labels))
        )

    assert cost(best) <= min(cost(best * 0.98), cost(best * 1.02))


def test_augmentation_keeps_form_and_follows_its_generator(
    digits: tuple[torch.Tensor, torch.Tensor],
) -> None:
    images = digits[0][:64]

    def draw(seed: int) -> torch.Tensor:
        return augment(images, Strength(), torch.Generator().manual_seed(seed))

    first = draw(0)
    assert first.shape == images.shape
    assert first.min() >= 0
    assert first.max() <= 1 + 1e-6
    assert torch.equal(first, draw(0))
    assert not torch.equal(first, draw(1))


def test_augmentation_of_no_strength_changes_nothing(
    digits: tuple[torch.Tensor, torch.Tensor],
) -> None:
    still = Strength(**dict.fromkeys((f.name for f in dataclasses.fields(Strength)), 0.0))
    images = digits[0][:64]
    assert torch.allclose(augment(images, still, torch.Generator()), images, atol=1e-4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "digits.pt"
    arguments = ["--arch", "mlp", "--epochs", "1", "--seed", "3", "--output", str(output)]
    assert cli.main(arguments) == 0
    return output


def test_the_record(trained: Path) -> None:
    record = json.loads(trained.with_suffix(".json").read_text())
    saved = export.from_bytes(trained.read_bytes())
    images, labels = read_mnist("test")
    logits = torch.from_numpy(predict(saved, to_tensor(images)))
    hits = logits.argmax(1).numpy() == labels
    assert record["architecture"] == "mlp"
    assert record["parameters"] == 102_762
    assert record["seed"] == 3
    assert record["recipe"]["epochs"] == 1
    assert record["libraries"]["torch"] == torch.__version__
    assert record["weights_sha256"] == export.weights_sha256(saved)
    assert len(record["epochs"]) == 1
    assert record["test_accuracy"] == hits.mean() > 0.9
    assert sum(record["confusion"][d][d] for d in range(10)) == hits.sum()
    assert np.sum(record["confusion"]) == 10_000
    assert record["temperature"] > 0
    assert record["expected_calibration_error"] < 0.02


def test_interrupted_training_leaves_the_last_good_file(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in trained.parent.iterdir()}

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "train", interrupt)
    assert cli.main(["--output", str(trained)]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in trained.parent.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "--epochs: expected a number above 0, got 0"),
        (["--lr", "nan"], "--lr: expected a number above 0, got nan"),
        (["--batch-size", "60000"], "--batch-size: expected at most 10000"),
        (["--output", "mnist.json"], "expected a file name that ends in .pt"),
        (["--output", "/dev/null/mnist.pt"], "--output"),
        (["--arch", "resnet"], "invalid choice"),
        (["--arch", "teacher", "--preset", "fast"], "the teacher has no preset fast"),
    ],
)
def test_wrong_arguments_fail_before_training(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    assert message in capsys.readouterr().err


def test_summary_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = []
    for seed, share in enumerate([0.996, 0.997, 0.998]):
        record = {
            "seed": seed,
            "test_accuracy": share,
            "expected_calibration_error": 0.002,
            "temperature": 0.5,
        }
        paths.append(tmp_path / f"{seed}.json")
        paths[-1].write_text(json.dumps(record))
    assert summary.main([str(path) for path in paths]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| 0 | 99.60% | 40 | 0.20% | 0.50 |"
    assert lines[-1] == "| **3 runs** | **99.700 % ± 0.100** | 30.0 | 0.20% | |"
    assert summary.main([str(tmp_path / "none.json")]) == 1


def test_cost_is_measured_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = []
    for arch in ("cnn", "mlp"):
        paths.append(str(tmp_path / f"{arch}.pt"))
        network = export.fold_batch_norm(ARCHITECTURES[arch]())
        Path(paths[-1]).write_bytes(export.to_bytes(network))
    cnn, mlp = cost.seconds_per_image([Path(path).read_bytes() for path in paths], rounds=3)
    assert 0 < mlp < cnn
    assert cost.main(paths) == 0
    assert capsys.readouterr().out.count("µs per image") == 2
    assert cost.main([str(tmp_path / "none.pt")]) == 1
