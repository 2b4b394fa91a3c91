"""Batches made by hand, each wrong in one way, and what a broker makes of them.

``ACCEPTED`` are those that Apache Kafka 4.3 takes into a LogAppendTime topic, so that
every consumer must live with them; ``REFUSED`` shows where the broker protects us, and
fails when a release stops doing so.
"""

from __future__ import annotations

import gzip
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

import cramjam
from aiokafka.codec import lz4_encode, snappy_encode
from aiokafka.record.util import calc_crc32c

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
NAMES = ("plain", "gzip", "snappy", "lz4", "zstd")
PACKERS: dict[int, Callable[[bytes], bytes]] = {
    NONE: bytes,
    GZIP: gzip.compress,
    SNAPPY: snappy_encode,
    LZ4: lz4_encode,
    ZSTD: lambda data: bytes(cramjam.zstd.compress(data, level=3)),
}
MIB = 1 << 20
YEAR_33658_MS = 10**15

# Gives a good record with this offset delta.
Good = Callable[[int], bytes]


def varint(number: int) -> bytes:
    """Zig-zag, seven bits a byte, up to 64 bits."""
    rest = (number << 1) ^ (number >> 63)
    out = bytearray()
    while rest >= 0x80:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def field(data: bytes | None) -> bytes:
    """Bytes with their length before them; -1 is null."""
    return varint(-1) if data is None else varint(len(data)) + data


def header_block(*headers: tuple[bytes | None, bytes | None]) -> bytes:
    """Headers of a record, their count first."""
    content = b"".join(field(name) + field(value) for name, value in headers)
    return varint(len(headers)) + content


def record(
    delta: int,
    value: bytes | None = b"v",
    headers: bytes = b"\0",
    *,
    time_delta: int = 0,
    key: bytes = b"\x01",
    length: int | None = None,
) -> bytes:
    """One record of format v2 (KIP-98); headers and key are raw, with their lengths."""
    body = b"\0" + varint(time_delta) + varint(delta) + key + field(value) + headers
    return varint(len(body) if length is None else length) + body


def batch(
    records: list[bytes],
    codec: int = NONE,
    *,
    payload: bytes | None = None,
    attributes: int = 0,
    count: int | None = None,
    last: int | None = None,
    timestamp: int | None = None,
    magic: int = 2,
    crc: int = 0,
) -> bytes:
    """A batch of these records; ``payload`` replaces what they are packed into."""
    if payload is None:
        payload = PACKERS[codec](b"".join(records))
    now = int(time.time() * 1000) if timestamp is None else timestamp
    count = len(records) if count is None else count
    checked = (
        struct.pack(
            ">hiqqqhii",
            codec | attributes,
            len(records) - 1 if last is None else last,
            now, now, -1, -1, -1, count,
        )
        + payload
    )  # fmt: skip
    sum_ = calc_crc32c(checked) ^ crc
    return struct.pack(">qiibI", 0, len(checked) + 9, -1, magic, sum_) + checked


@dataclass(frozen=True)
class Variation:
    """One hostile batch.

    Attributes:
        build: makes it, around good records.
        good: which of its offsets hold a good record; None if all do.
        count: how many offsets it takes.
    """

    name: str
    build: Callable[[Good], bytes]
    count: int = 1
    good: frozenset[int] | None = frozenset()

    def holds_good(self, index: int) -> bool:
        """Whether this offset of the batch holds a good record."""
        return self.good is None or index in self.good


_NOT_UTF8 = header_block((b"\xff\xfe", b"x"))
_MOST_HEADERS = header_block(*[(b"name", bytes(249))] * 64)
_SHORT_HEADERS = header_block(*[(b"ab", b"cd")] * 64)
_AROUND = frozenset({0, 2})


def _between(name: str, bad: bytes, codec: int = NONE) -> Variation:
    """A bad record between two good ones, whose end can be found."""
    return Variation(
        f"{name}, {NAMES[codec]}",
        lambda good: batch([good(0), bad, good(2)], codec),
        3,
        _AROUND,
    )


def _alone(name: str, *records: bytes, codec: int = NONE) -> Variation:
    made = batch(list(records), codec)
    return Variation(f"{name}, {NAMES[codec]}", lambda _: made, len(records))


def _many(name: str, one: Callable[[int], bytes], count: int) -> Variation:
    return _alone(name, *map(one, range(count)), codec=ZSTD)


def _in_two(codec: int) -> Callable[[Good], bytes]:
    pack = PACKERS[codec]
    return lambda good: batch(
        [good(0), good(1)], codec, payload=pack(good(0)) + pack(good(1))
    )


