"""Ask a running server for digits.

digits plot                   # 16 test digits and their predictions, as a picture
digits predict digit.png      # one line for each image: its name, a tab, its digit
digits explain digit.png      # which pixels spoke for its digit, as a picture
digits evaluate               # how good the served model is, on MNIST or a folder
digits draw                   # draw a digit in the browser and see what the server says
digits batch                  # label a folder or Parquet files of images, without a server
digits doctor                 # what keeps the server from starting or from serving

`python -m client` is the same where the package is not installed.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NoReturn, TypeAlias

import shtab

from client import batch, commands, values
from client.api import DigitClient
from client.errors import ClientError, UsageError
from client.keys import REPOSITORY

PACKAGE = "served-digits"
Run: TypeAlias = Callable[[argparse.Namespace], int]
Add: TypeAlias = Callable[[str, str, Run], argparse.ArgumentParser]

SERVER_FAILED, USAGE = 2, 64
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
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # closed by who called, as in `digits … >&-`
            setattr(sys, stream, io.StringIO())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # file names are bytes
    try:
        options = _parser().parse_args(_join_key(sys.argv[1:] if arguments is None else arguments))
        run: Run = options.run
        return run(options)
    except UsageError as error:
        commands.complain(f"digits: {error}")
        return USAGE
    except ClientError as error:
        commands.complain(f"digits: {error}")
        return SERVER_FAILED
    except BrokenPipeError:
        # The reader has seen enough. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        commands.complain(f"digits: {error.filename or 'error'}: {error.strerror or error}")
        return USAGE


def script() -> int:
    """The program `digits`."""
    try:
        return main()
    except KeyboardInterrupt:
        # End at once and as the shell expects, without waiting for requests under way.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        raise


def _join_key(arguments: Sequence[str]) -> list[str]:
    """Write `--key K` as `--key=K`: TorchServe draws keys that start with -, like an option."""
    joined = list(arguments)
    operands = joined.index("--") if "--" in joined else None
    if "--key" in joined[:operands]:
        at = joined.index("--key")
        joined[at : at + 2] = ["=".join(joined[at : at + 2])]
    return joined


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="digits" if Path(sys.argv[0]).name == "digits" else "python -m client",
        description=(__doc__ or "").partition("\n")[0],
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=_version())
    shtab.add_argument_to(parser, "--print-completion", help="what a shell reads to complete this")
    subparsers = parser.add_subparsers(dest="command", required=True)

    def add(name: str, summary: str, run: Run) -> argparse.ArgumentParser:
        command = subparsers.add_parser(
            name, help=summary, description=summary, parents=[_server_options()]
        )
        command.set_defaults(run=run)
        return command

    # A new command: its options here, what it does in a module of its own.
    _add_plot(add)
    _add_predict(add)
    _add_explain(add)
    _add_evaluate(add)
    _add_draw(add)
    _add_doctor(subparsers)
    _add_batch(subparsers)
    return parser


def _add_plot(add: Add) -> None:
    def run(options: argparse.Namespace) -> int:
        # Each alone, as most clients send them; but all 10,000 are asked for to find the misses.
        at_once = 1000 if options.only_misses else 1
        with _client(options, images_per_request=at_once, connections=16) as client:
            return commands.plot(client, options)

    plot = add("plot", "draw random test digits and their predictions", run)
    plot.add_argument(
        "--seed", type=values.whole_number, help="which digits; without it others each time"
    )
    plot.add_argument("--grid", type=values.grid, default=(4, 4), help="rows x columns (4x4)")
    plot.add_argument(
        "--only-misses", action="store_true", help="of all test digits, those it gets wrong"
    )
    plot.add_argument("--explain", action="store_true", help="colour what spoke for each digit")
    _pictures(plot, "predictions.png")
    plot.add_argument("--show", action="store_true", help="open the picture as well")
    _data_dir(plot)
    _json(plot)


def _add_predict(add: Add) -> None:
    def run(options: argparse.Namespace) -> int:
        with _client(options) as client:
            return commands.predict(client, options.files, options.json, options.probabilities)

    predict = add("predict", "predict image files, one line each; refusals go to stderr", run)
    _files(predict)
    _json(predict, "one JSON object a line, refusals among them")
    predict.add_argument(
        "--probabilities", action="store_true", help="ten more columns: of digit 0 to 9"
    )


def _add_explain(add: Add) -> None:
    def run(options: argparse.Namespace) -> int:
        with _client(options) as client:
            return commands.explain(client, options)

    explain = add("explain", "draw which pixels spoke for the digit of image files", run)
    _files(explain)
    explain.add_argument(
        "--target", type=int, choices=range(10), help="explain this digit, not the predicted one"
    )
    _pictures(explain, "explanation.png")
    _json(explain, "one JSON object a line, with the 784 attributions")


def _add_evaluate(add: Add) -> None:
    def run(options: argparse.Namespace) -> int:
        with _client(options) as client:
            return commands.evaluate(client, options)

    evaluate = add("evaluate", "measure the served model and write a report", run)
    evaluate.add_argument(
        "folders", nargs="*", type=Path, metavar="FOLDER", help="images and LABELS.tsv (else MNIST)"
    )
    evaluate.add_argument("--output", type=Path, default=REPOSITORY / "reports", help="a folder")
    _dark(evaluate)
    _data_dir(evaluate)
    _json(evaluate, "one JSON object for each report")


def _add_draw(add: Add) -> None:
    def run(options: argparse.Namespace) -> int:
        # Somebody waits in front of the page: say soon that the server is down.
        options.timeout = options.deadline = min(3, options.timeout)
        with _client(options) as client:
            return commands.draw(client, options)

    draw = add("draw", "draw a digit in the browser and see what the server says", run)
    draw.add_argument("--port", type=values.port, default=8090, help="the page's, 8090; 0: any")
    draw.add_argument("--no-browser", action="store_true", help="only print the page's address")
    _json(draw, "print the address as JSON")


def _add_doctor(subparsers: argparse._SubParsersAction[_Parser]) -> None:
    def run(options: argparse.Namespace) -> int:
        # Only this needs what starts a server.
        from client import doctor  # noqa: PLC0415
        from client.server import Server  # noqa: PLC0415

        return doctor.run(Server(port=options.port), as_json=options.json)

    summary = "tell what keeps this checkout's server from starting or from serving"
    command = subparsers.add_parser("doctor", help=summary, description=summary)
    command.set_defaults(run=run)
    command.add_argument("--port", type=values.port, help="its inference port (config.properties)")
    _json(command, "one JSON object for each check")


def _add_batch(subparsers: argparse._SubParsersAction[_Parser]) -> None:
    summary = "label a folder or Parquet files of images without a server, on every core"
    command = subparsers.add_parser("batch", help=summary, description=summary)
    command.set_defaults(run=batch.run)
    batch.add_arguments(command)


def _client(options: argparse.Namespace, **settings: int) -> DigitClient:
    try:
        return DigitClient(
            options.url,
            options.key,
            key_file=options.key_file,
            timeout=options.timeout,
            deadline=options.deadline,
            **settings,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def _files(command: argparse.ArgumentParser) -> None:
    files = command.add_argument(
        "files", nargs="+", metavar="FILE", help="a file, a folder, or - (stdin)"
    )
    files.complete = shtab.FILE  # type: ignore[attr-defined]


def _pictures(command: argparse.ArgumentParser, name: str) -> None:
    output = command.add_argument(
        "--output", type=Path, default=Path(name), help=f".png, .svg or .pdf ({name})"
    )
    output.complete = shtab.FILE  # type: ignore[attr-defined]
    _dark(command)


def _dark(command: argparse.ArgumentParser) -> None:
    command.add_argument("--dark", action="store_true", help="pictures for a dark page")


def _data_dir(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data-dir", type=Path, help="MNIST's files (MNIST_DIR, else data/)")


def _json(
    command: argparse.ArgumentParser, summary: str = "the outcome as one JSON object"
) -> None:
    command.add_argument("--json", action="store_true", help=summary)


def _version() -> str:
    try:
        return f"digits {version(PACKAGE)}"
    except PackageNotFoundError:
        return "digits, not installed (python -m client in a checkout)"


def _server_options() -> _Parser:
    parser = _Parser(add_help=False)
    server = parser.add_argument_group("the server (see digits --help)")
    server.add_argument("--url", help="its inference address")
    server.add_argument("--key", help="its key; better in MNIST_KEY, which no process list shows")
    server.add_argument("--key-file", type=Path, help="the key file that TorchServe wrote")
    server.add_argument(
        "--timeout", type=values.seconds, default=10, help="of one attempt, in seconds"
    )
    server.add_argument(
        "--deadline", type=values.seconds, default=60, help="of all attempts together"
    )
    return parser


if __name__ == "__main__":
    sys.exit(script())
