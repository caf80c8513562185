"""Start and stop a TorchServe that serves this repository's model.

    python -m client.server start [--port 9080]     # returns when a real prediction works
    python -m client.server serve                   # the same in the foreground, Ctrl-C ends it
    python -m client.server stop
    python -m client.server ready                   # exit code 0 if a real prediction works now

TorchServe itself keeps one pid file and one set of sockets per temporary folder. Each server here
gets a temporary folder of its own (`.run` of the checkout), so several checkouts run side by side.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import requests

from client import checks
from client.checks import ServerError
from client.java import JavaMissing, find_java_home

__all__ = ["REPOSITORY", "Server", "ServerError"]

REPOSITORY = Path(__file__).resolve().parent.parent
START_SECONDS = 120.0
STOP_SECONDS = 20.0
# Port offsets from the inference port, by the environment variable that TorchServe reads.
_ADDRESSES = {"TS_MANAGEMENT_ADDRESS": 1, "TS_METRICS_ADDRESS": 2}
_GRPC_PORTS = {"TS_GRPC_INFERENCE_PORT": 3, "TS_GRPC_MANAGEMENT_PORT": 4}


@dataclass(frozen=True)
class Server:
    """One TorchServe: where it runs, and on which ports.

    Attributes:
        home: its working folder, with `config.properties`, `log4j2.xml` and `model_store`; it
            writes `key_file.json` and `logs/` there.
        port: the inference port, followed by management, metrics and two gRPC ports; None leaves
            all five as `config.properties` has them.
        config: the settings file.
    """

    home: Path = REPOSITORY
    port: int | None = None
    config: Path = Path("config.properties")

    @property
    def run_dir(self) -> Path:
        """Temporary folder of this server alone: pid file, worker sockets, unpacked archive."""
        return self.home / ".run"

    @property
    def store(self) -> Path:
        """Where the archive is; it may be read-only."""
        return self.home / "model_store"

    @property
    def log(self) -> Path:
        """What the server prints."""
        return self.home / "logs" / "torchserve.log"

    @property
    def url(self) -> str:
        """The inference address."""
        if self.port is not None:
            return f"http://127.0.0.1:{self.port}"
        text = checks.settings(self.home / self.config)
        found = re.search(r"^inference_address=(\S+)", text, re.MULTILINE)
        return found[1] if found else "http://127.0.0.1:8080"

    @property
    def key(self) -> str:
        """The inference key, as TorchServe wrote it at its start."""
        keys = json.loads((self.home / "key_file.json").read_text())
        return str(keys["inference"]["key"])

    @property
    def pid(self) -> int | None:
        """The process id of the running front end, or None."""
        return checks.front_end(self.run_dir / ".model_server.pid", self.home)

    def start(self, deadline: float = START_SECONDS) -> None:
        """Start in the background and return once a real prediction works.

        Args:
            deadline: seconds to wait for it.

        Raises:
            ServerError: why it does not serve, in one line where that is known, else with the end
                of its log; nothing is left running.
            JavaMissing: there is no Java to run it on.
        """
        self._prepare()
        try:
            with self.log.open("wb") as log:
                subprocess.run(
                    self._command(),
                    cwd=self.home,
                    env=self._environment(),
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    check=False,
                    timeout=deadline,
                )
            self._wait_until_ready(time.monotonic() + deadline)
        except BaseException as error:
            self.stop()
            if isinstance(error, OSError):
                raise checks.unwritable(self.home, error) from error
            if isinstance(error, subprocess.TimeoutExpired):
                raise self._failed("TorchServe's launcher does not end") from error
            raise

    def serve(self) -> int:
        """Run in the foreground until interrupted.

        Returns:
            TorchServe's exit code.

        Raises:
            ServerError: it cannot be started.
        """
        self._prepare()
        command = [*self._command(), "--foreground"]
        process = subprocess.Popen(command, cwd=self.home, env=self._environment())
        try:
            return process.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            if self.stop():
                process.wait(STOP_SECONDS)  # the launcher, which ends behind its server
            process.kill()  # where it has not got to starting one

    def stop(self) -> bool:
        """End the server and its workers, by their process ids.

        Returns:
            Whether one was running.

        Raises:
            ServerError: it did not end in time.
        """
        pid = self.pid
        if pid is None:
            return False
        front_end = psutil.Process(pid)
        processes = [front_end, *front_end.children(recursive=True)]
        front_end.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs(processes, timeout=STOP_SECONDS)
        for process in alive:
            process.kill()
        _, alive = psutil.wait_procs(alive, timeout=STOP_SECONDS)
        if alive:
            raise ServerError(f"process {alive[0].pid} of the server does not end")
        self._remove_keys()
        shutil.rmtree(self.run_dir, ignore_errors=True)
        return True

    @contextmanager
    def running(self) -> Iterator[Server]:
        """A started server, stopped at the end of the block whatever happens in it."""
        self.start()
        try:
            yield self
        finally:
            self.stop()

    def _prepare(self) -> None:
        if self.pid is not None:
            raise ServerError(f"already running as process {self.pid}; `make stop` ends it")
        for condition in self.conditions().values():
            condition()
        try:
            # A server that was killed leaves its pid file, sockets and unpacked archive behind.
            shutil.rmtree(self.run_dir, ignore_errors=True)
            self.run_dir.mkdir(mode=0o700, exist_ok=True)
            self.log.parent.mkdir(exist_ok=True)
            self._remove_keys()
        except OSError as error:
            raise checks.unwritable(self.home, error) from error

    def _remove_keys(self) -> None:
        keys = self.home / "key_file.json"
        if keys.exists():  # where there are none, the folder may be read-only
            keys.unlink()

    def conditions(self) -> dict[str, Callable[[], object]]:
        """What must hold for this server to start, by name; each raises why it does not."""
        return {
            "TorchServe": checks.torchserve,
            "Java": find_java_home,
            "settings": partial(checks.settings, self.home / self.config),
            "archive": partial(checks.archive, self.store / "mnist.mar"),
            "folder": partial(checks.folder, self.home),
            "ports": lambda: checks.ports(self.ports()),
        }

    def ports(self) -> list[int]:
        """The ports it listens on: inference, management, metrics and gRPC."""
        if self.port is not None:
            return [self.port + offset for offset in range(5)]
        settings = checks.settings(self.home / self.config)
        addresses = r"^(?:inference|management|metrics)_address=\S+:(\d+)|^grpc_\w+_port=(\d+)"
        return [int(a or b) for a, b in re.findall(addresses, settings, re.MULTILINE)]

    def _command(self) -> list[str]:
        # Without --ncs the snapshot of an earlier run would win over config.properties.
        return [str(checks.torchserve()), "--start", "--ncs", "--ts-config", str(self.config)]

    def _environment(self) -> dict[str, str]:
        environment = dict(os.environ)
        environment |= {"TMPDIR": str(self.run_dir), "TEMP": str(self.run_dir)}
        if self.port is not None:
            environment["TS_INFERENCE_ADDRESS"] = self.url
            for name, offset in _ADDRESSES.items():
                environment[name] = f"http://127.0.0.1:{self.port + offset}"
            for name, offset in _GRPC_PORTS.items():
                environment[name] = str(self.port + offset)
        java_home = find_java_home()
        if java_home is not None:
            environment["JAVA_HOME"] = str(java_home)
        return environment

    def is_ready(self) -> bool:
        """Whether a real prediction works now: `/ping` is healthy while no model is loaded."""
        try:
            return bool(self.probe(timeout=5).status_code == requests.codes.ok)
        except (requests.RequestException, OSError, ValueError):
            return False  # no port, no key file yet, or half of one

    def _wait_until_ready(self, deadline: float) -> None:
        while time.monotonic() < deadline:
            if self.pid is None:
                raise self._failed("the server ended at its start")
            if "Backend worker process died" in self.log.read_text(errors="replace"):
                raise self._failed("the model cannot be loaded")
            if self.is_ready():
                return
            time.sleep(0.05)
        raise self._failed("no prediction in time")

    def probe(self, timeout: float) -> requests.Response:
        """The server's answer to a one, drawn here.

        Raises:
            requests.RequestException: none within `timeout` seconds.
            OSError, ValueError: a key file that is half written.
        """
        stroke = np.zeros((28, 28), np.uint8)
        stroke[4:24, 13:15] = 255
        one = io.BytesIO()
        np.save(one, stroke)
        # TS_DISABLE_TOKEN_AUTHORIZATION=true leaves no key file, and needs no key.
        has_key = (self.home / "key_file.json").exists()
        headers = {"Authorization": f"Bearer {self.key}"} if has_key else {}
        url = f"{self.url}/predictions/mnist"
        with requests.Session() as session:
            session.trust_env = False  # neither a proxy nor a ~/.netrc is for this machine's server
            return session.post(url, data=one.getvalue(), headers=headers, timeout=timeout)

    def _failed(self, what: str) -> ServerError:
        """One line with the cause, where the log names one that is known; else the log's end."""
        text = self.log.read_text(errors="replace")
        cause = checks.cause(text)
        if cause:
            return ServerError(f"{what}: {cause} (all of it in {self.log})")
        end = "\n".join(text.splitlines()[-25:])
        return ServerError(f"{what}, and {self.log} does not name the cause; its end:\n{end}")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m client.server",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=["start", "serve", "stop", "ready"])
    parser.add_argument("--port", type=int, help="inference port; the four after it are used too")
    options = parser.parse_args(arguments)
    server = Server(port=options.port)
    try:
        if options.command == "serve":
            # How a container is stopped; the first process of one ignores it, unless told.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            return server.serve()
        if options.command == "start":
            server.start()
            print(f"serving at {server.url} (process {server.pid}, log {server.log})")
        elif options.command == "ready":
            ready = server.is_ready()
            print("ready" if ready else f"{server.url} does not predict")
            return 0 if ready else 1
        else:
            print("stopped" if server.stop() else "no server is running")
    except (ServerError, JavaMissing) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
