"""A broker that goes and comes back: reading and membership go on by themselves."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

import pytest

from stream_executor.embedded import EmbeddedKafka
from stream_executor.kafka.admin import KafkaAdmin
from stream_executor.kafka.connection import KafkaConnection
from stream_executor.kafka.fetcher import TopicFetcher
from stream_executor.kafka.membership import GroupMembership, MembershipOptions
from stream_executor.kafka.reader import PartitionReader
from stream_executor.kafka.topics import TopicNames, desired
from stream_executor.kafka.writer import LaneWriter
from stream_executor.model.errors import TransientError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from stream_executor.model.record import Record

NAMES = TopicNames()
WAIT_S = 30.0


@pytest.mark.slow
async def test_reading_and_membership_outlive_a_broker_restart(tmp_path: Path) -> None:
    kafka = EmbeddedKafka(tmp_path / "data")
    await asyncio.to_thread(kafka.start)
    try:
        connection = KafkaConnection(bootstrap_servers=kafka.bootstrap)
        async with KafkaAdmin(connection) as admin:
            await admin.apply(desired(NAMES, partitions=1, brokers=1))

        def writer() -> LaneWriter:
            return LaneWriter(
                connection,
                results_topic=NAMES.results,
                audit_topic=NAMES.requests,
                partition=0,
            )

        assigned = asyncio.Event()

        async def on_assignment(_: set[int]) -> None:
            assigned.set()

        member = GroupMembership(
            connection,
            group_id="g",
            instance_id="w-0",
            topic=NAMES.requests,
            on_assignment=on_assignment,
            options=MembershipOptions(6_000, 300),
        )
        await member.start()
        failed = asyncio.create_task(member.failed())
        await assigned.wait()
        async with (
            TopicFetcher(connection, NAMES.requests) as fetcher,
            PartitionReader(connection) as reader,
            writer() as old,
        ):
            fetcher.assign({0: 0})
            await old.commit([], [b"before"])
            assert (await fetcher.getmany(10, 10_000))[0][0].value == b"before"
            assert not fetcher.interrupted

            await asyncio.to_thread(kafka.stop)
            used = os.times().user
            assert await fetcher.getmany(10, 1_000) == {}
            assert os.times().user - used < 0.5, "waiting must not burn a core"
            assert fetcher.interrupted
            with pytest.raises(TransientError):
                await old.commit([], [b"nowhere"])
            await asyncio.to_thread(kafka.start)

            async with writer() as new:
                await new.commit([], [b"after"])
            taken: Sequence[Record] = []
            deadline = time.monotonic() + WAIT_S
            while not taken:
                assert time.monotonic() < deadline
                assert fetcher.take_failures() == {}
                taken = (await fetcher.getmany(10, 500)).get(0, [])
            assert [record.value for record in taken] == [b"after"]
            assert not fetcher.interrupted
            end = await reader.end_offset(NAMES.requests, 0)
            assert end == 4
        while not await member.commit_positions({0: end}):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)
        assert not failed.done()
        failed.cancel()
        await member.leave()
    finally:
        await asyncio.to_thread(kafka.stop)
