"""A real Prometheus of the test's own, asked as Grafana asks it."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from client.server import REPOSITORY
from tests.conftest import TIMEOUT, free_ports

MONITORING = REPOSITORY / "deploy" / "monitoring"

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="prometheus and promtool are not installed: apt-get install prometheus",
)


@contextmanager
def prometheus(target: str, folder: Path) -> Iterator[str]:
    """Prometheus with the project's settings, but for the target and once a second; its URL."""
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(MONITORING / "alerts.yml")]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_ports(1)
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(TIMEOUT)


def query(url: str, expression: str) -> list[dict[str, Any]]:
    """The vector that an expression gives now; empty while Prometheus is starting."""
    try:
        answer = requests.get(f"{url}/api/v1/query", params={"query": expression}, timeout=TIMEOUT)
    except requests.ConnectionError:
        return []
    if answer.status_code == 503:
        return []
    document = answer.json()
    assert document["status"] == "success", f"{expression}: {document}"
    result: list[dict[str, Any]] = document["data"]["result"]
    return result


def wait_for(url: str, expression: str, seconds: float = 40) -> list[dict[str, Any]]:
    """The same, once it is not empty."""
    deadline = time.monotonic() + seconds
    while not (result := query(url, expression)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return result
