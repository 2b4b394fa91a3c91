"""The guarantees on real Kafka, with real processes: nothing lost, nothing doubled."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import orjson
import pytest
from aiokafka import AIOKafkaProducer

from stream_executor.kafka.appender import Appender, Outgoing
from stream_executor.kafka.reader import PartitionReader
from stream_executor.model.request import Call, ExecutionRequest, ModuleName
from stream_executor.model.scalars import ValueType, pack_value
from stream_executor.wire.requests import encode_json
from tests.deployment import ADD, TestDeployment, deployment
from tests.history import History, read_history
from tests.history.plain_run import plain_runs

if TYPE_CHECKING:
    from pathlib import Path

PARTITIONS = 8
REQUESTS = 20_000


def request(number: int) -> bytes:
    """Ask for number + 1."""
    args = pack_value(ValueType.I32, number) + pack_value(ValueType.I32, 1)
    return encode_json(
        ExecutionRequest(f"r-{number}", ModuleName("add", "1"), Call("add", args))
    )


def outgoing(made: TestDeployment, partition: int, number: int) -> Outgoing:
    """A signed request for one partition."""
    value = request(number)
    token = made.signer().sign(
        made.topics.requests, partition, value, now_s=int(time.time())
    )
    return Outgoing(value, headers=[("authorization", b"Bearer " + token)])


async def fill(made: TestDeployment, count: int) -> None:
    """Append so many requests, spread over the partitions, in small batches."""
    async with Appender(made.connection) as appender:
        for start in range(0, count, 25 * made.partitions):
            for partition in range(made.partitions):
                numbers = range(start + partition, count, made.partitions)[:25]
                await appender.append_many(
                    made.topics.requests,
                    partition,
                    [outgoing(made, partition, number) for number in numbers],
                )


async def answered(made: TestDeployment, at_least: int, within_s: float = 90) -> None:
    """Wait until the group's lanes have answered so many offsets in all."""
    async with asyncio.timeout(within_s):
        while await _answered(made) < at_least:  # noqa: ASYNC110 - other processes
            await asyncio.sleep(0.2)


async def _answered(made: TestDeployment) -> int:
    total = 0
    async with PartitionReader(made.connection) as reader:
        for partition in range(made.partitions):
            total += await reader.end_offset(made.topics.results, partition)
    return total


async def all_answered(made: TestDeployment, within_s: float = 120) -> History:
    """Wait until every request has its answer, and give the history."""
    until = time.monotonic() + within_s
    # Every result is what a plain local run gives, or it is counted as wrong.
    runs = plain_runs({"add@1": ADD}, 5_000_000)
    while True:
        history = await read_history(made, lambda _: runs)
        if not history.open:
            return history
        assert time.monotonic() < until, f"{history.open} requests are not answered"
        await asyncio.sleep(1)


async def verifies(made: TestDeployment, requests: int) -> None:
    """`audit verify` finds chain, seals, completeness, gaps and results in order."""
    code, out, err = await made.command("audit", "verify", "--json")
    assert code == 0, out + err
    report = orjson.loads(out)
    assert report["verdict"] == "ok", report
    assert sum(p["answered"] for p in report["partitions"]) == requests


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_exactly_once_through_sigkill_and_a_joining_executor(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    """20,000 requests, two executors; one is killed in the middle, another joins."""
    async with deployment(kafka_bootstrap, tmp_path, PARTITIONS) as made:
        await made.publish("add@1", ADD)
        first, second = made.start(), made.start()
        await asyncio.gather(first.ready(), second.ready())
        filling = asyncio.create_task(fill(made, REQUESTS))
        await answered(made, REQUESTS // 4)
        first.kill()
        third = made.start(WORKERS="2")
        await filling
        history = await all_answered(made)
        exits = await asyncio.gather(second.stop(), third.stop())

        assert history.faults == {}
        assert (history.requests, history.answered) == (REQUESTS, REQUESTS)
        assert history.codes == {"succeeded": REQUESTS}
        assert list(exits) == [0, 0]
        await verifies(made, REQUESTS)


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_exactly_once_with_a_transactional_producer_that_aborts(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    """Aborted requests are never executed; their offsets and markers are attested."""
    async with deployment(kafka_bootstrap, tmp_path, 2) as made:
        await made.publish("add@1", ADD)
        executor = made.start()
        await executor.ready()
        producer = AIOKafkaProducer(
            bootstrap_servers=kafka_bootstrap, transactional_id=f"{made.prefix}-client"
        )
        await producer.start()
        committed = 0
        for number in range(0, 200, 10):
            await producer.begin_transaction()
            for at in range(number, number + 10):
                out = outgoing(made, at % 2, at)
                await producer.send(
                    made.topics.requests,
                    out.value,
                    partition=at % 2,
                    headers=list(out.headers),
                )
            if number % 30 == 0:
                await producer.abort_transaction()
            else:
                await producer.commit_transaction()
                committed += 10
        await producer.stop()
        history = await all_answered(made)
        code = await executor.stop()

        assert history.faults == {}
        assert (history.requests, history.answered) == (committed, committed)
        assert history.attested >= 200 - committed
        assert code == 0
        await verifies(made, committed)


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_sigterm_under_load_drains_and_loses_nothing(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    """Exit 0 within 30 s, and the next executor goes on where this one stopped."""
    async with deployment(kafka_bootstrap, tmp_path, 4) as made:
        await made.publish("add@1", ADD)
        first = made.start()
        await first.ready()
        filling = asyncio.create_task(fill(made, 8_000))
        await answered(made, 1_000)
        code = await first.stop(within_s=30)
        await filling
        second = made.start(WASM_EXECUTOR_INSTANCE_ID=f"{made.prefix}-0")
        await second.ready()
        history = await all_answered(made)

        assert code == 0
        assert history.faults == {}
        assert history.codes == {"succeeded": 8_000}
        assert await second.stop() == 0
