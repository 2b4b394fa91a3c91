"""Batches that real Kafka accepts and an ordinary client cannot take.

Each of them goes through a broker; behind it every offset must come out, good records
whole and bad ones as nobody's request. What a running lane makes of them:
``tests/faults/test_hostile_lane.py``.
"""

from __future__ import annotations

import asyncio
import resource
import time
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.protocol.produce import ProduceRequest

from stream_executor.kafka.client import BrokerClient
from stream_executor.kafka.fetcher import TopicFetcher
from stream_executor.model.errors import ExecutorError
from stream_executor.model.record import EmptyRun, PlainRecord, held_bytes
from tests.hostile import ACCEPTED, REFUSED, Variation, batch, header_block, record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stream_executor.kafka.connection import KafkaConnection
    from stream_executor.model.record import Record
    from tests.integration.kafka.conftest import MakeTopic


def good(delta: int) -> bytes:
    return record(delta, b"good", header_block((b"h", b"v")))


GOOD = batch([good(0)])


async def produce(client: BrokerClient, topic: str, data: bytes) -> int:
    """Send bytes as they are; give the offset that the broker put them at."""
    request = ProduceRequest(None, -1, 10_000, [(topic, [(0, data)])])

    def read(response: Any) -> tuple[int, int]:
        _, code, offset, *_ = response.topics[0][1][0]
        return code, offset

    return await client.ask_leader(topic, 0, request, read)


async def test_every_offset_of_every_accepted_batch_comes_out(
    connection: KafkaConnection, make_topic: MakeTopic
) -> None:
    topic = await make_topic("requests")
    async with BrokerClient(connection) as client:
        placed: list[tuple[Variation, int]] = []
        for variation in ACCEPTED:
            await produce(client, topic, GOOD)
            data = await asyncio.to_thread(variation.build, good)
            placed.append((variation, await produce(client, topic, data)))
        end = await produce(client, topic, GOOD) + 1
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found: list[Record] = []
    async with TopicFetcher(connection, topic) as fetcher:
        fetcher.assign({0: 0})
        until = time.monotonic() + 60
        while fetcher.position(0) < end:
            assert time.monotonic() < until
            for records in (await fetcher.getmany(10_000, 200)).values():
                found += light(records)
            assert fetcher.take_failures() == {}
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mib < 120

    assert [one.offset for one in found] == list(range(end))
    assert {one.timestamp_type for one in found} == {1}
    hostile = set()
    for variation, base in placed:
        for index in range(variation.count):
            if not variation.holds_good(index):
                hostile.add(base + index)
    for one in found:
        if one.offset in hostile:
            assert one.value != b"good", one.offset
        else:
            assert (one.value, list(one.headers)) == (b"good", [("h", b"v")])


def light(records: list[Record]) -> Iterator[Record]:
    """One record an offset; none that keeps kilobytes until the end of the test."""
    for one in records:
        if isinstance(one, EmptyRun):
            yield from one.records()
        elif held_bytes(one) > 999:
            yield PlainRecord(one.offset, one.timestamp, None, (), None, 1)
        else:
            yield one


@pytest.mark.parametrize("variation", REFUSED, ids=lambda one: one.name)
async def test_what_the_broker_refuses_for_us(
    connection: KafkaConnection, make_topic: MakeTopic, variation: Variation
) -> None:
    topic = await make_topic("requests")
    async with BrokerClient(connection) as client:
        await produce(client, topic, GOOD)
        with pytest.raises(ExecutorError):
            await produce(client, topic, variation.build(good))
        assert await client.end_offset(topic, 0) == 1
