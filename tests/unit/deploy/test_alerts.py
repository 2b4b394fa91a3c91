"""Alert rules and dashboard name series that exist, and fire when they should."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from stream_executor.http.metrics import TABLE, Kind
from tests.unit.test_documents import anchors

ROOT = Path(__file__).parents[3]
RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
TESTS = ROOT / "deploy" / "prometheus" / "alerts.test.yml"
DASHBOARD: dict[str, Any] = json.loads(
    (ROOT / "deploy" / "grafana" / "wasm-executor.json").read_text(encoding="utf-8")
)
ALERTS: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
QUERIES = [
    target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", [])
]
SERIES = {
    metric.name + suffix
    for metric in TABLE
    for suffix in (
        ("_bucket", "_sum", "_count") if metric.kind is Kind.HISTOGRAM else ("",)
    )
}


@pytest.mark.needs("promtool")
def test_each_alert_fires_for_its_cause_and_stays_silent_below_it() -> None:
    ran = subprocess.run(
        ["promtool", "test", "rules", TESTS],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_no_alert_is_without_a_test_that_sees_it_fire() -> None:
    groups = yaml.safe_load(TESTS.read_text())["tests"]
    fired = {
        case["alertname"]
        for group in groups
        for case in group["alert_rule_test"]
        if case.get("exp_alerts")
    }
    assert fired == {alert["alert"] for alert in ALERTS}


@pytest.mark.parametrize("query", [*QUERIES, *(alert["expr"] for alert in ALERTS)])
def test_every_series_that_is_asked_for_exists(query: str) -> None:
    named = set(re.findall(r"\bwasm_\w+", query))
    assert named <= SERIES
    assert named or "up{" in query


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_leads_to_what_to_do(alert: dict[str, Any]) -> None:
    path, _, anchor = alert["annotations"]["runbook"].partition("#")

    assert anchor in anchors((ROOT / path).read_text(encoding="utf-8"))
    assert alert["labels"]["severity"] in {"critical", "warning", "info"}


def test_panels_do_not_lie_on_one_another() -> None:
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    identities = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(identities) == len(set(identities))
