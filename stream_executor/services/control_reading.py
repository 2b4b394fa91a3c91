"""Read the control topic to its present end, once.

Not here: following it (``services.control_follower``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from stream_executor.model.record import Record
    from stream_executor.modules.view import ControlView

_PARTITION = 0


class LogReader(Protocol):
    """Reads partitions, committed records only (``kafka.reader.PartitionReader``)."""

    async def partition_count(self, topic: str) -> int:
        """Give how many partitions a topic has."""
        ...

    async def begin_offset(self, topic: str, partition: int) -> int:
        """Give the first offset that still exists."""
        ...

    async def end_offset(self, topic: str, partition: int) -> int:
        """Give the end, undecided records included."""
        ...

    def read(
        self, topic: str, partition: int, start: int, end: int
    ) -> AsyncIterator[Sequence[Record]]:
        """Give every committed record in [start, end), in order, in lists."""
        ...


async def read_control(reader: LogReader, topic: str, view: ControlView) -> None:
    """Take what the topic holds now, up to its end, into a view.

    Raises:
        UnavailableError: the topic could not be read.
        IntegrityError: it was begun under another operator's key.
    """
    end = await reader.end_offset(topic, _PARTITION)
    begin = await reader.begin_offset(topic, _PARTITION)
    start = max(view.next_offset, begin)
    async for records in reader.read(topic, _PARTITION, start, end):
        for record in records:
            view.apply(record.offset, record.timestamp, record.value)
