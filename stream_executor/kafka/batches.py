"""Read the headers of record batches as they lie in the log; pure, for hostile bytes.

Kafka stores records in batches of format v2 (KIP-98). Their headers alone tell which
offsets hold records and which hold a transaction's marker or aborted data. That is
what an attested gap rests on (``gaps``), so nothing here trusts a client library.
Compressed records are not opened.

Not here: fetching (``gaps``, ``fetcher``), records (``records``).
"""

from __future__ import annotations

import struct
from enum import Enum
from typing import TYPE_CHECKING, Final

import msgspec
from aiokafka.record.util import calc_crc32c

from stream_executor.model.errors import MalformedError
from stream_executor.model.record import Range

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# base offset, length, leader epoch, magic, CRC, attributes, last offset delta, first
# and largest timestamp, producer id and epoch, base sequence, number of records:
# Kafka's DefaultRecordBatch.java.
HEADER: Final = struct.Struct(">qiibIhiqqqhii")
# The length field counts what follows it.
LENGTH_END: Final = 12
CRC_END: Final = 21
MAGIC: Final = 2
CODEC_BITS: Final = 0x07
LOG_APPEND_BIT: Final = 0x08
TRANSACTIONAL_BIT: Final = 0x10
CONTROL_BIT: Final = 0x20
_MARKER_KEY: Final = struct.Struct(">hh")


class Marker(Enum):
    """What a control batch says of its producer's transaction."""

    ABORT = 0
    COMMIT = 1
    OTHER = -1


class BatchHeader(msgspec.Struct, frozen=True, gc=False):
    """One batch, without its records.

    Attributes:
        base_offset: first offset that it takes.
        last_offset: last offset that it takes (records may be missing in between).
        codec: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
        log_append_time: whether the broker set the time.
        transactional: whether it belongs to a transaction.
        marker: set if and only if it is a control batch.
        first_timestamp: milliseconds, to which records add their deltas.
        max_timestamp: milliseconds; the time of all records if ``log_append_time``.
        producer_id: -1 where the producer is not idempotent.
        record_count: as the producer says; not verified.
        start: where its bytes begin in the data that was parsed.
        end: where they end.
    """

    base_offset: int
    last_offset: int
    codec: int
    log_append_time: bool
    transactional: bool
    marker: Marker | None
    first_timestamp: int
    max_timestamp: int
    producer_id: int
    record_count: int
    start: int
    end: int


def parse_batches(data: bytes) -> list[BatchHeader]:
    """Split fetched bytes into batches.

    A batch that is cut off at the end is left out, as a broker may send one. CRCs are
    verified: they cover everything but offset and leader epoch, which brokers change.

    Args:
        data: the record set of a fetch response, for one partition.

    Returns:
        Whole batches in the order of the log, offsets strictly rising.

    Raises:
        MalformedError: not format v2, a wrong CRC, lengths or offsets that cannot be.

    Cost: O(bytes), of which the CRC runs in C.
    """
    headers: list[BatchHeader] = []
    position, expected = 0, 0
    while len(data) - position >= LENGTH_END:
        header = _parse_batch(data, position)
        if header is None:
            break
        if header.base_offset < expected:
            raise MalformedError(
                f"batch at byte {position}: expected an offset from {expected} on, "
                f"got {header.base_offset}"
            )
        headers.append(header)
        position, expected = header.end, header.last_offset + 1
    return headers


def fingerprint(data: bytes, header: BatchHeader) -> tuple[int, int, bytes]:
    """Give what tells a batch from any other that could lie at its offsets.

    Its first and last offset and its CRC, which covers the time of its append.
    """
    crc = data[header.start + CRC_END - 4 : header.start + CRC_END]
    return header.base_offset, header.last_offset, crc


