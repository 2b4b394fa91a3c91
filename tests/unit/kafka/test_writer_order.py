"""A lane's transaction, step by step, on a producer that only writes down."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.errors import MessageSizeTooLargeError

from stream_executor.kafka import writer as writer_file
from stream_executor.kafka.connection import KafkaConnection
from stream_executor.kafka.writer import LaneWriter
from stream_executor.model.errors import BrokerRefusedError, IntegrityError
from stream_executor.model.record import OutRecord

if TYPE_CHECKING:
    from collections.abc import Callable


class Sent:
    """What the broker says of a batch."""

    def __init__(self, offset: int) -> None:
        self.offset, self.timestamp, self.timestamp_type = offset, 1_000, 1


class Batch:
    """Counts its records."""

    def __init__(self) -> None:
        self._count = 0

    def append(self, **_: object) -> object:
        self._count += 1
        return self

    def close(self) -> None:
        """Nothing more comes."""

    def record_count(self) -> int:
        return self._count


class NotingProducer:
    """As much of aiokafka's producer as a lane's writer uses."""

    def __init__(self, **_: object) -> None:
        self.client = self
        self.done: list[str] = []
        self.sends: list[asyncio.Future[Sent]] = []
        self.all_sent = asyncio.Event()

    async def send(self, *_: object, **__: object) -> None:
        """No request goes out."""

    async def start(self) -> None:
        self.done.append("fence")

    async def stop(self) -> None:
        self.done.append("stop")

    async def partitions_for(self, _: str) -> set[int]:
        return {0}

    async def begin_transaction(self) -> None:
        self.done.append("begin")

    def create_batch(self) -> Batch:
        return Batch()

    async def send_batch(
        self, _: Batch, topic: str, partition: int
    ) -> asyncio.Future[Sent]:
        self.done.append(f"send {topic}-{partition}")
        self.sends.append(asyncio.get_running_loop().create_future())
        if len(self.sends) % 2 == 0:
            self.all_sent.set()
        return self.sends[-1]

    async def commit_transaction(self) -> None:
        self.done.append("commit")


@pytest.fixture
async def begun(monkeypatch: pytest.MonkeyPatch) -> tuple[LaneWriter, NotingProducer]:
    """A writer that has fenced, and its producer."""
    made: list[NotingProducer] = []

    def make(**options: object) -> NotingProducer:
        made.append(NotingProducer(**options))
        return made[-1]

    monkeypatch.setattr(writer_file, "AIOKafkaProducer", make)
    nothing: Callable[[Any], Any] = lambda _: asyncio.create_task(asyncio.sleep(0))  # noqa: E731
    monkeypatch.setattr(writer_file, "discard", nothing)
    writer = LaneWriter(
        KafkaConnection(bootstrap_servers="nowhere:1"),
        results_topic="results",
        audit_topic="audit",
        partition=0,
    )
    await writer.fence()
    return writer, made[0]


SENT = ["fence", "begin", "send results-0", "send audit-0"]


async def committing(
    begun: tuple[LaneWriter, NotingProducer],
) -> asyncio.Task[object]:
    """A commit whose batches are all on their way."""
    writer, producer = begun
    producer.all_sent.clear()
    task: asyncio.Task[object] = asyncio.create_task(
        writer.commit([OutRecord(b"r")], [b"a", b"seal"])
    )
    await producer.all_sent.wait()
    await asyncio.sleep(0)
    return task


async def test_a_transaction_ends_when_every_send_was_acknowledged(
    begun: tuple[LaneWriter, NotingProducer],
) -> None:
    _, producer = begun
    commit = await committing(begun)
    assert producer.done == SENT
    producer.sends[0].set_result(Sent(4))
    for _ in range(5):
        await asyncio.sleep(0)
    assert producer.done == SENT, "the audit batch is not acknowledged yet"
    producer.sends[1].set_result(Sent(7))
    acknowledged: Any = await commit
    assert producer.done == [*SENT, "commit"]
    assert (acknowledged.results_base, acknowledged.audit_base) == (4, 7)
    assert acknowledged.appended_ms == 1_000


async def test_a_failed_send_never_commits(
    begun: tuple[LaneWriter, NotingProducer],
) -> None:
    """aiokafka itself would (facts: its commit only waits)."""
    writer, producer = begun
    commit = await committing(begun)
    producer.sends[0].set_result(Sent(4))
    producer.sends[1].set_exception(MessageSizeTooLargeError())
    with pytest.raises(BrokerRefusedError):
        await commit
    assert "commit" not in producer.done
    assert writer.tainted


async def test_acknowledged_offsets_that_fall_are_a_lost_log(
    begun: tuple[LaneWriter, NotingProducer],
) -> None:
    _, producer = begun
    commit = await committing(begun)
    for send in producer.sends:
        send.set_result(Sent(10))
    await commit
    commit = await committing(begun)
    for send in producer.sends[2:]:
        send.set_result(Sent(5))
    with pytest.raises(IntegrityError, match="has lost records"):
        await commit
    assert producer.done.count("commit") == 1
