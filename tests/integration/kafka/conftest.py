"""Topics and connections for tests against a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from stream_executor.kafka.connection import KafkaConnection

MakeTopic = Callable[..., Awaitable[str]]


@pytest.fixture
def connection(kafka_bootstrap: str) -> KafkaConnection:
    return KafkaConnection(bootstrap_servers=kafka_bootstrap, client_id="test")


@pytest.fixture
async def make_topic(
    kafka_bootstrap: str, topic_prefix: str
) -> AsyncIterator[MakeTopic]:
    """Give a function that creates a topic and waits until its leaders answer."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()

    async def make(name: str, partitions: int = 1, **configs: str) -> str:
        topic = topic_prefix + name
        settings = {"message.timestamp.type": "LogAppendTime"} | {
            key.replace("_", "."): value for key, value in configs.items()
        }
        await admin.create_topics(
            [NewTopic(topic, partitions, 1, topic_configs=settings)]
        )
        while True:
            (described,) = await admin.describe_topics([topic])
            leaders = [one["leader"] for one in described["partitions"]]
            if len(leaders) == partitions and min(leaders) >= 0:
                return topic
            await asyncio.sleep(0.02)

    yield make
    await admin.close()
