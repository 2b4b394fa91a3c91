"""A record as the broker gives it: the one shape that fetch code hands around.

``aiokafka.ConsumerRecord`` has these attributes, so nothing is converted on the way
in; tests and our own batch parser use ``PlainRecord``. An ``EmptyRun`` stands for many
records at once where answering each would cost more than it is worth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Protocol

import msgspec

LOG_APPEND_TIME = 1
Headers = Sequence[tuple[str, bytes]]
# A header's tuple, text and bytes as objects, however short they are.
_HEADER_OBJECTS_BYTES: Final = 160


class Record(Protocol):
    """One record of one partition.

    ``timestamp`` is milliseconds since 1970 UTC, ``timestamp_type`` 0 (CreateTime) or
    1 (LogAppendTime); ``key`` and ``value`` are None where the record has none.
    """

    @property
    def offset(self) -> int:
        """Position in the partition."""
        ...

    @property
    def timestamp(self) -> int:
        """Milliseconds since 1970 UTC."""
        ...

    @property
    def timestamp_type(self) -> int:
        """0 CreateTime, 1 LogAppendTime."""
        ...

    @property
    def key(self) -> bytes | None:
        """The record key."""
        ...

    @property
    def value(self) -> bytes | None:
        """The value."""
        ...

    @property
    def headers(self) -> Headers:
        """The headers, in order."""
        ...


class PlainRecord(msgspec.Struct, frozen=True, gc=False):
    """A record as plain data."""

    offset: int
    timestamp: int
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    key: bytes | None = None
    timestamp_type: int = LOG_APPEND_TIME


class EmptyRun(msgspec.Struct, frozen=True, gc=False):
    """Adjacent records that hold nothing, as many as a million, in one value.

    Fits where a ``Record`` is expected, as the first of them.

    Attributes:
        offset, end: what it covers, [offset, end); not empty.
        timestamp, timestamp_type: of each.
    """

    offset: int
    end: int
    timestamp: int
    timestamp_type: int
    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()

    def since(self, offset: int) -> EmptyRun:
        """Give what it covers from an offset on, which must lie in it."""
        return EmptyRun(offset, self.end, self.timestamp, self.timestamp_type)

    def records(self) -> Iterator[PlainRecord]:
        """Give them one by one."""
        for offset in range(self.offset, self.end):
            yield PlainRecord(
                offset, self.timestamp, None, timestamp_type=self.timestamp_type
            )


def end_of(record: Record) -> int:
    """Give the offset after the last that a record covers."""
    return record.end if isinstance(record, EmptyRun) else record.offset + 1


def held_bytes(record: Record) -> int:
    """Give how much memory a record holds, for whoever bounds what is held.

    All that its producer chose the length of counts, the key that nobody reads too.
    """
    size = len(record.value or b"") + len(record.key or b"")
    for name, content in record.headers:
        size += _HEADER_OBJECTS_BYTES + len(name) + len(content)
    return size


class OutRecord(msgspec.Struct, frozen=True, gc=False):
    """A record to publish: exact value bytes and headers; results have no key."""

    value: bytes
    headers: Headers = ()


class Range(msgspec.Struct, frozen=True, gc=False, order=True):
    """Half-open range of offsets [start, end)."""

    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start
