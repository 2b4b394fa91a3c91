"""What a lane relies on of its log, said once for the model and for real Kafka.

``tests/unit/kafka/test_log_contract.py`` runs this over ``memory_log``,
``tests/integration/kafka/test_log_contract.py`` over the kafka room and a broker: where
the two differ, the model lies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

from stream_executor.model.errors import (
    BrokerRefusedError,
    FencedError,
    IndefiniteError,
    IntegrityError,
)
from stream_executor.model.record import OutRecord, Range

if TYPE_CHECKING:
    from stream_executor.lane.ports import GapProver, LogReader, TransactionalWriter


class Log(Protocol):
    """One lane's partitions, and what a test does to them."""

    requests: str
    results: str
    audit: str
    reader: LogReader
    prover: GapProver

    def writer(self) -> TransactionalWriter:
        """Give a writer that has fenced nobody."""
        ...

    async def leave_open(self, value: bytes) -> None:
        """Fence, write one audit record in a transaction, and die."""
        ...

    async def append(self, value: bytes) -> None:
        """Append one request outside transactions."""
        ...

    async def abort(self, values: list[bytes]) -> None:
        """Append requests in a client's transaction, and abort it."""
        ...

    async def remove(self, before: int) -> None:
        """Remove the beginning of the requests."""
        ...


async def visible(log: Log, topic: str) -> list[tuple[int, bytes | None]]:
    """Read a partition to its end as recovery does."""
    end = await log.reader.end_offset(topic, 0)
    return [
        (record.offset, record.value)
        async for records in log.reader.read(topic, 0, 0, end)
        for record in records
    ]


class LogContract:
    """Subclassed with a fixture ``log``."""

    async def test_a_transaction_is_seen_whole_in_order_and_ends_in_a_marker(
        self, log: Log
    ) -> None:
        writer = log.writer()
        await writer.fence()
        first = await writer.commit([OutRecord(b"r0"), OutRecord(b"r1")], [b"a0"])
        second = await writer.commit([], [b"a1"])
        await writer.close()
        assert (first.results_base, first.audit_base) == (0, 0)
        assert (second.results_base, second.audit_base) == (None, 2)
        await log.writer().fence()  # its markers are all written when this returns
        assert await visible(log, log.results) == [(0, b"r0"), (1, b"r1")]
        assert await visible(log, log.audit) == [(0, b"a0"), (2, b"a1")]
        assert await log.reader.end_offset(log.audit, 0) == 4

    async def test_who_fences_last_writes_alone(self, log: Log) -> None:
        old, new = log.writer(), log.writer()
        await old.fence()
        await new.fence()
        with pytest.raises(FencedError):
            await old.commit([OutRecord(b"r")], [b"a"])
        with pytest.raises(IndefiniteError):
            await old.commit([], [b"again"])
        await new.commit([], [b"mine"])
        for writer in (old, new):
            await writer.close()
        await log.writer().fence()
        assert [value for _, value in await visible(log, log.audit)] == [b"mine"]
        assert await visible(log, log.results) == []

    async def test_what_is_undecided_counts_for_the_end_and_a_fence_ends_it(
        self, log: Log
    ) -> None:
        await log.leave_open(b"never")
        assert await log.reader.end_offset(log.audit, 0) == 1
        writer = log.writer()
        await writer.fence()
        # The record and the marker of its abort.
        assert await log.reader.end_offset(log.audit, 0) == 2
        assert await visible(log, log.audit) == []
        await writer.commit([], [b"a"])
        await writer.close()
        await log.writer().fence()
        assert await visible(log, log.audit) == [(2, b"a")]

    async def test_only_offsets_without_a_record_are_proven_empty(
        self, log: Log
    ) -> None:
        await log.append(b"0")
        await log.abort([b"1", b"2"])
        await log.append(b"4")
        assert await visible(log, log.requests) == [(0, b"0"), (4, b"4")]
        proven = await log.prover.prove_gap(log.requests, 0, 1, 4)
        assert proven == [Range(1, 4)]
        for start, end in ((0, 4), (1, 5)):
            with pytest.raises(IntegrityError):
                await log.prover.prove_gap(log.requests, 0, start, end)

    async def test_what_was_removed_is_refused_and_not_passed_over(
        self, log: Log
    ) -> None:
        for value in (b"0", b"1", b"2"):
            await log.append(value)
        await log.remove(2)
        assert await log.reader.begin_offset(log.requests, 0) == 2
        assert await log.reader.end_offset(log.requests, 0) == 3
        assert await log.reader.offset_for_time(log.requests, 0, 1) == 2
        for start in (0, 1):
            with pytest.raises(BrokerRefusedError):
                async for _ in log.reader.read(log.requests, 0, start, 3):
                    pass
            with pytest.raises(BrokerRefusedError):
                await log.prover.prove_gap(log.requests, 0, start, 2)
        async for records in log.reader.read(log.requests, 0, 2, 3):
            assert [record.value for record in records] == [b"2"]
