"""What the operations manual asks Prometheus is what really happened.

A real Prometheus scrapes a loaded executor; the queries come from the manual's own
text and the dashboard's own JSON; the expected numbers are computed from the results
that the executor published, never from its metrics.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import time
from bisect import bisect_left
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stream_executor.http.metrics import EXECUTION_DURATION
from stream_executor.kafka.appender import Appender
from stream_executor.model.request import Call, ExecutionRequest, ModuleName
from stream_executor.model.scalars import ValueType, pack_value
from stream_executor.wire.requests import encode_json
from tests.deployment import ADD, TestDeployment, deployment
from tests.history import History, read_history
from tests.prometheus_server import Prometheus, prometheus

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

ROOT = Path(__file__).parents[2]
MANUAL = (ROOT / "tests" / "operations-manual.txt").read_text(encoding="utf-8")
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "wasm-executor.json").read_text())
WINDOW_S = 300  # the manual's [5m]
SPIN = '(module (func (export "spin") (loop (br 0))))'
TRAP = '(module (func (export "trap") unreachable))'
ADDED, TRAPPED, FORGED, SPINNING = 40, 3, 8, 2


def manuals_queries() -> dict[str, str]:
    """Give the manual's PromQL by the comment above each."""
    (block,) = re.findall(r"```promql\n(.*?)```", MANUAL, re.DOTALL)
    return dict(re.findall(r"^# (.+)\n(.+)$", block, re.MULTILINE))


def dashboards_queries() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


async def submit(made: TestDeployment, name: str, number: int, forged: int = 0) -> None:
    """Append so many signed calls, spread over the partitions, and forged ones."""
    args = pack_value(ValueType.I32, 1) * 2 if name == "add" else b""
    async with Appender(made.connection) as appender:
        for n in range(number + forged):
            request = ExecutionRequest(
                f"{name}-{n}", ModuleName(name, "1"), Call(name, args)
            )
            value, partition = encode_json(request), n % made.partitions
            topic = made.topics.requests
            token = made.signer().sign(topic, partition, value, now_s=int(time.time()))
            if n >= number:
                token = token[:-4] + b"AAAA"
            header = [("authorization", b"Bearer " + token)]
            await appender.append(topic, partition, value, header)


async def until(done: Callable[[], bool | Awaitable[bool]], what: str) -> None:
    try:
        async with asyncio.timeout(60):
            while True:
                answer = done()
                if answer if isinstance(answer, bool) else await answer:
                    return
                await asyncio.sleep(0.2)
    except TimeoutError:
        pytest.fail(f"never: {what}")


def quantile(q: float, durations_s: list[float]) -> float:
    """Estimate a quantile from our buckets as Prometheus documents it."""
    bounds = EXECUTION_DURATION.buckets
    counts = [0] * (len(bounds) + 1)
    for duration in durations_s:
        counts[bisect_left(bounds, duration)] += 1
    below = list(accumulate(counts))
    rank = q * len(durations_s)
    at = bisect_left(below, rank)
    if at == len(bounds):
        return bounds[-1]
    low, before = (bounds[at - 1], below[at - 1]) if at else (0.0, 0)
    return low + (bounds[at] - low) * (rank - before) / counts[at]


