"""Behind a broken connection may lie another log; the fetch of requests looks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from stream_executor.kafka.appender import Appender
from stream_executor.kafka.fetcher import TopicFetcher
from stream_executor.model.errors import UnavailableError

if TYPE_CHECKING:
    from stream_executor.kafka.connection import KafkaConnection
    from stream_executor.model.errors import ExecutorError
    from tests.faults.proxy import FaultProxy
    from tests.integration.kafka.conftest import MakeTopic


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
) -> None:
    """The same after a mere cut; not so after the topic was made anew meanwhile."""
    topic = await make_topic("requests")
    await write(plain, topic, b"0", b"1")
    admin = AIOKafkaAdminClient(bootstrap_servers=plain.bootstrap_servers)
    await admin.start()
    async with TopicFetcher(connection, topic) as fetcher:
        fetcher.assign({0: 0})
        assert await take(fetcher) == [b"0", b"1"]
        proxy.cut_all()
        await write(plain, topic, b"2")
        assert await take(fetcher) == [b"2"]

        fetcher.pause([0])
        await asyncio.sleep(0.3)  # the fetch that is under way ends
        proxy.cut_all()
        await admin.delete_topics([topic])
        while (await admin.describe_topics([topic]))[0]["error_code"] == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await make_topic("requests")
        await write(plain, topic, b"a", b"b", b"c", b"d")
        fetcher.resume([0])
        assert isinstance(await take(fetcher), UnavailableError)
    await admin.close()


async def test_a_batch_that_retention_took_is_no_refusal(
    proxy: FaultProxy,
    plain: KafkaConnection,
    connection: KafkaConnection,
    make_topic: MakeTopic,
) -> None:
    """An idle lane's newest batch may be gone by its broker's next restart."""
    topic = await make_topic("requests")
    await write(plain, topic, b"0", b"1")
    admin = AIOKafkaAdminClient(bootstrap_servers=plain.bootstrap_servers)
    await admin.start()
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
    await admin.close()


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
