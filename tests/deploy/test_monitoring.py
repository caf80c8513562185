"""The alerts and the dashboard, checked by Prometheus itself and filled from a live server."""

from __future__ import annotations

import json
import math
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from client.server import REPOSITORY, Server
from deploy.monitoring import draw
from tests.conftest import free_ports
from tests.deploy.prometheus import MONITORING, needs_prometheus, prometheus, query, wait_for
from tests.metrics import metrics_address, send_every_kind

DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
QUERIES = [
    (panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]
]


def promtool(*arguments: str, folder: Path = MONITORING) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@needs_prometheus
def test_settings_and_rules_are_valid_and_the_rules_pass_their_tests() -> None:
    for arguments in (
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts_test.yml"),
    ):
        done = promtool(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr


@needs_prometheus
def test_the_rules_tests_notice_a_wrong_threshold(tmp_path: Path) -> None:
    rules = (MONITORING / "alerts.yml").read_text()
    assert rules.count("> 0.25") == 1
    (tmp_path / "alerts.yml").write_text(rules.replace("> 0.25", "> 2.7"))
    (tmp_path / "alerts_test.yml").write_text((MONITORING / "alerts_test.yml").read_text())
    done = promtool("test", "rules", "alerts_test.yml", folder=tmp_path)
    assert done.returncode == 1
    assert "DigitsShifted fires" in done.stdout + done.stderr


def test_each_alert_has_a_test_that_fires_and_one_that_does_not() -> None:
    (group,) = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    tests = yaml.safe_load((MONITORING / "alerts_test.yml").read_text())["tests"]
    expected = [(rule["alert"], fires) for rule in group["rules"] for fires in (True, False)]
    assert [
        (check["alertname"], bool(check["exp_alerts"]))
        for test in tests
        for check in test["alert_rule_test"]
    ] == expected


def test_alerts_and_dashboard_name_only_metrics_that_are_served() -> None:
    declared = yaml.safe_load((REPOSITORY / "metrics.yaml").read_text())
    served = {
        metric["name"]
        for part in ("ts_metrics", "model_metrics")
        for metric in declared[part]["counter"]
    }
    text = "\n".join(expression for _, expression in QUERIES)
    text += (MONITORING / "alerts.yml").read_text()
    named = set(re.findall(r"\b(?:mnist_\w+|ts_\w+|Requests\dXX)\b", text))
    assert named == served


@pytest.fixture(scope="module")
def filled(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with prometheus(metrics_address(server), tmp_path_factory.mktemp("prometheus")) as url:
        assert wait_for(url, 'up{job="served-digits"} == 1')
        yield url


@needs_prometheus
def test_each_query_of_the_dashboard_has_data_from_a_live_server(
    server: Server, filled: str, mnist_test: tuple[NDArray[np.uint8], NDArray[np.int64]]
) -> None:
    start = query(filled, "sum(mnist_confidence_count)")
    began = float(start[0]["value"][1]) if start else 0.0
    send_every_kind(server, mnist_test[0])
    assert wait_for(filled, f"sum(mnist_confidence_count) >= {began + 12}")
    for title, expression in QUERIES:
        filled_in = expression.replace("$__rate_interval", "1m").replace("$instance", ".*")
        result = wait_for(filled, filled_in)
        assert result, f"{title}: no data from {filled_in}"
        for series in result:
            assert math.isfinite(float(series["value"][1])), f"{title}: {series}"
    # The queries can tell: a counter that does not exist has no data.
    assert query(filled, "sum(rate(mnist_nothing_total[1m]))") == []


@needs_prometheus
def test_the_picture_shows_every_query_of_the_dashboard(
    server: Server,
    filled: str,
    mnist_test: tuple[NDArray[np.uint8], NDArray[np.int64]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    start = query(filled, "sum(mnist_confidence_count)")
    began = float(start[0]["value"][1]) if start else 0.0
    send_every_kind(server, mnist_test[0])
    assert wait_for(filled, f"sum(mnist_confidence_count) >= {began + 12}")
    window = draw.Window(time.time() - 30, time.time(), "30s")
    panels = draw.fill(filled, window)
    figure = draw.draw(panels, window)
    for axes, (panel, drawn) in zip(figure.axes, panels, strict=True):
        assert axes.get_title() == panel["title"]
        assert len(drawn) >= len(panel["targets"])
        assert all(np.isfinite(line.values).any() for line in drawn), panel["title"]
        legend = axes.get_legend()
        assert legend is not None
        assert [text.get_text() for text in legend.get_texts()] == [line.legend for line in drawn]
    digits = [
        line.legend for panel, drawn in panels if panel["title"] == "Digits" for line in drawn
    ]
    assert digits == [str(digit) for digit in range(10)]
    # A query without data leaves its panel empty, so the picture can tell.
    nothing = {"targets": [{"expr": "mnist_nothing_total", "legendFormat": ""}]}
    assert draw.lines(filled, nothing, window) == []
    picture = tmp_path / "dashboard.png"
    assert draw.main([filled, str(picture), "--minutes", "1"]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert draw.main([f"http://127.0.0.1:{free_ports(1)}", str(picture)]) == 1
    assert "expected a Prometheus at http://127.0.0.1" in capsys.readouterr().err


@needs_prometheus
def test_no_alert_fires_on_a_server_that_is_well(filled: str) -> None:
    assert wait_for(filled, 'up{job="served-digits"}')
    assert query(filled, 'ALERTS{alertstate="firing"}') == []


def test_the_dashboard_is_whole() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    for panel in panels:
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
