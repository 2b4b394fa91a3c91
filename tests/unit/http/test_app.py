from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from stream_executor.http import metrics
from stream_executor.http.app import PROBES, build_app
from stream_executor.http.exposition import Exposition
from stream_executor.http.status import (
    AuditLogStatus,
    LaneStatus,
    ServiceStatus,
    Usage,
    WorkerStatus,
)
from stream_executor.http.tally import Tally, Totals
from stream_executor.model.codes import Code
from stream_executor.model.lanes import LaneState

TOKEN = "a-token-for-http-17"
RUNNING = LaneStatus(0, LaneState.RUNNING, next=10, end=15, term=3)
HALTED = LaneStatus(1, LaneState.HALTED, "foreign record at 7", next=7, end=100)


class Site:
    """The pages over a status that a test can change."""

    def __init__(self, *lanes: LaneStatus, token: str | None = None) -> None:
        self.lanes = lanes
        self.ready = True
        self.draining = False
        self.audit_log: AuditLogStatus | None = None
        self.totals = Totals()
        self.own = Tally()
        self.usage = Usage(123, 4.5)
        self.own.set(metrics.WORKERS_CONFIGURED, 1)
        exposition = Exposition(
            self.totals, self.own, self.view, lambda: self.usage, {"version": "1.0"}
        )
        app = build_app(self.view, self.totals, exposition, token)
        self.get = TestClient(app).get

    def view(self) -> ServiceStatus:
        worker = WorkerStatus(
            0, "host-0", 77, reporting=True, ready=self.ready, engine="wasmtime 50",
            audience="wasm-executor/abc", lanes=self.lanes,
        )  # fmt: skip
        return ServiceStatus("1.0", "host", 1, self.draining, (worker,), self.audit_log)

    def samples(self, accept: str = "") -> dict[str, float]:
        text = self.get("/metrics", headers={"accept": accept}).text
        return {
            sample.name + "".join(f"{{{v}}}" for v in sample.labels.values()): (
                sample.value
            )
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


def test_the_manuals_grep_finds_both_counters_at_zero_right_after_start() -> None:
    lines = [
        line
        for line in Site().get("/metrics").text.splitlines()
        if "wasm_executions" in line and not line.startswith("#")
    ]
    assert lines == ["wasm_executions_total 0.0", "wasm_executions_failed_total 0.0"]


def test_no_series_is_a_creation_time_and_the_manuals_have_no_labels() -> None:
    text = Site().get("/metrics").text
    assert "_created" not in text
    for name in ("wasm_concurrent_executions", "wasm_auth_success_total",
                 "wasm_auth_failed_total", "wasm_fuel_consumed_total",
                 "wasm_execution_duration_seconds_count"):  # fmt: skip
        assert re.search(rf"^{name} 0(\.0)?$", text, re.MULTILINE)


def test_reports_of_workers_show_as_sums_and_cumulative_buckets() -> None:
    site = Site()
    for worker in (1, 2):
        tally = Tally()
        tally.add(metrics.EXECUTIONS, 5)
        tally.observe(metrics.EXECUTION_DURATION, 0.09, times=5)
        tally.add(metrics.RESULTS, 2, Code.TIMEOUT)
        site.totals.absorb(worker, tally.take())
    samples = site.samples()
    assert samples["wasm_executions_total"] == 10
    assert samples["wasm_execution_duration_seconds_bucket{0.075}"] == 0
    assert samples["wasm_execution_duration_seconds_bucket{0.1}"] == 10
    assert samples["wasm_execution_duration_seconds_bucket{+Inf}"] == 10
    assert samples["wasm_execution_duration_seconds_count"] == 10
    assert samples["wasm_execution_duration_seconds_sum"] == pytest.approx(0.9)
    assert samples["wasm_executor_results_total{timeout}"] == 4


def test_lanes_show_by_state_and_the_processable_lag_leaves_halted_ones_out() -> None:
    samples = Site(RUNNING, HALTED).samples()
    assert samples["wasm_executor_lanes{running}"] == 1
    assert samples["wasm_executor_lanes{halted}"] == 1
    assert samples["wasm_executor_lanes{blocked}"] == 0
    assert samples["wasm_executor_lag_offsets"] == 5 + 93
    assert samples["wasm_executor_processable_lag_offsets"] == 5


def test_what_an_alert_looks_at_follows_the_lanes_and_the_probes() -> None:
    old = LaneStatus(2, LaneState.RUNNING, next=1, end=2, oldest_ms=1_700_000_000_000)
    stuck = LaneStatus(3, LaneState.HALTED, next=1, end=2, oldest_ms=1_600_000_000_000)
    site = Site(RUNNING, old, stuck)
    samples = site.samples()
    assert samples["wasm_executor_oldest_unanswered_timestamp_seconds"] == 1.7e9
    assert samples["wasm_executor_healthy"] == samples["wasm_executor_ready"] == 1
    site.lanes, site.draining = (stuck,), True
    samples = site.samples()
    assert samples["wasm_executor_oldest_unanswered_timestamp_seconds"] == 0
    assert samples["wasm_executor_healthy"] == samples["wasm_executor_ready"] == 0


def test_cpu_time_never_goes_back_while_a_process_is_reaped() -> None:
    site = Site()
    shown = []
    for seconds in (4.5, 3.0, 6.0):
        site.usage = Usage(1, seconds)
        shown.append(site.samples()["wasm_executor_cpu_seconds_total"])
    assert shown == [4.5, 4.5, 6.0]


def test_the_supervisor_feeds_its_own_series_each_time() -> None:
    site = Site()
    for _ in range(2):
        samples = site.samples()
        assert samples["wasm_executor_workers"] == 1
        assert samples["wasm_executor_workers_configured"] == 1
        assert samples["wasm_executor_resident_memory_bytes"] == 123
        assert "process_cpu_seconds_total" in samples
    assert 'wasm_executor_build_info{engine="wasmtime 50",version="1.0"} 1.0' in (
        site.get("/metrics").text
    )


def test_open_metrics_is_spoken_to_those_who_ask() -> None:
    kind = "application/openmetrics-text; version=1.0.0"
    answer = Site().get("/metrics", headers={"accept": kind})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")
    assert "_created" not in answer.text


@pytest.mark.parametrize("path", ["/health", "/healthz"])
def test_health_fails_only_when_no_lane_can_work(path: str) -> None:
    answer = Site(RUNNING, HALTED).get(path)
    assert answer.status_code == 200
    body: dict[str, Any] = answer.json()
    assert body["status"] == "ok"
    assert body["reasons"] == ["lane 1 is halted: foreign record at 7"]
    assert body["lanes"] == {"halted": 1, "running": 1}
    assert body["disabled_lanes"][0]["partition"] == 1
    assert Site(HALTED).get(path).status_code == 503


@pytest.mark.parametrize("path", ["/live", "/livez"])
def test_liveness_never_fails_for_a_lanes_sake(path: str) -> None:
    """A restart would not mend a halted lane, only repeat it."""
    assert Site(HALTED).get(path).status_code == 200


@pytest.mark.parametrize("path", ["/ready", "/readyz"])
def test_readiness_follows_the_workers_and_the_drain(path: str) -> None:
    site = Site(RUNNING)
    assert site.get(path).status_code == 200
    site.draining = True
    assert site.get(path).json()["reasons"] == ["draining"]
    site.draining, site.ready = False, False
    assert site.get(path).status_code == 503


def test_probes_need_no_token_and_everything_else_does() -> None:
    site = Site(RUNNING, token=TOKEN)
    for path in sorted(PROBES):
        assert site.get(path).status_code == 200
    for path in ("/", "/metrics", "/status", "/nothing"):
        refused = site.get(path)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        for wrong in ("Bearer x", TOKEN, f"bearer {TOKEN}", f"Bearer {TOKEN} "):
            if wrong.strip() != f"Bearer {TOKEN}":  # clients strip what surrounds it
                answer = site.get(path, headers={"authorization": wrong})
                assert answer.status_code == 401
    right = {"authorization": f"Bearer {TOKEN}"}
    assert site.get("/metrics", headers=right).status_code == 200
    assert site.get("/nothing", headers=right).status_code == 404


def test_two_authorization_headers_are_refused() -> None:
    site = Site(token=TOKEN)
    twice = [("authorization", f"Bearer {TOKEN}"), ("authorization", "Bearer x")]
    assert site.get("/status", headers=twice).status_code == 401


def test_status_is_a_versioned_document() -> None:
    site = Site(RUNNING)
    tally = Tally()
    tally.add(metrics.RESULTS, 3, metrics.SUCCEEDED)
    site.totals.absorb("w", tally.take())
    body = site.get("/status").json()
    assert body["schema"] == "wasm-executor/status/v1"
    assert body["service"]["workers"][0]["lanes"][0]["state"] == "running"
    assert body["audience"] == "wasm-executor/abc"
    assert body["engine"] == "wasmtime 50"
    assert body["results"]["succeeded"] == 3
    assert body["totals"]["wasm_executions_total"] == 0
    assert body["health"]["ok"] is True


def test_the_overview_has_no_script_and_escapes_what_it_shows() -> None:
    site = Site(RUNNING, LaneStatus(2, LaneState.HALTED, "<script>alert(1)</script>"))
    tally = Tally()
    tally.add(metrics.RESULTS, 1234567, metrics.SUCCEEDED)
    site.totals.absorb("w", tally.take())
    answer = site.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert "<script" not in answer.text
    assert "&lt;script&gt;" in answer.text
    assert "1,234,567" in answer.text
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("word", ["writing", "stand-by", "waiting"])
def test_the_overview_tells_of_the_file(word: str) -> None:
    site = Site()
    assert "audit.log" not in site.get("/").text
    site.audit_log = AuditLogStatus(
        "/var/log/audit.log", 7, writing=word == "writing", standby=word == "stand-by"
    )
    kind = "bad" if word == "waiting" else "good"
    assert f'<td class="{kind}">{word}</td>' in site.get("/").text


def test_the_overview_works_before_anything_is_known() -> None:
    text = Site().get("/").text
    assert "No lane is assigned" in text
    assert "Nothing yet." in text


def test_the_style_in_the_page_is_the_one_that_the_policy_allows() -> None:
    answer = Site().get("/")
    style = answer.text.split("<style>")[1].split("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("path", ["/", "/metrics", "/status", "/health"])
def test_no_page_may_be_stored_or_framed(path: str) -> None:
    headers = Site().get(path).headers
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_nothing_can_be_changed_through_the_port() -> None:
    site = Site()
    client = TestClient(build_app(site.view, site.totals, Exposition(
        site.totals, site.own, site.view, Usage, {}
    )))  # fmt: skip
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert client.request(method, "/status").status_code == 405
