"""A broker that lost the tail of a log: the lane halts, and goes on by order.

Of requests, under an executor that runs; of the audit log, which results outlive; and
under a writer that has not noticed when it commits next.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest
from aiokafka import AIOKafkaProducer

from stream_executor.embedded import EmbeddedKafka
from stream_executor.kafka.admin import KafkaAdmin
from stream_executor.kafka.appender import Appender
from stream_executor.kafka.batches import parse_batches
from stream_executor.kafka.connection import KafkaConnection
from stream_executor.kafka.reader import PartitionReader
from stream_executor.kafka.topics import TopicNames, desired
from stream_executor.kafka.writer import LaneWriter
from stream_executor.model.audit import RequestExecuted, Resumed
from stream_executor.model.errors import IndefiniteError, IntegrityError
from stream_executor.model.record import OutRecord
from stream_executor.wire.avro import class_of
from stream_executor.wire.results import decode_result, encode_json
from tests.deployment import ADD, Executor, TestDeployment, deployment
from tests.integration.test_recovery import (
    diagnosed,
    lanes,
    resume,
    states,
    sum_of,
    verified,
)
from tests.integration.test_secrecy import tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SOUND, CUT, REFILLED = range(3)
BOTH = (CUT, REFILLED)
ASKED, LEFT = 3, 1  # requests of each lane, and what is left of them
AGAIN = {
    "doubled": "CUT and REFILLED: another request took an answered one's offset",
    "reordered": "the same",
    "phantom": "CUT: nothing took the place of its last answered request",
}
# Of two lanes whose audit log lost its tail: how many results of a transaction that
# was aborted stand behind the last committed one.
ABORTED = {1: 10, 2: 500}
RUMOURS = {
    "unaudited": "the events of two answers are gone",
    "unattested": "each lane was ordered to pass over their offsets",
}


def cut(data: Path, topic: str, partition: int, end: int) -> None:
    """Take a stopped broker's records from an offset on, as unclean elections do."""
    folder = data / "kafka" / f"{topic}-{partition}"
    (log,) = folder.glob("*.log")
    content = log.read_bytes()
    kept = [one for one in parse_batches(content) if one.last_offset < end]
    log.write_bytes(content[: kept[-1].end])
    for derived in (*folder.glob("*index"), *folder.glob("*.snapshot")):
        derived.unlink()  # Kafka makes them again


@contextmanager
def frozen(executor: Executor) -> Iterator[None]:
    """Stop a whole executor for a while: it sees nothing of what happens."""
    family = list(tree(executor.process.pid))
    for pid in family:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in reversed(family):
            os.kill(pid, signal.SIGCONT)


async def ask_all(made: TestDeployment, count: int) -> None:
    """Have each lane answer so many requests."""
    async with Appender(made.connection) as appender:
        for partition in range(made.partitions):
            for number in range(count):
                offset = await made.ask(appender, partition, sum_of(number))
                await made.result(partition, offset)