def _parse_batch(data: bytes, position: int) -> BatchHeader | None:
    """Parse the batch at a position; None if its end is missing."""
    length = int.from_bytes(data[position + 8 : position + LENGTH_END], signed=True)
    if length < HEADER.size - LENGTH_END:
        raise MalformedError(f"batch at byte {position}: length {length} is too small")
    end = position + LENGTH_END + length
    if end > len(data):
        return None
    (
        base_offset,
        _,
        _,
        magic,
        crc,
        attributes,
        last_delta,
        first_timestamp,
        max_timestamp,
        producer_id,
        _,
        _,
        record_count,
    ) = HEADER.unpack_from(data, position)
    if magic != MAGIC:
        raise MalformedError(f"batch at byte {position}: expected v2, got v{magic}")
    if base_offset < 0 or last_delta < 0:
        raise MalformedError(
            f"batch at byte {position}: offset {base_offset}, last delta {last_delta}"
        )
    if calc_crc32c(data[position + CRC_END : end]) != crc:
        raise MalformedError(f"batch at byte {position}: the CRC does not match")
    marker = None
    if attributes & CONTROL_BIT:
        marker = _marker(data[position + HEADER.size : end])
    return BatchHeader(
        base_offset=base_offset,
        last_offset=base_offset + last_delta,
        codec=attributes & CODEC_BITS,
        log_append_time=bool(attributes & LOG_APPEND_BIT),
        transactional=bool(attributes & TRANSACTIONAL_BIT),
        marker=marker,
        first_timestamp=first_timestamp,
        max_timestamp=max_timestamp,
        producer_id=producer_id,
        record_count=record_count,
        start=position,
        end=end,
    )


def _marker(records: bytes) -> Marker:
    """Read the kind from a control batch's one record (KIP-98: version, type)."""
    _, position = read_varint(records, 0)  # length of the record
    position += 1  # attributes
    _, position = read_varint(records, position)  # time
    _, position = read_varint(records, position)  # offset
    key_length, position = read_varint(records, position)
    key = records[position : position + key_length]
    if key_length < _MARKER_KEY.size or len(key) != key_length:
        raise MalformedError(f"control record: key of {key_length} bytes")
    _, kind = _MARKER_KEY.unpack_from(key)
    return Marker(kind) if kind in {0, 1} else Marker.OTHER


def read_varint(data: bytes | memoryview, position: int) -> tuple[int, int]:
    """Read one zig-zag variable-length integer of at most 64 bits.

    Returns:
        The integer and the position after it.

    Raises:
        MalformedError: it runs past the end or past ten bytes.
    """
    value, shift = 0, 0
    limit = min(len(data), position + 10)
    while position < limit:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004  # the continuation bit
            return (value >> 1) ^ -(value & 1), position
        shift += 7
    raise MalformedError(f"variable-length integer: no end at byte {position}")


def committed(
    headers: Iterable[BatchHeader], aborted: Iterable[tuple[int, int]]
) -> Iterator[tuple[BatchHeader, bool]]:
    """Say of each batch whether its offsets hold committed records.

    Kafka's own algorithm (CompletedFetch.java): an aborted transaction begins for its
    producer at ``first offset`` and ends at that producer's abort marker.

    Args:
        headers: batches of one fetch response, in order.
        aborted: (producer id, first offset) as that same response lists them.

    Yields:
        Each batch, and False if it is a marker or belongs to an aborted transaction.
    """
    waiting = sorted(aborted, key=_first_offset, reverse=True)
    aborting: set[int] = set()
    for header in headers:
        while waiting and waiting[-1][1] <= header.last_offset:
            aborting.add(waiting.pop()[0])
        if header.marker is not None:
            if header.marker is Marker.ABORT:
                aborting.discard(header.producer_id)
            yield header, False
        else:
            yield header, not (header.transactional and header.producer_id in aborting)


def _first_offset(transaction: tuple[int, int]) -> int:
    return transaction[1]


def merge(ranges: Sequence[Range]) -> list[Range]:
    """Join ranges that touch or overlap; the result is sorted and maximal."""
    merged: list[Range] = []
    for one in sorted(ranges):
        if merged and one.start <= merged[-1].end:
            merged[-1] = Range(merged[-1].start, max(one.end, merged[-1].end))
        elif one.start < one.end:
            merged.append(one)
    return merged
