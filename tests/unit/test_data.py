"""MNIST is found, checked, cached; what is wrong with it is said in one line."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from training import data
from training.__main__ import main
from training.data import REPOSITORY, DataError, mnist_dataset, read_mnist, unpack

TEST_FILES = ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]


def _copy(folder: Path, *, plain: bool = False) -> Path:
    folder.mkdir(parents=True)
    for name in TEST_FILES:
        packed = REPOSITORY / "data" / f"{name}.gz"
        if plain:
            (folder / name).write_bytes(gzip.decompress(packed.read_bytes()))
        else:
            shutil.copy(packed, folder)
    return folder


def test_shapes_types_and_known_digits() -> None:
    images, labels = read_mnist("test")
    assert images.shape == (10_000, 28, 28)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert np.bincount(read_mnist("train")[1]).sum() == 60_000


def test_torchvision_reads_the_same(tmp_path: Path) -> None:
    images, labels = read_mnist("test")
    dataset = mnist_dataset("test", cache_dir=tmp_path)
    assert np.array_equal(dataset.data.numpy(), images)
    assert dataset.targets.tolist() == labels.tolist()


@pytest.mark.parametrize("inside", [".", "raw", "MNIST/raw"])
@pytest.mark.parametrize("plain", [False, True])
def test_another_folder(tmp_path: Path, inside: str, plain: bool) -> None:
    _copy(tmp_path / "mine" / inside, plain=plain)
    assert read_mnist("test", tmp_path / "mine")[1][0] == 7


def test_environment_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNIST_DIR", str(tmp_path))
    with pytest.raises(DataError, match="is not in"):
        read_mnist("test")


def test_truncated(tmp_path: Path) -> None:
    file = _copy(tmp_path / "mine") / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(DataError, match="truncated") as caught:
        read_mnist("test", tmp_path / "mine")
    assert "\n" not in str(caught.value)


def test_altered_by_one_bit(tmp_path: Path) -> None:
    file = _copy(tmp_path / "mine", plain=True) / "t10k-labels-idx1-ubyte"
    content = bytearray(file.read_bytes())
    content[5000] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"expected SHA-256 ff7bcfd416de…, got \w{12}…"):
        read_mnist("test", tmp_path / "mine")


def test_damaged_cache_is_replaced(tmp_path: Path) -> None:
    damaged = unpack(cache_dir=tmp_path) / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    damaged.write_bytes(b"half a file")
    assert len(mnist_dataset("test", cache_dir=tmp_path)) == 10_000
    assert damaged.stat().st_size == 10_008


def test_unpacking_at_once(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            unpack(cache_dir=tmp_path)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    files = sorted(path.name for path in (tmp_path / "MNIST" / "raw").iterdir())
    assert files == sorted(data.SHA256)  # and no temporary file is left


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")

    def fail(_: Path, __: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        data.write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_command_says_it_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out" / "mnist.pt"
    assert main(["--data-dir", str(tmp_path), "--output", str(output)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--data-dir" in error
    assert not output.exists()


def test_reading_needs_neither_torch_nor_torchvision() -> None:
    code = (
        "import sys; from training.data import read_mnist; read_mnist('test'); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0