ACCEPTED: tuple[Variation, ...] = (
    *(
        _between("header key that is not UTF-8", record(1, headers=_NOT_UTF8), codec)
        for codec in range(5)
    ),
    _between("key of length -2", record(1, key=varint(-2))),
    _between("65 headers", record(1, headers=header_block(*[(b"k", b"v")] * 65))),
    _between(
        "17 KB of headers", record(1, headers=header_block((b"k", bytes(17_000))))
    ),
    _between("time far in the future", record(1, time_delta=1 << 60)),
    Variation(
        "offset deltas 0, 0, 1000, 3",
        lambda good: batch([good(0), good(0), good(1_000), good(3)]),
        4,
        None,
    ),
    Variation(
        "offset deltas below zero",
        lambda good: batch([good(-7), good(-(1 << 31)), good(2)]),
        3,
        None,
    ),
    Variation(
        "time in the year 33658",
        lambda good: batch([good(0)], timestamp=YEAR_33658_MS),
        1,
        None,
    ),
    *(
        Variation(
            f"two streams of {NAMES[codec]} in one batch", _in_two(codec), 2, None
        )
        for codec in (GZIP, ZSTD)
    ),
    *(
        _alone(f"{size} MiB of one value", record(0, bytes(size * MIB)), codec=codec)
        for codec, size in ((GZIP, 200), (LZ4, 200), (ZSTD, 200), (SNAPPY, 20))
    ),
    _alone(
        "7 million empty headers",
        record(0, headers=varint(7_000_000) + bytes(14_000_000)),
        codec=ZSTD,
    ),
    _alone(
        "500 thousand empty headers",
        record(0, headers=varint(500_000) + bytes(1_000_000)),
    ),
    *(
        _alone(
            f"{kib} KiB of one key",
            record(0, b"", key=field(bytes(kib << 10))),
            codec=ZSTD,
        )
        for kib in (1_000, 15 << 10)
    ),
    _many(
        "14 MiB of headers, 16 KiB each", lambda i: record(i, b"", _MOST_HEADERS), 900
    ),
    _many(
        "10,000 records with 64 headers each",
        lambda i: record(i, b"", _SHORT_HEADERS),
        10_000,
    ),
    _many("30,000 empty records", lambda i: record(i, b""), 30_000),
    _many(
        "16,000 records with headers that are not UTF-8",
        lambda i: record(i, b"", _NOT_UTF8),
        16_000,
    ),
)

# Each unpacks to almost as much as a batch may, into one record that holds it all, or
# into as many headers as there may be. A poll could take hundreds of them.
BOMBS: tuple[bytes, ...] = (
    batch([record(0, bytes(15 * MIB))], ZSTD),
    batch([record(0, b"", key=field(bytes(15 * MIB)))], ZSTD),
    batch([record(0, b"", key=field(bytes(1_000 << 10)))], ZSTD),
    batch([record(i, b"", _MOST_HEADERS) for i in range(900)], ZSTD),
    batch([record(i, b"", _SHORT_HEADERS) for i in range(700)], ZSTD),
)

REFUSED: tuple[Variation, ...] = (
    Variation(
        "offset deltas 0, 0, 1000, 3, zstd",
        lambda good: batch([good(0), good(0), good(1_000), good(3)], ZSTD),
    ),
    Variation("last delta 100 of two", lambda g: batch([g(0), g(1)], last=100)),
    Variation("count 5 of two", lambda g: batch([g(0), g(1)], count=5)),
    Variation("forged control batch", lambda g: batch([g(0)], attributes=0x30)),
    Variation("wrong CRC", lambda g: batch([g(0)], crc=1)),
    Variation("two batches in one request", lambda g: batch([g(0)]) + batch([g(0)])),
    Variation("magic 3", lambda g: batch([g(0)], magic=3)),
    Variation("magic 0", lambda _: bytes(8) + b"\0\0\0\x16" + bytes(22)),
    Variation("codec 5", lambda g: batch([g(0)], attributes=5)),
    Variation("zstd that is none", lambda g: batch([g(0)], ZSTD, payload=b"none")),
    Variation("zstd cut off", lambda g: batch([g(0)], ZSTD, payload=_half(g))),
    Variation("no records", lambda _: batch([])),
    Variation("value beyond the record", lambda g: batch([g(0), _beyond()])),
    Variation("record beyond the batch", lambda g: batch([g(0), _long()])),
    Variation("record of length -1", lambda g: batch([g(0), varint(-1)])),
    Variation("header key null", lambda g: batch([g(0), _nameless()])),
    _alone("-1 headers", record(0, headers=varint(-1))),
    _alone("bytes after the headers", record(0, headers=b"\0ab")),
    _alone("header without a value", record(0, headers=b"\2\2k")),
)


def _nameless() -> bytes:
    return record(1, headers=header_block((None, b"x")))


def _half(good: Good) -> bytes:
    packed = PACKERS[ZSTD](good(0))
    return packed[: len(packed) // 2]


def _beyond() -> bytes:
    body = b"\0\0" + varint(1) + varint(-1) + varint(1_000) + b"short" + b"\0"
    return varint(len(body)) + body


def _long() -> bytes:
    return record(1, length=10_000)
