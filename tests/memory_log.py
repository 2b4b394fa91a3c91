"""Topics in memory with offsets, transactions, fencing and isolation.

As much of a broker as a lane sees through its ports: a transaction takes effect as
a whole or not at all, a marker takes an offset, whoever fences last writes alone.
The same properties run on real Kafka, so that this model cannot lie for long.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stream_executor.model.errors import FencedError, IndefiniteError, IntegrityError
from stream_executor.model.record import OutRecord, PlainRecord, Range, Record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence


@dataclass
class MemoryAck:
    """Where a transaction begins."""

    results_base: int | None
    audit_base: int | None


@dataclass
class MemoryBroker:
    """All partitions; an offset without a record is a marker or an aborted record."""

    now_ms: int = 1_750_000_000_000
    logs: dict[tuple[str, int], list[PlainRecord | None]] = field(default_factory=dict)
    epochs: dict[tuple[str, int], int] = field(default_factory=dict)
    crash_next: str | None = None

    def log(self, topic: str, partition: int) -> list[PlainRecord | None]:
        """Give one partition's slots."""
        return self.logs.setdefault((topic, partition), [])

    def append(
        self,
        topic: str,
        partition: int,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> int:
        """Append one committed record; give its offset."""
        log = self.log(topic, partition)
        log.append(PlainRecord(len(log), self.now_ms, value, tuple(headers)))
        return len(log) - 1

    def marker(self, topic: str, partition: int) -> None:
        """Take one offset without a record."""
        self.log(topic, partition).append(None)

    def records(self, topic: str, partition: int) -> list[PlainRecord]:
        """Give the committed records."""
        return [r for r in self.log(topic, partition) if r is not None]


@dataclass
class MemoryWriter:
    """A lane's writer."""

    broker: MemoryBroker
    results_topic: str
    audit_topic: str
    partition: int
    epoch: int = -1

    async def fence(self) -> None:
        """Bump the epoch."""
        key = (self.audit_topic, self.partition)
        self.epoch = self.broker.epochs[key] = self.broker.epochs.get(key, 0) + 1

    async def commit(
        self, results: Sequence[OutRecord], audit: Sequence[bytes]
    ) -> MemoryAck:
        """Append everything and a marker, or nothing."""
        broker = self.broker
        if broker.epochs[self.audit_topic, self.partition] != self.epoch:
            message = "fenced"
            raise FencedError(message)
        crash, broker.crash_next = broker.crash_next, None
        if crash == "before":
            message = "lost before the broker saw it"
            raise IndefiniteError(message)
        bases = [
            broker.append(self.results_topic, self.partition, r.value, r.headers)
            for r in results
        ]
        audit_bases = [
            broker.append(self.audit_topic, self.partition, value) for value in audit
        ]
        if results:
            broker.marker(self.results_topic, self.partition)
        broker.marker(self.audit_topic, self.partition)
        if crash == "after":
            message = "the answer was lost"
            raise IndefiniteError(message)
        return MemoryAck(bases[0] if bases else None, audit_bases[0])

    async def close(self) -> None:
        """Nothing is held."""


@dataclass
class MemoryReader:
    """Reads committed records."""

    broker: MemoryBroker

    async def begin_offset(self, topic: str, partition: int) -> int:
        """Logs begin at 0."""
        del topic, partition
        return 0

    async def end_offset(self, topic: str, partition: int) -> int:
        """The end, markers included."""
        return len(self.broker.log(topic, partition))

    async def offset_for_time(
        self, topic: str, partition: int, timestamp_ms: int
    ) -> int | None:
        """The first record at this time or later."""
        records = self.broker.records(topic, partition)
        return next((r.offset for r in records if r.timestamp >= timestamp_ms), None)

    async def read(
        self, topic: str, partition: int, start: int, end: int
    ) -> AsyncIterator[Sequence[Record]]:
        """One record a list, to find what depends on batching."""
        for record in self.broker.log(topic, partition)[start:end]:
            if record is not None:
                yield [record]

    async def prove_gap(
        self, topic: str, partition: int, start: int, end: int
    ) -> list[Range]:
        """Offsets without a record are proven."""
        for offset in range(start, end):
            if self.broker.log(topic, partition)[offset] is not None:
                message = f"offset {offset} holds a record"
                raise IntegrityError(message)
        return [Range(start, end)] if end > start else []
