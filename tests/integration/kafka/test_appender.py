"""Appending outside transactions, and reading back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from stream_executor.kafka.appender import Appender, Outgoing
from stream_executor.kafka.reader import PartitionReader
from stream_executor.model.errors import BrokerRefusedError, MisuseError

if TYPE_CHECKING:
    from stream_executor.kafka.connection import KafkaConnection
    from tests.integration.kafka.conftest import MakeTopic


async def test_a_record_lands_whole_and_where_it_says(
    connection: KafkaConnection, make_topic: MakeTopic
) -> None:
    topic = await make_topic("requests", 2)
    async with Appender(connection) as appender, PartitionReader(connection) as reader:
        first = await appender.append(topic, 1, b"one", [("a", b"1")], b"key")
        second = await appender.append(topic, 1, b"two")
        assert (first.offset, second.offset) == (0, 1)
        assert abs(first.timestamp / 1000 - time.time()) < 60
        record = await reader.read_one(topic, 1, 0)
        assert record is not None
        assert (record.value, record.key, list(record.headers)) == (
            b"one",
            b"key",
            [("a", b"1")],
        )
        assert record.timestamp == first.timestamp


async def test_many_records_keep_their_order_over_several_batches(
    connection: KafkaConnection, make_topic: MakeTopic
) -> None:
    topic = await make_topic("requests")
    records = [Outgoing(b"%06d" % index + bytes(1000)) for index in range(2_000)]
    async with Appender(connection) as appender, PartitionReader(connection) as reader:
        appended = await appender.append_many(topic, 0, records)
        assert [one.offset for one in appended] == list(range(2_000))
        assert await appender.append_many(topic, 0, []) == []
        end = await reader.end_offset(topic, 0)
        values = [
            record.value
            async for batch in reader.read(topic, 0, 0, end)
            for record in batch
        ]
        assert values == [record.value for record in records]


async def test_what_the_broker_refuses_leaves_the_appender_usable(
    connection: KafkaConnection, make_topic: MakeTopic, topic_prefix: str
) -> None:
    topic = await make_topic("requests", max_message_bytes="2000")
    async with Appender(connection) as appender:
        for size in (5_000, 2 << 20):
            with pytest.raises(BrokerRefusedError) as caught:
                await appender.append(topic, 0, bytes(size))
            assert caught.value.reason == "too_large"
            with pytest.raises(BrokerRefusedError) as caught:
                await appender.append_many(topic, 0, [Outgoing(bytes(size))])
            assert caught.value.reason == "too_large"
        with pytest.raises(BrokerRefusedError) as caught:
            await appender.append(topic, 7, b"")
        assert caught.value.reason == "unknown_topic"
        assert (await appender.append(topic, 0, b"ok")).offset == 0
    with pytest.raises(MisuseError):
        await appender.append(topic, 0, b"late")


async def test_a_module_of_many_megabytes_goes_in_and_comes_out(
    connection: KafkaConnection, make_topic: MakeTopic
) -> None:
    topic = await make_topic("modules", max_message_bytes=str(64 << 20))
    module = bytes(range(256)) * (12 << 12)  # 12 MiB
    async with Appender(connection, max_record_bytes=64 << 20) as appender:
        assert (await appender.append(topic, 0, module, key=b"digest")).offset == 0
        await appender.append_many(topic, 0, [Outgoing(module), Outgoing(b"small")])
    async with PartitionReader(connection) as reader:
        record = await reader.read_one(topic, 0, 0)
        assert record is not None
        assert record.value == module
        last = await reader.read_one(topic, 0, 2)
        assert last is not None
        assert last.value == b"small"
