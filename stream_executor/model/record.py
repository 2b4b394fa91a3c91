"""A record as the broker gives it: the one shape that fetch code hands around.

``aiokafka.ConsumerRecord`` has these attributes, so nothing is converted on the way
in; tests and our own batch parser use ``PlainRecord``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

LOG_APPEND_TIME = 1
Headers = Sequence[tuple[str, bytes]]


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
