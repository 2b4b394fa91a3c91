"""Read one partition from an offset on: recovery, verification, views and tails.

Reads committed records only, without a group, from the offset that the caller names:
nothing is remembered and nothing is reset. Ends by *position*, not by record, because
the last offsets of a log are usually a transaction's marker.

Not here: many partitions at once, and hostile batches (``fetcher``).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from stream_executor.kafka.batches import parse_batches
from stream_executor.kafka.client import READ_COMMITTED, BrokerClient
from stream_executor.kafka.records import MAX_UNPACKED_BYTES, open_batches
from stream_executor.model.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType
    from typing import Self

    from stream_executor.kafka.connection import KafkaConnection
    from stream_executor.model.record import Record

FETCH_BYTES: Final = 1 << 20
FOLLOW_WAIT_MS: Final = 500
_BOUNDED_WAIT_MS: Final = 100
# A module is one record, and brokers may be set to pack it (`topics`: 64 MiB, and room
# for what is around it).
_LARGEST_RECORD_BYTES: Final = (64 << 20) + (1 << 20)


class PartitionReader:
    """Reads any number of partitions, one after the other.

    Concurrent reads work but share one connection, on which a broker answers one fetch
    at a time: to follow several partitions at once use ``TopicFetcher``.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        *,
        fetch_bytes: int = FETCH_BYTES,
        stall_deadline_s: float = 30.0,
    ) -> None:
        """Prepare; nothing is opened before ``start``.

        Args:
            connection: the brokers.
            fetch_bytes: bytes of one fetch, at least one batch whatever its size.
            stall_deadline_s: how long a bounded read may stand still, for instance
                behind a foreign open transaction, before it gives up; seconds.
        """
        self._client = BrokerClient(connection, "reader")
        self._fetch_bytes = fetch_bytes
        self._stall_deadline_s = stall_deadline_s

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

    async def end_offset(self, topic: str, partition: int) -> int:
        """End of the log, undecided records included (read uncommitted).

        Raises:
            UnavailableError: no answer in time.
            BrokerRefusedError: ``unknown_topic`` or ``not_authorised``.
        """
        return await self._client.end_offset(topic, partition)

    async def begin_offset(self, topic: str, partition: int) -> int:
        """First offset that still exists; errors as ``end_offset``."""
        return await self._client.begin_offset(topic, partition)

    async def offset_for_time(
        self, topic: str, partition: int, timestamp_ms: int
    ) -> int | None:
        """First offset whose record has this timestamp or a later one; None if none.

        Errors as ``end_offset``.
        """
        offset = await self._client.offset(
            topic, partition, timestamp_ms, READ_COMMITTED
        )
        return None if offset < 0 else offset

    async def cluster_id(self) -> str:
        """Id of the cluster that answers now; errors as ``end_offset``."""
        return await self._client.cluster_id()

    async def partition_count(self, topic: str) -> int:
        """Number of partitions of a topic; errors as ``end_offset``."""
        return await self._client.partition_count(topic)

    async def read(
        self,
        topic: str,
        partition: int,
        start: int,
        end: int | None = None,
        *,
        unpacked_bytes: int = MAX_UNPACKED_BYTES,
    ) -> AsyncIterator[list[Record]]:
        """Yield the committed records from ``start`` on, in lists, in order.

        With an ``end`` the read stops once its position has reached it: markers and
        aborted records count, records at or after ``end`` are not yielded. Without
        one it follows the log for ever and yields an empty list whenever nothing new
        came for 500 ms, so that the caller can look at its clock.

        Args:
            topic: name of the topic.
            partition: its partition.
            start: first offset wanted.
            end: first offset not wanted, usually ``end_offset``; None to follow.
            unpacked_bytes: what a batch may unpack to; ``MAX_UNPACKED_BYTES`` or more.

        Raises:
            UnavailableError: no answer in time, or a bounded read stood still for
                ``stall_deadline_s`` (an open transaction before ``end``).
            BrokerRefusedError: ``start`` lies outside the log (``other``), unknown
                topic, or no right to read.
            MalformedError: what the broker sent is no sequence of batches. A batch
                whose records cannot be read gives a ``DamagedRecord`` for each offset.
        """
        position = start
        moved = time.monotonic()
        while end is None or position < end:
            fetched = await self._client.fetch(
                topic,
                partition,
                position,
                max_bytes=self._fetch_bytes,
                max_wait_ms=FOLLOW_WAIT_MS if end is None else _BOUNDED_WAIT_MS,
            )
            headers = parse_batches(fetched.data)
            before, idle = position, True
            # Piece by piece and tolerantly: requesters' bytes are read here too, and
            # one batch that unpacks to much must not hide or outweigh the others.
            for piece in open_batches(
                fetched.data, headers, fetched.aborted, position, unpacked_bytes
            ):
                wanted = piece
                if end is not None and piece[-1].offset >= end:
                    wanted = [record for record in piece if record.offset < end]
                if wanted:
                    idle = False
                    yield wanted
                if len(wanted) < len(piece):
                    break
            if headers:
                position = max(position, headers[-1].last_offset + 1)
            if position > before:
                moved = time.monotonic()
            elif end is not None and time.monotonic() - moved > self._stall_deadline_s:
                raise UnavailableError(
                    f"read {topic}-{partition}: stood still at {position} of {end} for "
                    f"{self._stall_deadline_s:.0f} s (decided: {fetched.last_stable})"
                )
            if end is None and idle:
                yield []

    async def read_one(self, topic: str, partition: int, offset: int) -> Record | None:
        """Read the record at an offset; None if that offset holds none.

        None means a marker, an aborted record, or a record that compaction removed.

        Raises:
            UnavailableError, BrokerRefusedError, MalformedError: as ``read``.
        """
        async for records in self.read(
            topic, partition, offset, offset + 1, unpacked_bytes=_LARGEST_RECORD_BYTES
        ):
            return records[0]
        return None
