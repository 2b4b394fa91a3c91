"""The running service as its operator sees it: probes, metrics, status, scaling."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from stream_executor.kafka.appender import Appender
from stream_executor.model.request import Call, ExecutionRequest, ModuleName
from stream_executor.model.scalars import ValueType, pack_value
from stream_executor.wire.requests import encode_json
from tests.deployment import ADD, Executor, TestDeployment, deployment

if TYPE_CHECKING:
    from pathlib import Path

MANUAL = (
    "wasm_executions_total",
    "wasm_executions_failed_total",
    "wasm_execution_duration_seconds_count",
    "wasm_concurrent_executions",
    "wasm_auth_success_total",
    "wasm_auth_failed_total",
    "wasm_fuel_consumed_total",
)


def metrics(executor: Executor) -> dict[str, float]:
    """Every unlabelled series of /metrics."""
    _, text = executor.http("/metrics")
    lines = [
        line.rsplit(" ", 1) for line in text.splitlines() if line[:1] not in ("#", "")
    ]
    return {name: float(value) for name, value in lines if "{" not in name}


async def submit(made: TestDeployment, partition: int, *, forged: bool = False) -> None:
    """Append one request."""
    args = pack_value(ValueType.I32, 1) * 2
    value = encode_json(
        ExecutionRequest("r", ModuleName("add", "1"), Call("add", args))
    )
    topic = made.topics.requests
    token = made.signer().sign(topic, partition, value, now_s=int(time.time()))
    if forged:
        token = token[:-4] + b"AAAA"
    async with Appender(made.connection) as appender:
        header = [("authorization", b"Bearer " + token)]
        await appender.append(topic, partition, value, header)


@pytest.mark.timeout(120)
async def test_metrics_are_there_at_zero_and_sum_over_processes(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    """The manual's seven, without labels, whichever worker counted."""
    async with deployment(kafka_bootstrap, tmp_path, 4) as made:
        await made.publish("add@1", ADD)
        executor = made.start(WORKERS="2")
        await executor.ready()

        await executor.serving(2, 2)

        assert {n: metrics(executor)[n] for n in MANUAL} == dict.fromkeys(MANUAL, 0)

        for partition in range(4):
            await submit(made, partition)
        await submit(made, 0, forged=True)
        expected = {
            "wasm_executions_total": 4,
            "wasm_executions_failed_total": 0,
            "wasm_execution_duration_seconds_count": 4,
            "wasm_concurrent_executions": 0,
            "wasm_auth_success_total": 4,
            "wasm_auth_failed_total": 1,
            "wasm_fuel_consumed_total": 16,
        }
        shown: dict[str, float] = {}
        until = time.monotonic() + 30
        while shown != expected and time.monotonic() < until:
            await asyncio.sleep(0.2)  # workers report twice a second
            shown = {n: metrics(executor)[n] for n in MANUAL}

        assert shown == expected
        assert [executor.http(p)[0] for p in ("/live", "/ready", "/health")] == [
            200
        ] * 3
        assert sorted(executor.running_lanes()) == [0, 1, 2, 3]
        assert await executor.stop() == 0


@pytest.mark.timeout(120)
async def test_executors_of_one_group_share_the_partitions(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    """Scaling out needs no human: a second process takes over its share."""
    async with deployment(kafka_bootstrap, tmp_path, 4) as made:
        first = made.start()
        await first.ready()
        second = made.start()
        await second.ready()
        await first.serving(2)
        await second.serving(2)

        both = first.running_lanes() + second.running_lanes()
        assert sorted(both) == [0, 1, 2, 3]
        assert await first.stop() == 0
        assert await second.stop() == 0


@pytest.mark.timeout(60)
async def test_another_operators_topic_is_refused_with_the_remedy(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    """Exit 4 and a sentence that names the command; no restart loop."""
    async with deployment(kafka_bootstrap, tmp_path, 1) as made:
        executor = made.start(
            WASM_EXECUTOR_OPERATOR_PUBLIC_KEY="11" * 32,
        )

        assert await asyncio.to_thread(executor.process.wait, 50) == 4
        assert "operator" in executor.log.read_text()
