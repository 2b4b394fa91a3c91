"""A lane's transactions: both or neither, one writer, doubt is final."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import errors as kafka_errors
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.transaction import EndTxnRequest

from stream_executor.kafka.reader import PartitionReader
from stream_executor.kafka.writer import LaneWriter, WriterOptions
from stream_executor.model.errors import (
    BrokerRefusedError,
    FencedError,
    IndefiniteError,
    MisuseError,
)
from stream_executor.model.record import OutRecord

if TYPE_CHECKING:
    from stream_executor.kafka.connection import KafkaConnection
    from tests.integration.kafka.conftest import MakeTopic


class Lane:
    """One lane's topics, and writers for it."""

    def __init__(self, connection: KafkaConnection, results: str, audit: str) -> None:
        self.connection, self.results, self.audit = connection, results, audit

    def writer(self, **options: Any) -> LaneWriter:
        return LaneWriter(
            self.connection,
            results_topic=self.results,
            audit_topic=self.audit,
            partition=0,
            options=WriterOptions(**options),
        )

    async def visible(self) -> tuple[list[bytes | None], list[bytes | None]]:
        """Everything that a reader of committed records sees, after a fence."""
        found = []
        async with PartitionReader(self.connection) as reader:
            for topic in (self.results, self.audit):
                end = await reader.end_offset(topic, 0)
                found.append(
                    [
                        record.value
                        async for records in reader.read(topic, 0, 0, end)
                        for record in records
                    ]
                )
        return found[0], found[1]


@pytest.fixture
async def lane(connection: KafkaConnection, make_topic: MakeTopic) -> Lane:
    return Lane(
        connection,
        await make_topic("results", max_message_bytes="3000"),
        await make_topic("audit", max_message_bytes="3000"),
    )


async def test_results_and_audit_appear_together_in_order(lane: Lane) -> None:
    async with lane.writer() as writer:
        first = await writer.commit(
            [OutRecord(b"r0", [("h", b"v")]), OutRecord(b"r1")], [b"a0", b"a1", b"s0"]
        )
        second = await writer.commit([], [b"s1"])
        third = await writer.commit([OutRecord(b"r2")], [b"a2", b"s2"])
        assert writer.tainted is None
    assert (first.results_base, first.audit_base) == (0, 0)
    assert (second.results_base, second.audit_base) == (None, 4)
    assert (third.results_base, third.audit_base) == (3, 6)
    assert await lane.visible() == (
        [b"r0", b"r1", b"r2"],
        [b"a0", b"a1", b"s0", b"s1", b"a2", b"s2"],
    )


async def test_a_transaction_may_need_several_batches(lane: Lane) -> None:
    values = [b"%03d" % index + bytes(500) for index in range(40)]
    async with lane.writer(max_batch_bytes=2_000) as writer:
        await writer.commit([OutRecord(value) for value in values], values)
    assert await lane.visible() == (values, values)


async def test_a_zombie_is_fenced_and_publishes_nothing(lane: Lane) -> None:
    async with lane.writer() as zombie:
        await zombie.commit([], [b"s0"])
        async with lane.writer() as owner:
            with pytest.raises(FencedError):
                await zombie.commit([OutRecord(b"r")], [b"a", b"s1"])
            with pytest.raises(IndefiniteError, match="in doubt since"):
                await zombie.commit([], [b"again"])
            await owner.commit([], [b"s1 of the owner"])
    assert await lane.visible() == ([], [b"s0", b"s1 of the owner"])


async def test_a_failed_send_never_commits(lane: Lane) -> None:
    """The broker refuses the audit batch; aiokafka alone would commit the results."""
    async with lane.writer() as writer:
        with pytest.raises(BrokerRefusedError) as caught:
            await writer.commit([OutRecord(b"r")], [b"x" * 5_000])
        assert caught.value.reason == "too_large"
        assert writer.tainted
    async with lane.writer() as writer:
        await writer.commit([], [b"s"])
    assert await lane.visible() == ([], [b"s"])


