"""Gaps are proven from raw headers, or not at all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaProducer

from stream_executor.kafka.connection import KafkaConnection
from stream_executor.kafka.gaps import GapProver
from stream_executor.kafka.reader import PartitionReader
from stream_executor.model.errors import (
    BrokerRefusedError,
    IntegrityError,
    UnavailableError,
)
from stream_executor.model.record import Range

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.integration.kafka.conftest import MakeTopic


@pytest.fixture
async def producers(
    kafka_bootstrap: str, topic_prefix: str
) -> AsyncIterator[tuple[AIOKafkaProducer, AIOKafkaProducer, AIOKafkaProducer]]:
    """Two transactional producers and a plain one."""
    made = [
        AIOKafkaProducer(
            bootstrap_servers=kafka_bootstrap,
            transactional_id=f"{topic_prefix}{index}" if index else None,
            enable_idempotence=True,
        )
        for index in range(3)
    ]
    for producer in made:
        await producer.start()
    yield made[1], made[2], made[0]
    for producer in made:
        await producer.stop()


async def send(producer: AIOKafkaProducer, topic: str, value: bytes) -> int:
    sent = await (await producer.send(topic, value, partition=0))
    return int(sent.offset)


async def interleave(
    producers: tuple[AIOKafkaProducer, AIOKafkaProducer, AIOKafkaProducer],
    topic: str,
    connection: KafkaConnection,
) -> None:
    """Write a log with every kind of offset; the numbers are theirs."""
    a, b, plain = producers
    async with PartitionReader(connection) as reader:

        async def marked(end: int) -> None:
            """Wait for a marker: the coordinator answers before it is written."""
            while await reader.end_offset(topic, 0) < end:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

        await a.begin_transaction()
        await b.begin_transaction()
        assert await send(a, topic, b"a0 aborted") == 0
        assert await send(b, topic, b"b0 committed") == 1
        assert await send(plain, topic, b"plain") == 2
        assert await send(a, topic, b"a1 aborted") == 3
        await a.abort_transaction()
        await marked(5)
        assert await send(b, topic, b"b1 committed") == 5
        await b.commit_transaction()
        await marked(7)
        await a.begin_transaction()
        assert await send(a, topic, b"a2 committed") == 7
        await a.commit_transaction()
        await marked(9)
        await b.begin_transaction()
        assert await send(b, topic, b"b2 aborted") == 9
        await b.abort_transaction()
        await marked(11)


HOLES = [Range(0, 1), Range(3, 5), Range(6, 7), Range(8, 11)]


@pytest.mark.parametrize("fetch_bytes", [1, 200, 1 << 20])
async def test_every_empty_offset_is_found_and_no_other(
    connection: KafkaConnection,
    make_topic: MakeTopic,
    producers: tuple[AIOKafkaProducer, AIOKafkaProducer, AIOKafkaProducer],
    fetch_bytes: int,
) -> None:
    topic = await make_topic("requests")
    await interleave(producers, topic, connection)
    async with (
        GapProver(connection, fetch_bytes=fetch_bytes) as prover,
        PartitionReader(connection, fetch_bytes=fetch_bytes) as reader,
    ):
        end = await reader.end_offset(topic, 0)
        assert end == 11
        assert await prover.find_gaps(topic, 0, 0, end) == HOLES
        assert await prover.find_gaps(topic, 0, 4, 10) == [
            Range(4, 5),
            Range(6, 7),
            Range(8, 10),
        ]
        for hole in HOLES:
            assert await prover.prove_gap(topic, 0, hole.start, hole.end) == [hole]
        assert await prover.prove_gap(topic, 0, 9, 10) == [Range(9, 10)]
        assert await prover.prove_gap(topic, 0, 3, 3) == []
        # The reader's idea of the same log.
        held = [
            record.offset
            async for records in reader.read(topic, 0, 0, end)
            for record in records
        ]
        assert held == [1, 2, 5, 7]
        assert await reader.read_one(topic, 0, 3) is None
        assert (await reader.read_one(topic, 0, 5)) is not None


async def test_a_gap_with_a_record_in_it_is_no_gap(
    connection: KafkaConnection,
    make_topic: MakeTopic,
    producers: tuple[AIOKafkaProducer, AIOKafkaProducer, AIOKafkaProducer],
) -> None:
    topic = await make_topic("requests")
    await interleave(producers, topic, connection)
    async with GapProver(connection) as prover:
        for start, end, first in ((0, 2, 1), (2, 3, 2), (3, 6, 5), (4, 9, 5)):
            with pytest.raises(IntegrityError, match=f"offset {first} holds"):
                await prover.prove_gap(topic, 0, start, end)


async def test_what_is_not_decided_is_not_proven(
    connection: KafkaConnection,
    make_topic: MakeTopic,
    producers: tuple[AIOKafkaProducer, AIOKafkaProducer, AIOKafkaProducer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stream_executor.kafka.gaps._EMPTY_ANSWERS", 3)
    topic = await make_topic("requests")
    transactional, _, plain = producers
    await send(plain, topic, b"before")
    await transactional.begin_transaction()
    await send(transactional, topic, b"open")
    async with (
        GapProver(connection) as prover,
        PartitionReader(connection, stall_deadline_s=0.3) as reader,
    ):
        with pytest.raises(UnavailableError, match="not decided"):
            await prover.prove_gap(topic, 0, 1, 2)
        with pytest.raises(UnavailableError, match="stood still at 1 of 2"):
            async for _ in reader.read(topic, 0, 0, await reader.end_offset(topic, 0)):
                pass
        with pytest.raises(UnavailableError, match="not decided"):
            await prover.prove_gap(topic, 0, 2, 3)
        with pytest.raises(BrokerRefusedError):
            await prover.prove_gap(topic, 0, 50, 51)
    await transactional.abort_transaction()


async def test_reading_by_time_from_the_beginning_and_following(
    connection: KafkaConnection,
    make_topic: MakeTopic,
    producers: tuple[AIOKafkaProducer, AIOKafkaProducer, AIOKafkaProducer],
) -> None:
    topic = await make_topic("requests")
    plain = producers[2]
    for value in (b"one", b"two"):
        await send(plain, topic, value)
    async with PartitionReader(connection) as reader:
        assert await reader.begin_offset(topic, 0) == 0
        first = await reader.read_one(topic, 0, 0)
        assert first is not None
        assert await reader.offset_for_time(topic, 0, first.timestamp) == 0
        assert await reader.offset_for_time(topic, 0, first.timestamp + 10**9) is None
        assert await reader.partition_count(topic) == 1
        seen: list[bytes | None] = []
        async for records in reader.read(topic, 0, 1):
            seen += [record.value for record in records]
            if seen == [b"two"]:
                await send(plain, topic, b"three")
            if len(seen) == 2:
                break
        assert seen == [b"two", b"three"]
        with pytest.raises(BrokerRefusedError) as caught:
            await anext(reader.read(topic, 0, 99, 100))
        assert caught.value.reason == "other"


async def test_an_unknown_topic_or_partition_is_refused_as_such(
    kafka_bootstrap: str, make_topic: MakeTopic, topic_prefix: str
) -> None:
    quick = KafkaConnection(bootstrap_servers=kafka_bootstrap, request_timeout_ms=3_000)
    topic = await make_topic("requests")
    async with PartitionReader(quick) as reader:
        for name, partition in ((topic, 5), (topic_prefix + "none", 0)):
            with pytest.raises(BrokerRefusedError) as caught:
                await reader.end_offset(name, partition)
            assert caught.value.reason == "unknown_topic"
