"""Behind a broken connection may lie another log; the fetch of requests looks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from stream_executor.kafka.appender import Appender, Outgoing
from stream_executor.kafka.fetcher import FetchOptions, TopicFetcher
from stream_executor.model.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stream_executor.kafka.connection import KafkaConnection
    from stream_executor.model.errors import ExecutorError
    from tests.faults.proxy import FaultProxy
    from tests.integration.kafka.conftest import MakeTopic

SMALL = FetchOptions(max_partition_bytes=1_000)


@pytest.fixture
async def admin(plain: KafkaConnection) -> AsyncIterator[AIOKafkaAdminClient]:
    """Says to the broker, past the proxy, what an operator would."""
    client = AIOKafkaAdminClient(bootstrap_servers=plain.bootstrap_servers)
    await client.start()
    yield client
    await client.close()


async def write(plain: KafkaConnection, topic: str, *values: bytes) -> None:
    async with Appender(plain) as appender:
        for value in values:
            await appender.append(topic, 0, value)


async def take(fetcher: TopicFetcher) -> list[bytes | None] | ExecutorError:
    """Give what comes next: values, or a failure."""
    async with asyncio.timeout(20):
        while True:
            if records := await fetcher.getmany(10, 100):
                return [record.value for record in records[0]]
            if failures := fetcher.take_failures():
                return failures[0]


async def test_another_log_is_not_taken_for_the_one_before(
    proxy: FaultProxy,
    plain: KafkaConnection,
    connection: KafkaConnection,
    make_topic: MakeTopic,
    admin: AIOKafkaAdminClient,
) -> None:
    """The same after a mere cut; not so after the topic was made anew meanwhile."""
    topic = await make_topic("requests")
    await write(plain, topic, b"0", b"1")
    async with TopicFetcher(connection, topic) as fetcher:
        fetcher.assign({0: 0})
        assert await take(fetcher) == [b"0", b"1"]
        proxy.cut_all()
        await write(plain, topic, b"2")
        assert await take(fetcher) == [b"2"]

        fetcher.pause([0])
        while fetcher._busy:  # noqa: ASYNC110 - the fetch that is under way ends
            await asyncio.sleep(0.01)
        proxy.cut_all()
        fetcher.assign({}, kept=[0])  # another lane changed
        await admin.delete_topics([topic])
        while (await admin.describe_topics([topic]))[0]["error_code"] == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await make_topic("requests")
        await write(plain, topic, b"a", b"b", b"c", b"d")
        fetcher.resume([0])
        assert isinstance(await take(fetcher), UnavailableError)


async def test_a_batch_that_retention_took_is_no_refusal(
    proxy: FaultProxy,
    plain: KafkaConnection,
    connection: KafkaConnection,
    make_topic: MakeTopic,
    admin: AIOKafkaAdminClient,
) -> None:
    """An idle lane's newest batch may be gone by its broker's next restart."""
    topic = await make_topic("requests")
    await write(plain, topic, b"0", b"1")
    async with TopicFetcher(connection, topic) as fetcher:
        fetcher.assign({0: 0})
        assert await take(fetcher) == [b"0", b"1"]
        await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(2)})
        proxy.cut_all()
        assert isinstance(await take(fetcher), UnavailableError)
        # From there on nothing lies before, and that is no trouble.
        fetcher.assign({0: 2})
        await write(plain, topic, b"2")
        assert await take(fetcher) == [b"2"]


async def test_a_position_is_compared_before_anything_was_fetched_from_there(
    proxy: FaultProxy,
    plain: KafkaConnection,
    connection: KafkaConnection,
    make_topic: MakeTopic,
) -> None:
    """By the batch before it; where there is none, nobody can tell."""
    topic = await make_topic("requests")
    async with TopicFetcher(connection, topic) as fetcher:
        fetcher.assign({0: 0})
        assert await fetcher.getmany(1, 300) == {}
        proxy.cut_all()
        assert isinstance(await take(fetcher), UnavailableError)
        await write(plain, topic, b"0", b"1")
        fetcher.assign({0: 2})
        assert await fetcher.getmany(1, 300) == {}
        proxy.cut_all()
        await write(plain, topic, b"2")
        assert await take(fetcher) == [b"2"]


async def test_a_batch_of_which_a_part_was_deleted_is_the_same(
    proxy: FaultProxy,
    plain: KafkaConnection,
    connection: KafkaConnection,
    make_topic: MakeTopic,
    admin: AIOKafkaAdminClient,
) -> None:
    """Its first offset lies outside the log now, its last does not."""
    topic = await make_topic("requests")
    async with Appender(plain) as appender, TopicFetcher(connection, topic) as fetcher:
        await appender.append_many(topic, 0, [Outgoing(b"%d" % n) for n in range(3)])
        fetcher.assign({0: 0})
        assert await take(fetcher) == [b"0", b"1", b"2"]
        await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(2)})
        proxy.cut_all()
        await appender.append(topic, 0, b"3")
        assert await take(fetcher) == [b"3"]


async def test_batches_that_do_not_fit_into_one_answer_are_waited_for(
    proxy: FaultProxy,
    plain: KafkaConnection,
    connection: KafkaConnection,
    make_topic: MakeTopic,
) -> None:
    """A broker sends one large batch an answer; the other partition's is there, too."""
    topic = await make_topic("requests", 2)
    big = bytes(2_000)
    async with Appender(plain) as appender:
        await appender.append(topic, 0, big)
        await appender.append(topic, 1, big)
        async with TopicFetcher(connection, topic, options=SMALL) as fetcher:
            fetcher.assign({0: 0, 1: 0})
            for value in (big, b"next"):
                came: dict[int, bytes | None] = {}
                async with asyncio.timeout(20):
                    while len(came) < 2:
                        for partition, got in (await fetcher.getmany(9, 100)).items():
                            came[partition] = got[-1].value
                        assert fetcher.take_failures() == {}
                assert came == {0: value, 1: value}
                if value == big:
                    proxy.cut_all()
                    await appender.append(topic, 0, b"next")
                    await appender.append(topic, 1, b"next")
