"""The SDK on real Kafka, with a real executor where one is needed."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from stream_executor.client import (
    ExecutorClient,
    ResultTimeoutError,
    SyncExecutorClient,
    call,
    command,
    i64,
    transform,
)
from stream_executor.client.request import encode
from stream_executor.kafka.admin import KafkaAdmin
from stream_executor.kafka.connection import KafkaConnection
from stream_executor.kafka.reader import PartitionReader
from stream_executor.kafka.topics import TopicNames, desired
from stream_executor.model.errors import BrokerRefusedError, TransientError
from stream_executor.services.dev_stack import EXAMPLES
from stream_executor.testing import SecretSigner
from tests.deployment import deployment

if TYPE_CHECKING:
    from pathlib import Path

SIGNER = SecretSigner(audience="tests/none")


def names(prefix: str) -> TopicNames:
    return TopicNames(**{f: f"{prefix}{f}" for f in TopicNames.__struct_fields__})


async def make_topics(bootstrap: str, topics: TopicNames, partitions: int) -> None:
    async with KafkaAdmin(KafkaConnection(bootstrap_servers=bootstrap)) as admin:
        await admin.apply(desired(topics, partitions=partitions, brokers=1))


async def test_every_submission_lies_where_it_says(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    topics = names(topic_prefix)
    await make_topics(kafka_bootstrap, topics, 3)
    asked = [call("add@1", "add", [i, 1]) for i in range(5_000)]
    async with ExecutorClient(
        bootstrap_servers=kafka_bootstrap,
        signer=SIGNER,
        requests_topic=topics.requests,
        results_topic=topics.results,
        results=False,
    ) as client:
        many = await client.submit_many(asked)
        one = await client.submit(call("add@1", "add"), partition=2)
    assert one.partition == 2
    values: dict[tuple[int, int], bytes | None] = {}
    connection = KafkaConnection(bootstrap_servers=kafka_bootstrap)
    async with PartitionReader(connection) as reader:
        for partition in range(3):
            end = await reader.end_offset(topics.requests, partition)
            async for records in reader.read(topics.requests, partition, 0, end):
                values |= {(partition, r.offset): r.value for r in records}
    for request, submission in zip(asked, many, strict=True):
        place = (submission.partition, submission.offset)
        assert values.pop(place) == encode(request)
    assert list(values) == [(2, one.offset)]


async def test_who_may_not_find_the_topics_is_told_so(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    client = ExecutorClient(
        bootstrap_servers=kafka_bootstrap,
        signer=SIGNER,
        requests_topic=f"{topic_prefix}none",
        results_topic=f"{topic_prefix}none",
    )
    with pytest.raises((BrokerRefusedError, TransientError)):
        await client.open()


async def test_nobody_there_is_told_so() -> None:
    client = ExecutorClient(bootstrap_servers="127.0.0.1:9", signer=SIGNER)
    with pytest.raises(TransientError):
        await client.open()


async def test_each_kind_of_request_gets_its_own_result(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    async with deployment(kafka_bootstrap, tmp_path, partitions=3) as world:
        for name in ("add", "upper", "count"):
            await world.publish(f"{name}@1", (EXAMPLES / f"{name}.wat").read_text())
        executor = world.start()
        await executor.ready()
        async with ExecutorClient(
            bootstrap_servers=kafka_bootstrap,
            signer=world.signer(),
            requests_topic=world.topics.requests,
            results_topic=world.topics.results,
        ) as client:
            sums = await asyncio.gather(
                *(
                    client.execute("add@1", function="add", args=[n, n])
                    for n in range(50)
                )
            )
            assert [one.raise_for_status().value for one in sums] == [
                2 * n for n in range(50)
            ]
            shouted = await client.execute("upper@1", input=b"a" * 100_000)
            assert shouted.output == b"A" * 100_000
            counted = await client.execute("count@1", stdin=b"12345", argv=["count"])
            assert (counted.stdout, counted.exit_code) == (b"5 bytes\n", 0)
            wrong = await client.execute("add@1", function="add", args=[i64(1), 1])
            assert (wrong.ok, wrong.code) == (False, "bad_arguments")

            submissions = await client.submit_many(
                [
                    *(call("add@1", "add", [n, 1]) for n in range(1_000)),
                    transform("upper@1", b"x"),
                    command("count@1"),
                ]
            )
            answers = {s: r async for s, r in client.results(submissions)}
            assert len(answers) == len(submissions)
            for n, submission in enumerate(submissions[:1_000]):
                assert answers[submission].value == n + 1

        stranger = SecretSigner(audience=world.audience, issuer="tests")
        async with ExecutorClient(
            bootstrap_servers=kafka_bootstrap,
            signer=stranger,
            requests_topic=world.topics.requests,
            results_topic=world.topics.results,
        ) as client:
            refused = await client.submit_many([call("add@1", "add")] * 30)
            codes = {r.code async for _, r in client.results(refused)}
            assert codes == {"auth_bad_signature"}

        with SyncExecutorClient(
            bootstrap_servers=kafka_bootstrap,
            signer=world.signer(),
            requests_topic=world.topics.requests,
            results_topic=world.topics.results,
        ) as blocking:
            result = await asyncio.to_thread(
                blocking.execute, "add@1", function="add", args=[1, 1]
            )
            assert result.value == 2
        assert await executor.stop() == 0


async def test_a_result_that_does_not_come_is_not_waited_for_for_ever(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    topics = names(topic_prefix)
    await make_topics(kafka_bootstrap, topics, 1)
    async with ExecutorClient(
        bootstrap_servers=kafka_bootstrap,
        signer=SIGNER,
        requests_topic=topics.requests,
        results_topic=topics.results,
    ) as client:
        began = time.monotonic()
        with pytest.raises(ResultTimeoutError) as caught:
            await client.execute("add@1", function="add", timeout_s=0.3)
        assert caught.value.submission.offset == 0
        assert time.monotonic() - began < 10
