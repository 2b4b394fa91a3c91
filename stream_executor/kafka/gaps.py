"""Prove that offsets hold no committed record.

A lane attests a gap only with this proof: every offset of it lies in a control batch
or in a batch of an aborted transaction, read from the raw headers that the partition's
leader sends. A hole that no batch covers, or a batch with committed records, is no
proof: the lane halts.

Not here: who signs the attestation (the seal).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from stream_executor.kafka.batches import committed, merge, parse_batches
from stream_executor.kafka.client import BrokerClient
from stream_executor.model.errors import (
    HoleError,
    IntegrityError,
    MalformedError,
    UnavailableError,
)
from stream_executor.model.record import Range

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from stream_executor.kafka.connection import KafkaConnection

FETCH_BYTES: Final = 1 << 20
# How often an empty answer is asked again: a leader that has just moved may need a
# moment until it knows how far the log is decided.
_EMPTY_ANSWERS: Final = 40
_EMPTY_WAIT_MS: Final = 50


class GapProver:
    """Fetches raw batches over a range and says which offsets are proven empty.

    One connection for any topic and partition; calls may run side by side. Memory is
    one fetch (1 MiB, or one batch where that is larger) a call.
    """

    def __init__(
        self, connection: KafkaConnection, *, fetch_bytes: int = FETCH_BYTES
    ) -> None:
        self._client = BrokerClient(connection, "gaps")
        self._fetch_bytes = fetch_bytes

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Connect; errors as ``BrokerClient.start``."""
        await self._client.start()

    async def close(self) -> None:
        """Disconnect; never hangs, never raises."""
        await self._client.close()

    async def prove_gap(
        self, topic: str, partition: int, start: int, end: int
    ) -> list[Range]:
        """Prove that no offset of [start, end) holds a committed record.

        Args:
            topic: name of the topic.
            partition: its partition.
            start: first offset of the gap.
            end: first offset after it.

        Returns:
            ``[Range(start, end)]``, or nothing if the range is empty.

        Raises:
            HoleError: no batch covers an offset.
            IntegrityError: an offset holds a record; the message names the first one.
            UnavailableError: no answer in time, or the range is not decided yet.
            BrokerRefusedError: the range begins outside the log, or no right to read.
        """
        proven = await self.find_gaps(topic, partition, start, end)
        if proven == [Range(start, end)] or start >= end:
            return proven
        first = start
        if proven and proven[0].start == start:
            first = proven[0].end
        raise IntegrityError(
            f"{topic}-{partition}: offset {first} holds a committed record, so "
            f"[{start}, {end}) is no gap"
        )

    async def find_gaps(
        self, topic: str, partition: int, start: int, end: int
    ) -> list[Range]:
        """Find every range of [start, end) that is proven to hold no record.

        Returns:
            Sorted, maximal, half-open ranges; all other offsets hold records.

        Raises:
            HoleError: an offset lies in no batch at all.
            IntegrityError: bytes are malformed.
            UnavailableError, BrokerRefusedError: as ``prove_gap``.
        """
        where = f"{topic}-{partition}"
        empty: list[Range] = []
        position, idle = start, 0
        while position < end:
            fetched = await self._client.fetch(
                topic,
                partition,
                position,
                max_bytes=self._fetch_bytes,
                max_wait_ms=_EMPTY_WAIT_MS,
            )
            try:
                headers = parse_batches(fetched.data)
            except MalformedError as error:
                raise IntegrityError(f"{where} from {position}: {error}") from error
            reached = position
            for header, holds_records in committed(headers, fetched.aborted):
                if header.last_offset < reached:
                    continue  # a fetch may begin with the batch before
                if header.base_offset > reached:
                    raise HoleError(
                        f"{where}: no batch covers offset {reached}; the next begins "
                        f"at {header.base_offset}",
                        reached,
                        min(header.base_offset, end),
                    )
                reached = min(header.last_offset + 1, end)
                if not holds_records:
                    empty.append(Range(max(header.base_offset, start), reached))
                if reached == end:
                    break
            if reached == position:
                idle += 1
                if idle >= _EMPTY_ANSWERS:
                    raise UnavailableError(
                        f"{where}: offset {position} is not decided yet (log end "
                        f"{fetched.high_watermark}, decided {fetched.last_stable})"
                    )
                # Where nothing is there the broker has waited; where something is
                # cut off it has not, so wait here.
                await asyncio.sleep(_EMPTY_WAIT_MS / 1000 if fetched.data else 0)
            position = reached
        return merge(empty)
