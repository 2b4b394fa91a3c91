"""Topics in memory with offsets, transactions, fencing and isolation.

As much of a broker as a lane sees through its ports: a transaction takes effect as
a whole or not at all, a marker takes an offset, an undecided transaction holds back
every reader of committed records, whoever fences last writes alone. The same contract
holds on real Kafka (tests/log_contract.py), so that this model cannot lie for long.

Every effect passes a ``Passage`` before and after it happens: where a test stops an
incarnation, freezes it, or takes its answer away (tests/model).
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from stream_executor.model.errors import (
    BrokerRefusedError,
    FencedError,
    IndefiniteError,
    IntegrityError,
    UnavailableError,
)
from stream_executor.model.record import OutRecord, PlainRecord, Range, Record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

Key = tuple[str, int]
STALL_S = 30.0


class LateError(Exception):
    """The request is on its way; its answer will never come."""


class Passage(Protocol):
    """What stands between two effects."""

    async def __call__(self, point: str) -> None:
        """Go on at a point; may never return, or raise what the world would."""


class Unhindered:
    """Nothing happens between two effects."""

    async def __call__(self, point: str) -> None:
        """Go on."""


@dataclass
class MemoryAck:
    """Where a transaction begins."""

    results_base: int | None
    audit_base: int | None
    appended_ms: int | None = None


@dataclass
class Transaction:
    """One transaction that is not complete."""

    epoch: int
    offsets: list[tuple[str, int, int]] = field(default_factory=list)
    decided: bool = False


@dataclass
class MemoryBroker:
    """All partitions; an offset without a record is a marker or an aborted record."""

    now_ms: int = 1_750_000_000_000
    logs: dict[Key, list[PlainRecord | None]] = field(default_factory=dict)
    # First offsets that are still kept; what lies before stays in ``logs``, for those
    # who know what once was there.
    begins: dict[Key, int] = field(default_factory=dict)
    epochs: dict[Key, int] = field(default_factory=dict)
    crash_next: str | None = None
    transactions: dict[Key, Transaction] = field(default_factory=dict)
    # Requests to end a transaction that have not reached the coordinator yet.
    late: list[tuple[Key, int]] = field(default_factory=list)

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

    def begin(self, topic: str, partition: int) -> int:
        """Give the first offset that is kept."""
        return self.begins.get((topic, partition), 0)

    def remove(self, topic: str, partition: int, before: int) -> None:
        """Remove the beginning, as retention and DeleteRecords do."""
        end = len(self.log(topic, partition))
        begin = self.begin(topic, partition)
        self.begins[topic, partition] = max(begin, min(before, end))

    def stable_end(self, topic: str, partition: int) -> int:
        """Give the offset at which readers of committed records must wait."""
        undecided = [
            offset
            for transaction in self.transactions.values()
            for t, p, offset in transaction.offsets
            if (t, p) == (topic, partition)
        ]
        return min(undecided, default=len(self.log(topic, partition)))

    def records(self, topic: str, partition: int) -> list[PlainRecord]:
        """Give the committed records that are kept."""
        begin = self.begin(topic, partition)
        return [r for r in self.written(topic, partition) if r.offset >= begin]

    def written(self, topic: str, partition: int) -> list[PlainRecord]:
        """Give the committed records, and those that were removed since."""
        end = self.stable_end(topic, partition)
        return [r for r in self.log(topic, partition)[:end] if r is not None]

    def hold_start(self, topic: str, partition: int, start: int) -> None:
        """Refuse to read what is removed, as a broker does."""
        if start < (begin := self.begin(topic, partition)):
            message = f"{topic}-{partition} begins at {begin}, not {start}"
            raise BrokerRefusedError(message, "other")

    # -- the transaction coordinator ------------------------------------------------

    def fence(self, key: Key) -> int:
        """Complete or abort what is open, then bump the epoch; give it."""
        self.complete(key)
        if (transaction := self.transactions.pop(key, None)) is not None:
            for topic, partition, offset in transaction.offsets:
                self.log(topic, partition)[offset] = None
            self._mark(transaction)
        self.epochs[key] = self.epochs.get(key, 0) + 1
        return self.epochs[key]

    def produce(self, key: Key, epoch: int, topic: str, record: OutRecord) -> int:
        """Append one undecided record; give its offset."""
        self._require(key, epoch)
        self.complete(key)
        transaction = self.transactions.setdefault(key, Transaction(epoch))
        offset = self.append(topic, key[1], record.value, record.headers)
        transaction.offsets.append((topic, key[1], offset))
        return offset

    def end(self, key: Key, epoch: int) -> None:
        """Decide that the open transaction is committed; markers follow."""
        self._require(key, epoch)
        if (transaction := self.transactions.get(key)) is not None:
            transaction.decided = True

    def complete(self, key: Key) -> None:
        """Write the markers of a transaction that is decided."""
        transaction = self.transactions.get(key)
        if transaction is not None and transaction.decided:
            del self.transactions[key]
            self._mark(transaction)

    def deliver(self) -> None:
        """Let the requests that were under way arrive."""
        late, self.late = self.late, []
        for key, epoch in late:
            if self.epochs.get(key) == epoch:
                self.end(key, epoch)

    def _require(self, key: Key, epoch: int) -> None:
        if self.epochs.get(key) != epoch:
            message = "fenced"
            raise FencedError(message)

    def _mark(self, transaction: Transaction) -> None:
        for topic, partition in sorted({(t, p) for t, p, _ in transaction.offsets}):
            self.marker(topic, partition)


@dataclass
class MemoryWriter:
    """A lane's writer."""

    broker: MemoryBroker
    results_topic: str
    audit_topic: str
    partition: int
    epoch: int = -1
    passage: Passage = field(default_factory=Unhindered)
    doubt: bool = False

    @property
    def _key(self) -> Key:
        return (self.audit_topic, self.partition)

    async def fence(self) -> None:
        """Bump the epoch."""
        await self.passage("1 fence: before")
        self.epoch = self.broker.fence(self._key)
        await self.passage("1 fence: after")

    async def commit(
        self, results: Sequence[OutRecord], audit: Sequence[bytes]
    ) -> MemoryAck:
        """Append everything and a marker, or nothing."""
        if self.doubt:
            message = "in doubt"
            raise IndefiniteError(message)
        try:
            return await self._commit(results, audit)
        except BaseException:
            self.doubt = True
            raise

    async def _commit(
        self, results: Sequence[OutRecord], audit: Sequence[bytes]
    ) -> MemoryAck:
        broker, key, epoch = self.broker, self._key, self.epoch
        crash, broker.crash_next = broker.crash_next, None
        if crash == "before":
            message = "lost before the broker saw it"
            raise IndefiniteError(message)
        await self.passage("9 commit: before")
        bases = [broker.produce(key, epoch, self.results_topic, r) for r in results]
        await self.passage("9 commit: results written")
        audit_bases = [
            broker.produce(key, epoch, self.audit_topic, OutRecord(value))
            for value in audit
        ]
        await self.passage("9 commit: audit written")
        try:
            await self.passage("9 commit: end on its way")
        except LateError as error:
            broker.late.append((key, epoch))
            raise IndefiniteError(str(error)) from error
        broker.end(key, epoch)
        await self.passage("9 commit: decided")
        broker.complete(key)
        if crash == "after":
            message = "the answer was lost"
            raise IndefiniteError(message)
        await self.passage("9 commit: marked")
        return MemoryAck(bases[0] if bases else None, audit_bases[0])

    async def close(self) -> None:
        """Nothing is held; no connection that is lost then is anybody's trouble."""
        with contextlib.suppress(IndefiniteError):
            await self.passage("14 close")