async def shown(made: TestDeployment, executor: Executor) -> None:
    """Everybody is told what happened and what to do; the other lane works."""
    await states(executor, {SOUND: "running"} | dict.fromkeys(BOTH, "halted"))
    found = await diagnosed(made)
    code, text = await asyncio.to_thread(executor.http, "/ready")
    assert code == 200
    disabled = {one["partition"]: one for one in json.loads(text)["disabled_lanes"]}
    address = f"http://127.0.0.1:{executor.port}"
    _, out, _ = await made.command("lane", "list", "--json", "--http", address)
    listed = {one["partition"]: one for one in map(json.loads, out.splitlines())}
    of_status = await lanes(executor)
    assert found[SOUND]["damage"] is None
    assert set(disabled) == set(BOTH)
    for lane in BOTH:
        assert found[lane]["damage"] == "requests_replaced"
        assert f"`wasm-executor lane resume {lane}`" in found[lane]["remedy"]
        for where in (disabled, listed, of_status):
            assert found[lane]["finding"] in where[lane]["reason"]
            assert found[lane]["remedy"] in where[lane]["reason"]
    async with Appender(made.connection) as appender:
        offset = await made.ask(appender, SOUND, sum_of(9))
    assert (await made.result(SOUND, offset)).status == "SUCCEEDED"


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_requests_that_a_broker_lost_halt_their_lanes(tmp_path: Path) -> None:
    """One log ends early; the other was filled again before anybody looked."""
    data = tmp_path / "kafka"
    with EmbeddedKafka(data) as kafka:
        async with deployment(kafka.bootstrap, tmp_path, 3, damaged=AGAIN) as made:
            await made.publish("add@1", ADD)
            executor = made.start(WASM_EXECUTOR_INSTANCE_ID="one")
            await executor.ready()
            await ask_all(made, ASKED)
            with frozen(executor):
                await asyncio.to_thread(kafka.stop)
                for lane in BOTH:
                    cut(data, made.topics.requests, lane, LEFT)
                await asyncio.to_thread(kafka.start)
                async with Appender(made.connection) as appender:
                    for number in range(10, 10 + ASKED):
                        await made.ask(appender, REFILLED, sum_of(number))
            await shown(made, executor)
            executor.kill()
            executor = made.start(WASM_EXECUTOR_INSTANCE_ID="one")
            await executor.ready()
            await shown(made, executor)

            for lane in BOTH:
                code, err = await resume(made, lane)
                assert code == 0, err
            await states(executor, dict.fromkeys(range(3), "running"))
            await ask_all(made, 1)
            assert await executor.stop() == 0
            for lane, part in (await verified(made)).items():
                assert (part["findings"], part["lost"], part["foreign"]) == ([], [], [])
                leaves = await made.records(made.topics.audit, lane)
                kinds = [class_of(leaf.value or b"") for leaf in leaves]
                assert kinds.count(Resumed) == (lane in BOTH)


async def abort(made: TestDeployment, lane: int, count: int) -> None:
    """Write results that never count, as an owner does that dies in its transaction.

    Whoever read them would believe that the lane has answered that much.
    """
    topics = made.topics
    last = (await made.records(topics.results, lane))[-1].value or b""
    rumour = msgspec.structs.replace(decode_result(last), offset=1_000, seq=1_000)
    owner = LaneWriter(
        made.connection, results_topic=topics.results, audit_topic=topics.audit,
        partition=lane,
    )  # fmt: skip
    producer = AIOKafkaProducer(
        bootstrap_servers=made.bootstrap, transactional_id=owner.transactional_id
    )
    await producer.start()
    try:
        await producer.begin_transaction()
        for number in range(count):
            value = encode_json(msgspec.structs.replace(rumour, offset=1_000 + number))
            await producer.send(topics.results, value, partition=lane)
        await producer.flush()
        await producer.abort_transaction()
    finally:
        await producer.stop()


