"""The fetch of requests: positions, markers, pausing, hostile batches."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from stream_executor.kafka.fetcher import TopicFetcher
from stream_executor.kafka.writer import LaneWriter
from stream_executor.model.errors import BrokerRefusedError
from stream_executor.model.record import OutRecord

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stream_executor.kafka.connection import KafkaConnection
    from stream_executor.model.record import Record
    from tests.integration.kafka.conftest import MakeTopic

WAIT_S = 10.0


async def take(
    fetcher: TopicFetcher, wanted: Mapping[int, int]
) -> dict[int, list[Record]]:
    """Take records until each partition has given so many."""
    taken: dict[int, list[Record]] = {partition: [] for partition in wanted}
    deadline = time.monotonic() + WAIT_S
    while any(len(taken[p]) < count for p, count in wanted.items()):
        assert time.monotonic() < deadline, taken
        for partition, records in (await fetcher.getmany(7, 200)).items():
            taken[partition] += records
    return taken


async def until_position(fetcher: TopicFetcher, partition: int, position: int) -> None:
    deadline = time.monotonic() + WAIT_S
    while fetcher.position(partition) < position:
        assert time.monotonic() < deadline, fetcher.position(partition)
        assert await fetcher.getmany(10, 50) == {}


def offsets(records: Sequence[Record]) -> list[int]:
    return [record.offset for record in records]


async def write(
    connection: KafkaConnection, topic: str, partition: int, *counts: int
) -> None:
    """Write transactions of so many records each (the audit half of a lane)."""
    async with LaneWriter(
        connection, results_topic=topic, audit_topic=topic, partition=partition
    ) as writer:
        for count in counts:
            await writer.commit([], [b"%d" % index for index in range(count)])


async def test_every_partition_is_fetched_from_its_own_offset(
    connection: KafkaConnection, make_topic: MakeTopic
) -> None:
    topic = await make_topic("requests", 3)
    for partition in range(3):
        await write(connection, topic, partition, 20)
    async with TopicFetcher(connection, topic) as fetcher:
        fetcher.assign({0: 0, 2: 15})
        taken = await take(fetcher, {0: 20, 2: 5})
        assert offsets(taken[0]) == list(range(20))
        assert offsets(taken[2]) == list(range(15, 20))
        assert taken[0][0].value == b"0"
        assert taken[0][0].timestamp_type == 1
        await until_position(fetcher, 0, 21)
        assert fetcher.high_watermark(0) == 21
        assert fetcher.last_stable(0) == 21
        fetcher.assign({1: 0, 2: 21})
        taken = await take(fetcher, {1: 20, 2: 0})
        assert offsets(taken[1]) == list(range(20))
        assert taken[2] == []
        fetcher.assign({})
        assert await fetcher.getmany(10, 50) == {}


async def test_the_position_moves_over_markers_without_any_record(
    connection: KafkaConnection, make_topic: MakeTopic
) -> None:
    topic = await make_topic("requests")
    await write(connection, topic, 0, 1, 1, 1)
    async with TopicFetcher(connection, topic) as fetcher:
        fetcher.assign({0: 0})
        taken = await take(fetcher, {0: 3})
        assert offsets(taken[0]) == [0, 2, 4]
        await until_position(fetcher, 0, 6)
        fetcher.assign({0: 5})
        await until_position(fetcher, 0, 6)


async def test_a_paused_partition_waits_and_loses_nothing(
    connection: KafkaConnection, make_topic: MakeTopic
) -> None:
    topic = await make_topic("requests", 2)
    await write(connection, topic, 0, 5)
    await write(connection, topic, 1, 5)
    async with TopicFetcher(connection, topic) as fetcher:
        fetcher.assign({0: 0, 1: 0})
        fetcher.pause([1])
        taken = await take(fetcher, {0: 5})
        assert 1 not in taken
        fetcher.resume([1])
        assert offsets((await take(fetcher, {1: 5}))[1]) == list(range(5))


async def test_new_records_arrive_while_getmany_waits(
    connection: KafkaConnection, make_topic: MakeTopic
) -> None:
    topic = await make_topic("requests")
    async with TopicFetcher(connection, topic) as fetcher:
        fetcher.assign({0: 0})
        waiting = asyncio.create_task(fetcher.getmany(10, 9_000))
        await write(connection, topic, 0, 2)
        assert offsets((await waiting)[0]) == [0, 1]


async def test_a_position_outside_the_log_fails_its_partition_only(
    connection: KafkaConnection, make_topic: MakeTopic
) -> None:
    topic = await make_topic("requests", 2)
    await write(connection, topic, 0, 3)
    async with TopicFetcher(connection, topic) as fetcher:
        fetcher.assign({0: 0, 1: 99})
        assert offsets((await take(fetcher, {0: 3}))[0]) == [0, 1, 2]
        deadline = time.monotonic() + WAIT_S
        while not (failures := fetcher.take_failures()):
            assert time.monotonic() < deadline
            await fetcher.getmany(10, 100)
        assert list(failures) == [1]
        assert isinstance(failures[1], BrokerRefusedError)
        assert failures[1].reason == "other"
        fetcher.seek(1, 0)
        await write(connection, topic, 1, 1)
        assert offsets((await take(fetcher, {1: 1}))[1]) == [0]


async def test_aborted_records_are_never_handed_out(
    connection: KafkaConnection, make_topic: MakeTopic
) -> None:
    topic = await make_topic("requests", max_message_bytes="2000")
    writer = LaneWriter(connection, results_topic=topic, audit_topic=topic, partition=0)
    await writer.fence()
    await writer.commit([], [b"good"])
    try:
        await writer.commit([OutRecord(b"x")], [b"y", b"z" * 4000])
    except BrokerRefusedError:
        await writer.close()
    await write(connection, topic, 0, 1)
    async with TopicFetcher(connection, topic) as fetcher:
        fetcher.assign({0: 0})
        assert [r.value for r in (await take(fetcher, {0: 2}))[0]] == [b"good", b"0"]