@dataclass
class MemoryReader:
    """Reads committed records."""

    broker: MemoryBroker
    passage: Passage = field(default_factory=Unhindered)

    async def begin_offset(self, topic: str, partition: int) -> int:
        """The first offset that is kept."""
        return self.broker.begin(topic, partition)

    async def end_offset(self, topic: str, partition: int) -> int:
        """The end, markers and undecided records included."""
        await self.passage(f"2 recover: end of {topic}")
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
        await self.passage(f"2 recover: read {topic}")
        self.broker.hold_start(topic, partition, start)
        stable = self.broker.stable_end(topic, partition)
        for record in self.broker.log(topic, partition)[start : min(end, stable)]:
            if record is not None:
                yield [record]
        if stable < end:
            await asyncio.sleep(STALL_S)
            message = f"read {topic}-{partition}: stood still at {stable} of {end}"
            raise UnavailableError(message)

    async def prove_gap(
        self, topic: str, partition: int, start: int, end: int
    ) -> list[Range]:
        """Offsets without a record are proven."""
        await self.passage("5 prove a gap")
        self.broker.hold_start(topic, partition, start)
        for offset in range(start, end):
            if self.broker.log(topic, partition)[offset] is not None:
                message = f"offset {offset} holds a record"
                raise IntegrityError(message)
        return [Range(start, end)] if end > start else []
