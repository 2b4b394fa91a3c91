"""What was fetched of a partition and not handed out yet; unpacked as late as possible.

A kilobyte from a broker may unpack to megabytes, so how much is unpacked at a time is
bounded over all partitions: large batches wait for each other's room, small ones and
their partitions never do. How much one call opens and hands out is bounded, too, as
each of a thousand batches may be a kilobyte. Pure.

Not here: fetching (``fetcher``), the bytes (``records``).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from stream_executor.kafka.batches import committed
from stream_executor.kafka.records import MAX_UNPACKED_BYTES, open_batch
from stream_executor.model.record import end_of, held_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from stream_executor.kafka.batches import BatchHeader
    from stream_executor.model.record import Record

# A batch up to this size is small: what a producer sends unless told otherwise
# (librdkafka 1,000,000 bytes before packing, Java 16,384).
SMALL_BYTES: Final = 1 << 20
# All large batches that are open at a time; one of the largest always fits.
OPEN_BYTES: Final = MAX_UNPACKED_BYTES + (8 << 20)


@dataclass(slots=True)
class _Chunk:
    """What one fetch brought.

    Attributes:
        data: the bytes that the headers were parsed from.
        batches: those with committed records, still to be opened.
        end: position after it; past the last record where markers follow.
    """

    data: bytes
    batches: deque[BatchHeader]
    end: int


class Backlog:
    """Fetched bytes of one partition, handed out as records in offset order.

    Attributes:
        position: next offset to hand out.
        open_bytes: of the batch that is open, if it is large.
    """

    def __init__(self, position: int) -> None:
        self.position = position
        self.open_bytes = 0
        self._chunks: deque[_Chunk] = deque()
        self._pieces: Iterator[list[Record]] = iter(())
        self._piece: list[Record] = []
        self._too_little = 0

    def __len__(self) -> int:
        """How many fetches wait, the one that is being handed out included."""
        return len(self._chunks)

    @property
    def packed_bytes(self) -> int:
        """How many fetched bytes are held."""
        return sum(len(chunk.data) for chunk in self._chunks)

    def add(
        self,
        data: bytes,
        headers: Sequence[BatchHeader],
        aborted: Iterable[tuple[int, int]],
    ) -> None:
        """Append what a fetch brought; at least one batch."""
        holding = (header for header, holds in committed(headers, aborted) if holds)
        end = headers[-1].last_offset + 1
        self._chunks.append(_Chunk(data, deque(holding), end))

    def take(self, most: int, most_bytes: int, room: int) -> tuple[list[Record], int]:
        """Hand out records and move the position past them.

        Args:
            most: at most so many, a run counting as one; at least 1.
            most_bytes: stop once so many bytes are spent, on what batches that are
                opened unpack to and on what records hold; at least 1.
            room: how many bytes of a large batch may be opened.

        Returns:
            Records in offset order, and how many of the bytes are left, below 0 if the
            last batch or record took more. No records if nothing is left, or if the
            next batch is large and must wait for more room; else at least one.
        """
        records: list[Record] = []
        while len(records) < most and (most_bytes > 0 or not records):
            if not self._piece:
                if not self._read_on():
                    opened = self._open_next(room)
                    if opened is None:
                        break
                    most_bytes -= opened
                continue
            wanted = 0
            for record in self._piece[: most - len(records)]:
                wanted += 1
                most_bytes -= held_bytes(record)
                if most_bytes <= 0:
                    break
            records += self._piece[:wanted]
            self._piece = self._piece[wanted:]
            self.position = end_of(records[-1])
        if not self._piece:
            self._read_on()  # a batch that is through gives its room back now
        return records, most_bytes

    def _read_on(self) -> bool:
        """Read the next records of the open batch; False if there are none."""
        self._piece = next(self._pieces, [])
        if not self._piece:
            self.open_bytes = 0
        return bool(self._piece)

    def _open_next(self, room: int) -> int | None:
        """Open the next batch; give its bytes, None if none may be opened now."""
        while self._chunks:
            chunk = self._chunks[0]
            if not chunk.batches:
                self.position = chunk.end
                self._chunks.popleft()
                continue
            header = chunk.batches[0]
            size = 0
            if header.last_offset >= self.position:
                limit = min(max(room, SMALL_BYTES), MAX_UNPACKED_BYTES)
                if limit <= self._too_little:
                    return None  # tried with as much before, in vain
                opened = open_batch(chunk.data, header, self.position, limit)
                if opened is None:
                    self._too_little = limit
                    return None
                self._too_little = 0
                size, self._pieces = opened
                self.open_bytes = size if size > SMALL_BYTES else 0
            chunk.batches.popleft()
            return size
        return None
