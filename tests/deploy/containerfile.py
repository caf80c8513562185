"""Run a Containerfile's instructions without a container engine: in folders made by debootstrap.

What stands in for what: a Debian root with its Python 3 for the base image; folders for stages;
Linux' own namespaces, which engines use as well, for running the image. Only the instructions that
`deploy/Containerfile` has are known. Needs root.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

SUITE, MIRROR = "bookworm", "http://deb.debian.org/debian"
PACKAGES = "python3,python3-venv,ca-certificates"
# What a builder's commands need of the machine: names, certificates, and how it reaches PyPI.
FROM_HOST = ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs")
PASSED_ON = re.compile(r"PIP_\w+|https?_proxy|no_proxy", re.IGNORECASE)


@dataclass
class Image:
    """A folder that is a root, and how commands run in it."""

    root: Path
    workdir: str = "/"
    user: str = "root"
    environment: dict[str, str] = field(
        default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin"}
    )
    arguments: dict[str, str] = field(default_factory=dict)
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)

    def inside(self, command: Sequence[str], more: dict[str, str]) -> list[str]:
        """The command line that runs a command in the root where one is already in it."""
        variables = [f"{name}={value}" for name, value in (self.environment | more).items()]
        return ["env", "-i", "-C", self.workdir, *variables, *command]


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Each instruction of a Containerfile, and what stands behind it."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        if line:
            name, _, rest = line.partition(" ")
            yield name, rest.strip()


def base(folder: Path) -> Path:
    """A clean Debian with `python`, in place of the image of that name."""
    root = folder / "base"
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, root, MIRROR],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    return root


def build(text: str, context: Path, clean: Path, folder: Path) -> Image:
    """Follow the instructions; the last stage.

    Args:
        text: the Containerfile's.
        context: what COPY copies from.
        clean: the base image's root, which stays as it is.
        folder: where the stages are made.

    Raises:
        subprocess.CalledProcessError: a RUN failed.
        ValueError: an instruction that is not known here.
    """
    stages: dict[str, Image] = {}
    image = Image(folder)
    for name, rest in instructions(text):
        words = shlex.split(rest)
        if name == "FROM":
            image = Image(folder / f"stage-{len(stages)}")
            stages[words[-1]] = image
            subprocess.run(["cp", "-a", clean, image.root], check=True)
        elif name == "WORKDIR":
            image.workdir = rest
            _within(image, rest).mkdir(parents=True, exist_ok=True)
        elif name == "COPY":
            _copy(image, words, context, stages)
        elif name == "ARG":
            image.arguments |= dict([rest.split("=", 1)])
        elif name == "ENV":
            for word in words:
                key, value = word.split("=", 1)
                image.environment[key] = value.replace("$PATH", image.environment["PATH"])
        elif name == "RUN":
            _run(image, rest)
        elif name == "USER":
            image.user = rest
        elif name == "HEALTHCHECK":
            image.healthcheck = json.loads(rest.partition("CMD ")[2])
        elif name == "CMD":
            image.command = json.loads(rest)
        elif name != "EXPOSE":
            raise ValueError(f"the instruction {name} is not known here")
    return image


def _within(image: Image, path: str) -> Path:
    """A path of the image as one of this machine."""
    return image.root / os.path.join(image.workdir, path).lstrip("/")  # noqa: PTH118


def _copy(image: Image, words: list[str], context: Path, stages: dict[str, Image]) -> None:
    *sources, target = (word for word in words if not word.startswith("--"))
    to = _within(image, target)
    if words[0].startswith("--from="):
        # By links: a virtual environment with torch in it has gigabytes.
        (source,) = sources
        stage = stages[words[0].partition("=")[2]]
        subprocess.run(["cp", "-al", _within(stage, source), to], check=True)
        return
    for source in sources:
        path = context / source
        into = to / path.name if target.endswith("/") else to
        into.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, into, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, into)


def _run(image: Image, line: str) -> None:
    host = {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)}
    for path in FROM_HOST:
        _within(image, path).parent.mkdir(parents=True, exist_ok=True)
        if Path(path).is_dir():
            _within(image, path).mkdir(exist_ok=True)
        else:
            _within(image, path).touch()
    script = [f'mount --bind {path} "$0{path}"' for path in FROM_HOST]
    command = image.inside(["/bin/sh", "-c", line], image.arguments | host)
    subprocess.run(_namespaces(image, script, command), check=True)


def _namespaces(image: Image, script: list[str], command: Sequence[str], *flags: str) -> list[str]:
    """The command line that runs a command in the image, in namespaces of its own."""
    setup = [
        'mount --bind "$0" "$0"',
        'mount -t proc proc "$0/proc"',
        'mount --rbind /dev "$0/dev"',
        *script,
        f'exec chroot --userspec={image.user} "$0" "$@"',
    ]
    return [
        *("unshare", "--mount", "--pid", "--fork", *flags),
        *("sh", "-ec", "\n".join(setup), str(image.root), *command),
    ]


@contextmanager
def running(image: Image, writable: Sequence[str], log: Path) -> Iterator[psutil.Process]:
    """The image's command, as its user, on a network of its own; the first process in it.

    Args:
        writable: folders in memory; all else is read-only.
        log: what the command prints.
    """
    user = image.user.partition(":")[0]
    script = [
        "ip link set lo up",
        *(f'mount -t tmpfs -o uid={user},mode=1777 tmpfs "$0{path}"' for path in writable),
        'mount -o remount,bind,ro "$0"',
    ]
    command = _namespaces(image, script, image.inside(image.command, {}), "--net")
    with log.open("wb") as printed:
        process = subprocess.Popen(command, stdout=printed, stderr=printed)
    outer = psutil.Process(process.pid)
    try:
        while True:
            inside = [child for child in outer.children() if child.cmdline() == image.command]
            if inside:
                break  # it has its own root and user by now
            if process.poll() is not None:
                raise RuntimeError(f"it ended at once: {log.read_text()}")
            time.sleep(0.01)
        yield inside[0]
    finally:
        if process.poll() is None:
            for first in outer.children():
                first.kill()  # and with it all that is in its namespace
        process.wait()


def namespace_command(first: psutil.Process, command: Sequence[str], *more: str) -> list[str]:
    """The command line that runs this machine's command on the network of what is running."""
    return ["nsenter", f"--target={first.pid}", "--net", *more, *command]


def execute(image: Image, first: psutil.Process, command: Sequence[str]) -> int:
    """Run another command in what is running, as an engine does a health check; its exit code."""
    inside = image.inside(command, {})
    flags = ["--mount", "--pid", "--root", f"--setuid={image.user}", f"--setgid={image.user}"]
    line = namespace_command(first, inside, *flags)
    return subprocess.run(line, check=False, timeout=60).returncode
