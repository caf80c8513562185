"""Ask a running server for digits.

python -m client plot                   # 16 test digits and their predictions, as a picture
python -m client predict digit.png      # one line for each image: its name, a tab, its digit
python -m client explain digit.png      # which pixels spoke for its digit, as a picture
python -m client evaluate               # how good the served model is, on MNIST or a folder
python -m client doctor                 # what keeps the server from starting or from serving
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from client import commands
from client.api import DigitClient
from client.errors import ClientError, UsageError
from client.keys import REPOSITORY

SERVER_FAILED, USAGE = 2, 64
LARGEST_GRID = 20  # beyond it the titles cannot be read
BROKEN_PIPE = 128 + 13  # what a shell shows for SIGPIPE, 13

EXIT_CODES = """\
exit codes:
  0   every image was predicted
  1   some images were refused, or could not be read
  2   no server answers, it failed, or its key does not fit; the doctor found something
  64  the command is wrong: an unknown option, no such data, an output that cannot be written

The server is looked for at --url, then MNIST_URL, then http://127.0.0.1:8080. Its key is --key,
then MNIST_KEY, then read from the key_file.json that TorchServe wrote (--key-file, then
MNIST_KEY_FILE, then here, then in the repository's root). A key from such a file is renewed when
it has expired, at MNIST_MANAGEMENT_URL, by default the server's next port (8081).
"""


class _Parser(argparse.ArgumentParser):
    """Leaves exit code 2 to mean that the server could not be reached."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # file names are bytes
    try:
        return _run(options)
    except UsageError as error:
        commands.complain(f"client: {error}")
        return USAGE
    except ClientError as error:
        commands.complain(f"client: {error}")
        return SERVER_FAILED
    except BrokenPipeError:
        # The reader has seen enough. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        commands.complain(f"client: {error.filename or 'error'}: {error.strerror or error}")
        return USAGE


def _run(options: argparse.Namespace) -> int:
    if options.command == "doctor":
        # Only this needs what starts a server.
        from client.doctor import run  # noqa: PLC0415
        from client.server import Server  # noqa: PLC0415

        return run(Server(port=options.port))
    alone = {"images_per_request": 1, "connections": 16} if options.command == "plot" else {}
    try:
        client = DigitClient(
            options.url,
            options.key,
            key_file=options.key_file,
            timeout=options.timeout,
            deadline=options.deadline,
            **alone,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    with client:
        if options.command == "predict":
            return commands.predict(client, options.files, options.json, options.probabilities)
        if options.command == "explain":
            return commands.explain(client, options.files, options.target, options.output)
        if options.command == "plot":
            return commands.plot(
                client,
                output=options.output,
                grid=options.grid,
                seed=options.seed,
                data_dir=options.data_dir,
                show=options.show,
            )
        return commands.evaluate(client, options.folders, options.output, options.data_dir)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m client",
        description=(__doc__ or "").partition("\n")[0],
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(dest="command", required=True)

    def add(name: str, summary: str) -> argparse.ArgumentParser:
        return subparsers.add_parser(
            name, help=summary, description=summary, parents=[_server_options()]
        )

    plot = add("plot", "draw random test digits and their predictions")
    plot.add_argument(
        "--seed", type=_whole_number, help="which digits; without it others each time"
    )
    plot.add_argument("--grid", type=_grid, default=(4, 4), help="rows x columns (4x4)")
    plot.add_argument("--output", type=Path, default=Path("predictions.png"))
    plot.add_argument("--show", action="store_true", help="open the picture as well")
    plot.add_argument("--data-dir", type=Path, help="MNIST's files (MNIST_DIR, else data/)")

    predict = add("predict", "predict image files, one line each; refusals go to stderr")
    predict.add_argument("files", nargs="+", metavar="FILE", help="a file, a folder, or - (stdin)")
    predict.add_argument(
        "--json", action="store_true", help="one JSON object a line, refusals among them"
    )
    predict.add_argument(
        "--probabilities", action="store_true", help="ten more columns: of digit 0 to 9"
    )

    explain = add("explain", "draw which pixels spoke for the digit of image files")
    explain.add_argument("files", nargs="+", metavar="FILE", help="a file, a folder, or - (stdin)")
    explain.add_argument(
        "--target", type=int, choices=range(10), help="explain this digit, not the predicted one"
    )
    explain.add_argument("--output", type=Path, default=Path("explanation.png"))

    evaluate = add("evaluate", "measure the served model and write a report")
    evaluate.add_argument(
        "folders", nargs="*", type=Path, metavar="FOLDER", help="images and LABELS.tsv (else MNIST)"
    )
    evaluate.add_argument("--output", type=Path, default=REPOSITORY / "reports", help="a folder")
    evaluate.add_argument("--data-dir", type=Path, help="MNIST's files (MNIST_DIR, else data/)")

    summary = "tell what keeps this checkout's server from starting or from serving"
    doctor = subparsers.add_parser("doctor", help=summary, description=summary)
    doctor.add_argument("--port", type=int, help="its inference port (config.properties)")
    return parser


def _server_options() -> _Parser:
    parser = _Parser(add_help=False)
    server = parser.add_argument_group("the server (see python -m client --help)")
    server.add_argument("--url", help="its inference address")
    server.add_argument("--key", help="its key; better in MNIST_KEY, which no process list shows")
    server.add_argument("--key-file", type=Path, help="the key file that TorchServe wrote")
    server.add_argument("--timeout", type=_seconds, default=10, help="of one attempt, in seconds")
    server.add_argument("--deadline", type=_seconds, default=60, help="of all attempts together")
    return parser


def _grid(text: str) -> tuple[int, int]:
    rows, _, columns = text.lower().partition("x")
    sides = [int(side) if side.isdecimal() else 0 for side in (rows, columns)]
    if not all(1 <= side <= LARGEST_GRID for side in sides):
        raise argparse.ArgumentTypeError(
            f"expected rows x columns, 1x1 to {LARGEST_GRID}x{LARGEST_GRID}, got {text!r}"
        )
    return sides[0], sides[1]


def _whole_number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"expected seconds above 0, got {text!r}")
    return seconds


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        # End at once and as the shell expects, without waiting for requests under way.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
