"""The Containerfile's commands, run in a clean Debian; its image, run read-only and not as root.

    make container        # needs root, debootstrap, 20 GB and a way to PyPI; about six minutes

Not part of `make test`, but for the reading of the file.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from client.server import REPOSITORY, Server
from tests.conftest import TIMEOUT, free_ports, make_home
from tests.deploy.containerfile import (
    Image,
    base,
    build,
    execute,
    instructions,
    namespace_command,
    running,
)

TEXT = (REPOSITORY / "deploy" / "Containerfile").read_text()
START_SECONDS = 60  # the health check's start period


def writable() -> list[str]:
    """The folders that the deployment lets the server write to."""
    deployment = yaml.safe_load((REPOSITORY / "deploy/kubernetes/deployment.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    return [mount["mountPath"] for mount in container["volumeMounts"]]


@pytest.fixture(scope="module")
def image(archive: Path, pytestconfig: pytest.Config) -> Iterator[Image]:
    """The image, built; gone at the end."""
    folder: Path | None = pytestconfig.getoption("clean_root", default=None)
    if folder is None:
        pytest.skip("takes six minutes and 20 GB: make container")
    if os.geteuid() or not shutil.which("debootstrap"):
        pytest.skip("needs root, and debootstrap: apt-get install debootstrap")
    folder.mkdir(parents=True)
    try:
        context = folder / "context"
        shutil.copytree(REPOSITORY, context, ignore=shutil.ignore_patterns(".*", "build", "logs"))
        shutil.copy(archive, context / "model_store" / "mnist.mar")
        yield build(TEXT, context, base(folder), folder)
    finally:
        shutil.rmtree(folder)


def wait_for_health(image: Image, first: psutil.Process, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while execute(image, first, image.healthcheck):
        assert first.is_running(), log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.5)


def test_the_image_serves_read_only_and_its_health_check_can_tell(
    image: Image, tmp_path: Path
) -> None:
    assert image.user != "root"
    log = tmp_path / "log"
    with running(image, writable(), log) as first:
        assert execute(image, first, image.healthcheck) == 1  # nothing listens yet
        wait_for_health(image, first, log)
        assert execute(image, first, ["touch", "/app/file"]) == 1
        assert execute(image, first, ["touch", "/app/logs/file"]) == 0
        processes = [first, *first.children(recursive=True)]
        assert len(processes) >= 4
        assert {process.uids().effective for process in processes} == {int(image.user)}
        url = "http://127.0.0.1:8080/predictions/mnist"
        seven = ["curl", "-sS", "-T", str(REPOSITORY / "docs" / "seven.png"), url]
        assert subprocess.check_output(namespace_command(first, seven)) == b"7"

        (front_end,) = [p for p in processes if "org.pytorch.serve.ModelServer" in p.cmdline()]
        front_end.suspend()  # it lives, but does not answer
        assert execute(image, first, image.healthcheck) == 1
        front_end.resume()
        wait_for_health(image, first, log)

        first.terminate()  # as an engine stops a container
        first.wait(TIMEOUT)
        _, alive = psutil.wait_procs(processes, timeout=20)
        assert alive == []


def test_the_signal_that_engines_send_ends_server_and_workers(archive: Path) -> None:
    """The image's command without its image; the test above has it as the first process."""
    home = make_home(archive)
    try:
        shutil.copytree(REPOSITORY / "client", home / "client")
        server = Server(home, free_ports())
        command = [sys.executable, "-m", "client.server", "serve", "--port", str(server.port)]
        with (home / "log").open("wb") as log:
            first = psutil.Popen(command, cwd=home, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not server.is_ready():
                assert first.poll() is None, (home / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            processes = [first, *first.children(recursive=True)]
            assert len(processes) >= 4
        finally:
            first.terminate()
        assert first.wait(TIMEOUT) == 0
        _, alive = psutil.wait_procs(processes, timeout=20)
        for process in alive:
            process.kill()
        assert alive == []
    finally:
        shutil.rmtree(home)


def test_each_instruction_is_one_that_the_test_above_follows() -> None:
    found = [name for name, _ in instructions(TEXT)]
    assert found.count("FROM") == 2
    assert found.count("RUN") == 2
    assert found[-2:] == ["HEALTHCHECK", "CMD"]
    with pytest.raises(ValueError, match="ADD is not known"):
        build("ADD a b", REPOSITORY, REPOSITORY, REPOSITORY)