async def answered(made: TestDeployment, lane: int) -> list[int]:
    """Give the offsets that results answer, in the order of the log."""
    records = await made.records(made.topics.results, lane)
    results = [decode_result(record.value or b"") for record in records]
    return [one.offset + n for one in results for n in range(one.count)]


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_results_tell_of_an_audit_tail_that_a_broker_lost(tmp_path: Path) -> None:
    """Although an aborted transaction's results stand behind them, many or few."""
    data = tmp_path / "kafka"
    with EmbeddedKafka(data) as kafka:
        async with deployment(kafka.bootstrap, tmp_path, 3, damaged=RUMOURS) as made:
            await made.publish("add@1", ADD)
            executor = made.start(WASM_EXECUTOR_INSTANCE_ID="one")
            await executor.ready()
            await ask_all(made, ASKED)
            executor.kill()
            ends = {}
            for lane, count in ABORTED.items():
                await abort(made, lane, count)
                leaves = await made.records(made.topics.audit, lane)
                events = [
                    leaf.offset
                    for leaf in leaves
                    if class_of(leaf.value or b"") is RequestExecuted
                ]
                ends[lane] = events[LEFT]
            await asyncio.to_thread(kafka.stop)
            for lane, end in ends.items():
                cut(data, made.topics.audit, lane, end)
            await asyncio.to_thread(kafka.start)

            executor = made.start(WASM_EXECUTOR_INSTANCE_ID="one")
            await executor.ready()
            await states(executor, {SOUND: "running"} | dict.fromkeys(ends, "halted"))
            for lane, one in (await diagnosed(made)).items():
                assert one["damage"] == ("audit_tail_lost" if lane in ends else None)
            for lane in ends:
                assert await answered(made, lane) == list(range(ASKED))
                code, err = await resume(made, lane)
                assert code == 0, err
            await states(executor, dict.fromkeys(range(3), "running"))
            await ask_all(made, 1)
            assert await executor.stop() == 0
            for lane, part in (await verified(made)).items():
                lost = [{"start": LEFT, "end": ASKED}] if lane in ends else []
                assert (part["findings"], part["lost"], part["foreign"]) == (
                    [], lost, [],
                )  # fmt: skip
                assert await answered(made, lane) == list(range(ASKED + 1))


NAMES = TopicNames()


async def values(connection: KafkaConnection, topic: str) -> list[bytes | None]:
    """Give what a reader of committed records sees."""
    async with PartitionReader(connection) as reader:
        end = await reader.end_offset(topic, 0)
        return [r.value async for rs in reader.read(topic, 0, 0, end) for r in rs]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("left", "named", "message"),
    [
        # Of what a producer wrote something is left: Kafka knows the last sequence
        # number, and the next one does not follow it.
        (1, IndefiniteError, "OutOfOrderSequenceNumber"),
        # Nothing is left: any number is right for a producer that Kafka never saw,
        # so the offset alone tells.
        (0, IntegrityError, "expected an offset from .* on, got 1: the log has lost"),
    ],
    ids=["a part of what it wrote", "all that it wrote"],
)
@pytest.mark.parametrize("lost", ["results", "audit"])
async def test_a_writer_under_which_a_log_lost_its_tail_writes_nothing_more(
    tmp_path: Path, lost: str, left: int, named: type[Exception], message: str
) -> None:
    data = tmp_path / "kafka"
    with EmbeddedKafka(data) as kafka:
        connection = KafkaConnection(bootstrap_servers=kafka.bootstrap)
        async with KafkaAdmin(connection) as admin, Appender(connection) as appender:
            await admin.apply(desired(NAMES, partitions=1, brokers=1))
            for topic in (NAMES.results, NAMES.audit):
                await appender.append(topic, 0, b"genesis")

        def writer() -> LaneWriter:
            return LaneWriter(
                connection, results_topic=NAMES.results, audit_topic=NAMES.audit,
                partition=0,
            )  # fmt: skip

        async with writer() as unaware:
            for number in range(ASKED):
                value = b"%d" % number
                await unaware.commit([OutRecord(value)], [value])
            await asyncio.to_thread(kafka.stop)
            # Behind each transaction's record stands its marker.
            cut(data, getattr(NAMES, lost), 0, 1 + 2 * left)
            await asyncio.to_thread(kafka.start)
            assert unaware.tainted is None
            with pytest.raises(named, match=message):
                await unaware.commit([OutRecord(b"never")], [b"never"])
            with pytest.raises(IndefiniteError, match="in doubt since"):
                await unaware.commit([], [b"never"])
        async with writer():
            for topic in ("results", "audit"):
                count = left if topic == lost else ASKED
                whole = [b"genesis", *(b"%d" % number for number in range(count))]
                assert await values(connection, getattr(NAMES, topic)) == whole
