"""Bundle the model and this package into `model_store/mnist.mar`, byte for byte reproducibly.

    python -m handler.archive --model model_store/mnist.pt --export-path model_store

`torch-model-archiver` lays out the archive; two things in what it writes change at every run, the
date in the manifest and the times of the files, so the archive is packed again without them.

The package goes into the archive as the package `handler`, beside the entry file that TorchServe
loads: its modules have one name each, in the repository and in the archive. Beside both lies
`sitecustomize.py`, which Python runs when a worker starts.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

MODEL_NAME = "mnist"
VERSION = "1.0"  # config.properties names it too: TorchServe ignores settings of other versions
PACKAGE = Path(__file__).resolve().parent
ENTRY = PACKAGE / "mnist_handler.py"
STARTUP = PACKAGE / "sitecustomize.py"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip file can hold


def build(model: Path, export_path: Path) -> Path:
    """Write `mnist.mar`.

    Args:
        model: the TorchScript file.
        export_path: the folder to write into, usually the model store.

    Returns:
        The archive's path. It is replaced in one step: a reader sees the old one or the new one.

    Raises:
        FileNotFoundError: there is no model.
        subprocess.CalledProcessError: torch-model-archiver failed; it has printed why.
    """
    if not model.is_file():
        raise FileNotFoundError(f"no model at {model}; `make model` trains one")
    export_path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        left_out = ("__pycache__", "*.yaml", ENTRY.name, STARTUP.name, Path(__file__).name)
        shutil.copytree(
            PACKAGE, work / "extra" / PACKAGE.name, ignore=shutil.ignore_patterns(*left_out)
        )
        shutil.copyfile(STARTUP, work / "extra" / STARTUP.name)
        _run_archiver(model, work)
        return _pack(work / MODEL_NAME, export_path / f"{MODEL_NAME}.mar")


def _run_archiver(model: Path, work: Path) -> None:
    named = work / f"{MODEL_NAME}.pt"
    shutil.copyfile(model, named)
    scratch = work / "scratch"
    scratch.mkdir()
    subprocess.run(
        [
            Path(sys.executable).with_name("torch-model-archiver"),
            *("--model-name", MODEL_NAME),
            *("--version", VERSION),
            *("--serialized-file", named),
            *("--handler", ENTRY),
            *("--extra-files", work / "extra"),
            *("--export-path", work),
            *("--archive-format", "no-archive"),
        ],
        check=True,
        # The archiver works in a folder named after the model in the temporary folder.
        env=os.environ | {"TMPDIR": str(scratch)},
    )


def _pack(folder: Path, archive: Path) -> Path:
    manifest = folder / "MAR-INF" / "MANIFEST.json"
    content = json.loads(manifest.read_text())
    content["createdOn"] = "01/01/1980 00:00:00"  # TorchServe warns where it is missing
    manifest.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    unfinished = archive.with_suffix(".mar.part")
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            packed.writestr(entry, path.read_bytes())
    return unfinished.replace(archive)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m handler.archive",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, default=Path("model_store/mnist.pt"))
    parser.add_argument("--export-path", type=Path, default=Path("model_store"))
    options = parser.parse_args(arguments)
    try:
        archive = build(options.model, options.export_path)
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"error: {error.filename or options.export_path} cannot be written "
            f"({error.strerror or error}); --export-path names another folder",
            file=sys.stderr,
        )
        return 1
    except subprocess.CalledProcessError as error:
        print(f"error: torch-model-archiver ended with {error.returncode}", file=sys.stderr)
        return 1
    print(f"wrote {archive} ({archive.stat().st_size:,} bytes)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