@pytest.mark.needs("prometheus")
@pytest.mark.needs("promtool")
@pytest.mark.timeout(180)
async def test_the_manuals_queries_and_the_dashboards_tell_the_truth(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    async with deployment(kafka_bootstrap, tmp_path, 2) as made:
        for name, module in (("add", ADD), ("trap", TRAP), ("spin", SPIN)):
            await made.publish(f"{name}@1", module)
        executor = made.start(
            WORKERS="2", WASM_EXECUTOR_CHILDREN="1", TIMEOUT_SECONDS="4",
            MAX_FUEL="1000000000000", HARD_MAX_FUEL="1000000000000",
        )  # fmt: skip
        await executor.ready()
        await executor.serving(1, 1)
        with prometheus(tmp_path, executor.port) as server:
            total = "wasm_executions_total"
            await until(lambda: server.query(total) != {}, "a first scrape")
            assert server.value(total) == 0

            await submit(made, "add", ADDED)
            await submit(made, "trap", TRAPPED)
            await submit(made, "add", 0, forged=FORGED)
            # Two guests, one in each worker, run until their deadline.
            await submit(made, "spin", SPINNING)
            concurrent = manuals_queries()["Concurrent executions"]
            await until(lambda: server.value(concurrent) == SPINNING, "both run")
            assert server.value("wasm_executor_concurrent_executions_capacity") == 2

            asked = ADDED + TRAPPED + FORGED + SPINNING
            history = await answered(made, asked)
            ran = [r for r in history.results.values() if r.engine is not None]
            await until(lambda: server.value(total) == len(ran), "all are counted")
            await until(lambda: server.value(concurrent) == 0, "all have ended")
            await the_manuals_numbers(server, history)
            await the_dashboards_panels(server)
            firing = 'ALERTS{alertname="WasmExecutorAuthFailures",alertstate="firing"}'
            # Fires a scrape after the flood; what fired is remembered.
            fired = f"max_over_time({firing}[5m])"
            await until(lambda: server.query(fired) != {}, "an alert")
            rules = server.get("/api/v1/rules")["data"]["groups"][0]["rules"]
            assert {rule["health"] for rule in rules} == {"ok"}
        _, page = executor.http("/metrics")
        assert linted(page) == (0, "")
        assert await executor.stop() == 0


def linted(page: str) -> tuple[int, str]:
    """Give what `promtool check metrics` says of a page of metrics."""
    ran = subprocess.run(
        ["promtool", "check", "metrics"],  # noqa: S607
        input=page,
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.returncode, ran.stdout + ran.stderr


async def answered(made: TestDeployment, number: int) -> History:
    history = History()

    async def all_are() -> bool:
        nonlocal history
        history = await read_history(made)
        return history.answered == number

    await until(all_are, f"{number} answers")
    return history


async def the_manuals_numbers(server: Prometheus, history: History) -> None:
    """Compare every query of the manual with what the results say.

    At the moment of the last sample and with the counters' zeros inside the window,
    Prometheus extrapolates nothing: a rate is exactly the increase over the window.
    """
    now_s = server.value("timestamp(wasm_executions_total)")
    results = history.results.values()
    ran = [r for r in results if r.engine is not None]
    failed = [r for r in ran if r.status != "SUCCEEDED"]
    refused = sum((r.code or "").startswith("auth_") for r in results)
    assert (len(ran), len(failed)) == (ADDED + TRAPPED + SPINNING, TRAPPED + SPINNING)
    assert refused == FORGED
    expected = {
        "Execution rate (req/sec)": len(ran) / WINDOW_S,
        "Failure rate (%)": len(failed) / len(ran) * 100,
        "P95 execution duration": quantile(0.95, [r.duration_us / 1e6 for r in ran]),
        "Concurrent executions": 0,
        "Auth success rate (%)": len(ran) / (len(ran) + refused) * 100,
    }
    assert set(expected) == set(manuals_queries())
    for name, query in manuals_queries().items():
        assert server.value(query, now_s) == pytest.approx(expected[name]), name
    by_code = server.query("wasm_executor_results_total > 0")
    codes = {re.search("code=([a-z_]+)", k)[1]: v for k, v in by_code.items()}  # type: ignore[index]
    assert codes == {
        "succeeded": ADDED, "trap": TRAPPED, "timeout": SPINNING,
        "auth_bad_signature": FORGED,
    }  # fmt: skip
    fuel = sum(r.fuel_consumed for r in ran)
    assert server.value("wasm_fuel_consumed_total") == fuel


async def the_dashboards_panels(server: Prometheus) -> None:
    """Every panel's query is one that Prometheus takes, of series that are there."""
    # Nothing is old or expires, nobody backed up, no file is kept: silence is right.
    quiet = {
        "Age of the oldest request", "Newest backup", "Certificates end in",
        "audit.log is behind",
    }  # fmt: skip
    for title, query in dashboards_queries():
        values = server.query(query)
        assert bool(values) is (title not in quiet), title


def test_the_dashboard_has_the_manuals_five_panels() -> None:
    shown = {query for _, query in dashboards_queries()}

    assert set(manuals_queries().values()) <= shown
