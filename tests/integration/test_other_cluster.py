"""Another cluster answers at the brokers' address for a while; nothing of it counts."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from stream_executor.embedded import EmbeddedKafka
from stream_executor.kafka.admin import KafkaAdmin
from stream_executor.kafka.appender import Appender
from stream_executor.kafka.reader import PartitionReader
from stream_executor.model.conditions import REMEDIES, Condition
from tests.deployment import ADD, Executor, TestDeployment, deployment
from tests.integration.test_audit_log import Host
from tests.integration.test_conditions import held, until
from tests.integration.test_exactly_once import verifies
from tests.integration.test_recovery import diagnosed, lanes, states, sum_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@asynccontextmanager
async def instead_of(kafka: EmbeddedKafka, folder: Path) -> AsyncIterator[None]:
    """Have another cluster answer where a broker did, which comes back afterwards."""
    await asyncio.to_thread(kafka.stop)
    other = EmbeddedKafka(folder, ports=kafka._ports)
    await asyncio.to_thread(other.start)
    try:
        yield
    finally:
        await asyncio.to_thread(other.stop)
        await asyncio.to_thread(kafka.start)


async def written(made: TestDeployment) -> list[int]:
    """Give how many records requests, results and audit hold."""
    topics = made.topics
    async with PartitionReader(made.connection) as reader:
        return [
            sum([await reader.end_offset(topic, p) for p in range(made.partitions)])
            for topic in (topics.requests, topics.results, topics.audit)
        ]


async def ask_each(made: TestDeployment) -> list[int]:
    """Ask each lane for a sum; give the offsets by partition."""
    async with Appender(made.connection) as appender:
        return [
            await made.ask(appender, partition, sum_of(partition))
            for partition in range(made.partitions)
        ]


def fenced(data: Path) -> bool:
    """Say whether any transactional producer ever came to a broker."""
    return any((data / "kafka").glob("__transaction_state*"))


def refusals(executor: Executor) -> float:
    """Give how often lanes were refused what they tried."""
    _, text = executor.http("/metrics")
    name = 'wasm_executor_commit_failures_total{class="permanent"} '
    lines = [line for line in text.splitlines() if line.startswith(name)]
    return float(lines[0].rpartition(" ")[2]) if lines else 0.0


async def shown(made: TestDeployment, executor: Executor) -> None:
    """Every lane is blocked; everybody is told why, and what to do."""
    await until(lambda: executor.http("/ready")[0] == 503)
    assert held(executor) == {Condition.CLUSTER_CHANGED}
    async with KafkaAdmin(made.connection) as admin:
        other = (await admin.cluster()).cluster_id
    reason = f"cluster {other} answers; this worker belongs to {made.view.cluster_id}"
    disabled = json.loads(executor.http("/ready")[1])["disabled_lanes"]
    address = f"http://127.0.0.1:{executor.port}"
    _, out, _ = await made.command("lane", "list", "--json", "--http", address)
    listed = list(map(json.loads, out.splitlines()))
    assert len(disabled) == len(listed) == made.partitions
    for lane in (*disabled, *listed, *(await lanes(executor)).values()):
        assert (lane["state"], lane["reason"]) == ("blocked", reason)
    trouble = (
        f"{Condition.CLUSTER_CHANGED}: {reason}; {REMEDIES[Condition.CLUSTER_CHANGED]}"
    )
    assert trouble in executor.http("/health")[1]


async def refuses_to_start(made: TestDeployment) -> str:
    """A start where another cluster answers ends; give what it says."""
    executor = made.start()
    assert await asyncio.to_thread(executor.process.wait, 60) == 4
    said: str = executor.log.read_text()
    assert "KAFKA_BOOTSTRAP_SERVERS" in said
    return said


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_running_executor_waits_for_its_own_cluster(tmp_path: Path) -> None:
    """With topics of the same names, before somebody's ceremony and after it."""
    with EmbeddedKafka(tmp_path / "kafka") as kafka:
        async with deployment(kafka.bootstrap, tmp_path, 2) as made:
            await made.publish("add@1", ADD)
            host = Host(made)
            executor = host.start()
            await executor.ready()
            for partition, offset in enumerate(await ask_each(made)):
                await made.result(partition, offset)

            async with instead_of(kafka, tmp_path / "other"):
                apply = ("topics", "apply", "--partitions", "2")
                assert (await made.command(*apply))[0] == 0
                await states(executor, {0: "blocked", 1: "blocked"})
                assert await written(made) == [0, 0, 0]
                for found in (await diagnosed(made)).values():
                    assert found["damage"] == "no_genesis"
                    assert "another cluster answers" in found["finding"]
                    assert "KAFKA_BOOTSTRAP_SERVERS" in found["remedy"]
                assert "holds no genesis" in await refuses_to_start(made)

                keys = str(tmp_path / "others")
                begin = ("init", "--keys", keys, "--name", made.prefix)
                assert (await made.command(*begin))[0] == 0
                await ask_each(made)
                before = refusals(executor)
                await until(lambda: refusals(executor) >= before + 2)
                await shown(made, executor)
                assert await written(made) == [2, 0, 2]  # theirs
                code, _, err = await made.command("audit", "doctor")
                assert (code, "another cluster answers" in err) == (1, True), err
                assert "operator key" in await refuses_to_start(made)
                assert not fenced(tmp_path / "other")
                assert fenced(tmp_path / "kafka")

            await states(executor, {0: "running", 1: "running"})
            await until(lambda: held(executor) == set())
            for partition, offset in enumerate(await ask_each(made)):
                result = await made.result(partition, offset)
                assert result.status == "SUCCEEDED"
            await host.complete()  # audit.log, with none of the other's lines
            assert await executor.stop() == 0
            # One worker and one writer of audit.log, all the time.
            assert executor.log.read_text().count('"process.started"') == 2
            await verifies(made, 4)