async def test_too_large_for_any_batch_is_refused_before_anything_is_sent(
    lane: Lane,
) -> None:
    async with lane.writer(max_batch_bytes=1_000) as writer:
        with pytest.raises(BrokerRefusedError) as caught:
            await writer.commit([OutRecord(b"r" * 1_000)], [b"s"])
        assert caught.value.reason == "too_large"
        assert writer.tainted is None
        await writer.commit([OutRecord(b"r" * 800)], [b"s"])


async def test_an_abandoned_transaction_is_aborted_by_the_next_fence(
    lane: Lane,
) -> None:
    writer = lane.writer()
    await writer.fence()
    producer = writer._producer
    assert producer is not None
    await producer.begin_transaction()
    batch = producer.create_batch()
    batch.append(timestamp=None, key=None, value=b"lost")
    await (await producer.send_batch(batch, lane.audit, partition=0))
    writer._taint_with("the test stopped it here")
    await writer.close()
    async with lane.writer() as successor:
        async with PartitionReader(lane.connection) as reader:
            # lost + its abort marker: read to the end at once, nothing held back
            end = await reader.end_offset(lane.audit, 0)
            assert end == 2
            assert [r async for r in reader.read(lane.audit, 0, 0, end)] == []
        await successor.commit([], [b"s"])
    assert await lane.visible() == ([], [b"s"])


async def test_a_lost_answer_to_end_txn_is_doubt_and_ends_the_writer(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit may well have happened: only a new fence and a read can tell."""
    send = AIOKafkaClient.send

    async def lose(self: Any, node: Any, request: Any, **more: Any) -> Any:
        response = await send(self, node, request, **more)
        if isinstance(request, EndTxnRequest):
            raise kafka_errors.KafkaConnectionError("cut after the broker decided")
        return response

    monkeypatch.setattr(AIOKafkaClient, "send", lose)
    async with lane.writer() as writer:
        with pytest.raises(IndefiniteError, match="EndTxnRequest"):
            await writer.commit([OutRecord(b"r")], [b"s"])
        with pytest.raises(IndefiniteError):
            await writer.commit([], [b"t"])
    monkeypatch.undo()
    async with lane.writer():
        assert await lane.visible() == ([b"r"], [b"s"])


async def test_a_broker_that_answers_nothing_runs_into_the_deadline(
    lane: Lane,
) -> None:
    async with lane.writer(commit_deadline_s=0.3, close_deadline_s=0.3) as writer:
        producer = writer._producer
        assert producer is not None

        async def silence(*_: Any, **__: Any) -> Any:
            await asyncio.sleep(60)

        producer.client.send = silence
        started = asyncio.get_running_loop().time()
        with pytest.raises(IndefiniteError):
            await writer.commit([], [b"s"])
        await writer.close()
        assert asyncio.get_running_loop().time() - started < 2


async def test_a_producer_is_renewed_before_its_sequence_numbers_wrap(
    lane: Lane,
) -> None:
    async with lane.writer() as writer:
        writer._written[lane.audit] = (1 << 30) - 1
        await writer.commit([], [b"s0"])
        with pytest.raises(IndefiniteError, match="new producer"):
            await writer.commit([], [b"s1"])


async def test_calls_out_of_order_are_our_bug(lane: Lane) -> None:
    writer = lane.writer()
    with pytest.raises(MisuseError):
        await writer.commit([], [b"s"])
    await writer.fence()
    with pytest.raises(MisuseError):
        await writer.fence()
    with pytest.raises(MisuseError, match="seal"):
        await writer.commit([OutRecord(b"r")], [])
    await writer.close()
    await writer.close()
    with pytest.raises(MisuseError):
        await writer.commit([], [b"s"])


async def test_a_topic_without_the_partition_is_refused(
    connection: KafkaConnection, make_topic: MakeTopic
) -> None:
    writer = LaneWriter(
        connection,
        results_topic=await make_topic("results", 4),
        audit_topic=await make_topic("audit", 1),
        partition=3,
    )
    with pytest.raises(BrokerRefusedError) as caught:
        await writer.fence()
    assert caught.value.reason == "unknown_topic"
    await writer.close()
