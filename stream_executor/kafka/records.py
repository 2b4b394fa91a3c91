"""Give every offset of a fetched batch its record, or say what is wrong with it.

A broker accepts batches that make an ordinary client raise for ever, skip records in
silence or fill the memory: header keys that are not UTF-8, forged offset deltas, 6 KB
that unpack to 200 MB, seven million empty headers, a million empty records. A requester
must not stop a lane with one of these. So unpacking and the number of records are
bounded, the records of an honest batch are read in C, and at the first one that is not
as it should be a tolerant parser takes over and gives each remaining offset its state.
Pure; fuzzed.

Assumes a topic that is never compacted: the offset of a record is the batch's base
plus its index, which is what the broker itself counts.

Not here: fetching (``fetcher``), batch headers (``batches``).
"""

from __future__ import annotations

import zlib
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final

import cramjam
import msgspec
from aiokafka.record.default_records import DefaultRecordBatch

from stream_executor.kafka.batches import (
    CODEC_BITS,
    HEADER,
    BatchHeader,
    committed,
    read_varint,
)
from stream_executor.model.errors import MalformedError
from stream_executor.model.record import EmptyRun, PlainRecord, held_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from stream_executor.model.record import Headers, Record

# Sixteen times what a broker takes as one batch by default (message.max.bytes). Who
# reads requests again (recovery, verify) must find what the lane found, so this is part
# of what a request is and no setting.
MAX_UNPACKED_BYTES: Final = 16 << 20
# No honest batch of the size that brokers take by default holds more: each request
# brings 64 bytes that nothing packs, a signature, or a MAC and the digest of its body.
MAX_RECORDS: Final = 16_384
MAX_HEADERS: Final = 64
MAX_HEADER_BYTES: Final = 16 << 10
# aiokafka's C parser builds all headers of a record before anyone can count them, some
# 40 bytes for each byte of a forged one: up to here that is 40 MB for a moment, beyond
# it the tolerant parser reads the batch from the start.
_C_PARSER_BYTES: Final = 1 << 20
_ATTRIBUTES_LOW: Final = 22  # position of the attributes' low byte in a batch
_XERIAL: Final = b"\x82SNAPPY\x00"
_XERIAL_HEADER: Final = 16
# Records handed on at a time; with most headers they hold a megabyte while they wait.
_PIECE: Final = 128
_PIECE_BYTES: Final = 1 << 20
_NAMED: Final = 64  # damaged offsets of a batch whose problem is told
_FIRST_GUESS: Final = 16  # unpacked size over packed size, tried before the limit
_NONE, _GZIP, _SNAPPY, _LZ4, _ZSTD = range(5)


class DamagedRecord(msgspec.Struct, frozen=True, gc=False):
    """An offset that was taken by something that is no proper record.

    Fits where a ``Record`` is expected; it has neither value nor headers.

    Attributes:
        offset: the offset that it takes.
        timestamp: milliseconds, of its batch.
        problem: what is wrong, for the audit event's detail; no payload in it.
        timestamp_type: 1 if the broker set the time.
    """

    offset: int
    timestamp: int
    problem: str
    timestamp_type: int
    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


def open_batches(
    data: bytes,
    headers: Iterable[BatchHeader],
    aborted: Iterable[tuple[int, int]],
    position: int,
    limit: int = MAX_UNPACKED_BYTES,
) -> Iterator[list[Record]]:
    """Yield one record for every committed offset from ``position`` on, in order.

    In pieces of a hundred, because a generator's step for each record would cost as
    much as reading it. Lazily: memory is one unpacked batch at a time.

    Args:
        data: the bytes that ``headers`` were parsed from.
        headers: as ``parse_batches`` gave them.
        aborted: as the same fetch response lists them.
        position: offsets below it are left out.
        limit: how many bytes a batch may unpack to, ``MAX_UNPACKED_BYTES`` or more.

    Yields:
        Proper records, or ``DamagedRecord`` where there is none, never an empty list
        and never a run; offsets of markers and aborted batches are left out.
    """
    for header, holds_records in committed(headers, aborted):
        if not holds_records or header.last_offset < position:
            continue
        opened = open_batch(data, header, position, limit)
        if opened is not None:
            yield from _without_runs(opened[1])


def _without_runs(pieces: Iterator[list[Record]]) -> Iterator[list[Record]]:
    for piece in pieces:
        run = piece[-1]
        if isinstance(run, EmptyRun):
            yield from _pieces(chain(piece[:-1], run.records()))
        else:
            yield piece


def open_batch(
    data: bytes,
    header: BatchHeader,
    position: int = 0,
    limit: int = MAX_UNPACKED_BYTES,
) -> tuple[int, Iterator[list[Record]]] | None:
    """Unpack a batch and give a record for each offset that it takes.

    A batch with too many records, or too many bytes of them, is not read: some of its
    offsets are damaged, the others one run.

    Args:
        data: the bytes that ``header`` was parsed from.
        header: of the batch.
        position: offsets below it are left out.
        limit: how many bytes its records may take, unpacked.

    Returns:
        How many bytes were unpacked, and the records in pieces as ``open_batches``
        does; or None if they may need more than a limit that is below the largest: with
        that one, what does not fit is damaged.
    """
    count = header.last_offset - header.base_offset + 1
    if count > MAX_RECORDS:
        problem = f"a batch of {count} records; at most {MAX_RECORDS}"
        return 0, _unread(header, position, problem)
    payload: bytes | memoryview = memoryview(data)[
        header.start + HEADER.size : header.end
    ]
    if header.codec:
        try:
            payload = unpack(header.codec, bytes(payload), limit)
        except MalformedError as error:
            if limit < MAX_UNPACKED_BYTES:
                return None
            return limit, _unread(header, position, str(error))
    elif len(payload) > limit < MAX_UNPACKED_BYTES:
        return None
    return len(payload), _from(position, _records(data, header, payload))


def _unread(header: BatchHeader, position: int, problem: str) -> Iterator[list[Record]]:
    """Name the problem of some offsets and put all others into one run.

    Those are refused for their missing token, and adjacent ones share one answer: else
    some kilobytes could have millions of answers written (docs/adr/0021).
    """
    start, end = max(header.base_offset, position), header.last_offset + 1
    named_end = min(start + _NAMED, end)
    piece: list[Record] = [
        _damage(header, offset, problem) for offset in range(start, named_end)
    ]
    if named_end < end:
        stamp, kind = _time(header, 0), int(header.log_append_time)
        piece.append(EmptyRun(named_end, end, stamp, kind))
    yield piece


def _from(position: int, pieces: Iterator[list[Record]]) -> Iterator[list[Record]]:
    for piece in pieces:
        wanted = piece
        if piece[0].offset < position:
            wanted = [record for record in piece if record.offset >= position]
        if wanted:
            yield wanted


def _records(
    data: bytes, header: BatchHeader, payload: bytes | memoryview
) -> Iterator[list[Record]]:
    expected = header.base_offset
    if len(payload) <= _C_PARSER_BYTES:
        for piece in _parse_in_c(data, header, payload):
            if not _proper(piece, expected):
                del piece  # a million headers, and we go on for as long as it is open
                break
            yield piece
            expected += len(piece)
    if expected <= header.last_offset:
        rest = _parse_tolerantly(payload, header, expected)
        yield from _light_pieces(_few_named(rest))


def _parse_in_c(
    data: bytes, header: BatchHeader, payload: bytes | memoryview
) -> Iterator[list[Record]]:
    """Let aiokafka's C parser read a batch; end silently where it raises."""
    if header.codec:
        head = bytearray(data[header.start : header.start + HEADER.size])
        head[_ATTRIBUTES_LOW] &= ~CODEC_BITS & 0xFF  # unpacked already, within bounds
        whole = b"".join((head, payload))
    else:
        whole = data[header.start : header.end]
    try:
        # Chained, for a batch is its own iterator and lets nobody ask for it twice.
        yield from _pieces(chain(DefaultRecordBatch(whole)))
    except Exception:  # noqa: BLE001  # whatever it stumbles on, we read it ourselves
        return


def _pieces(records: Iterator[Record]) -> Iterator[list[Record]]:
    while piece := list(islice(records, _PIECE)):
        yield piece


def _light_pieces(records: Iterator[Record]) -> Iterator[list[Record]]:
    """Give pieces of few bytes, as what they hold are copies of what is unpacked."""
    piece: list[Record] = []
    size = 0
    for record in records:
        piece.append(record)
        size += held_bytes(record)
        if len(piece) == _PIECE or size >= _PIECE_BYTES:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _few_named(records: Iterator[Record]) -> Iterator[Record]:
    """Name the problem of some offsets; let the others hold nothing, as ``_unread``."""
    named = 0
    for record in records:
        if type(record) is not DamagedRecord:
            yield record
        elif named < _NAMED:
            named += 1
            yield record
        else:
            yield PlainRecord(
                record.offset,
                record.timestamp,
                None,
                (),
                timestamp_type=record.timestamp_type,
            )


def _proper(piece: list[Record], expected: int) -> bool:
    """Whether records of the C parser can be handed on as they are."""
    if [record.offset for record in piece] != list(
        range(expected, expected + len(piece))
    ):
        return False
    return all(_proper_headers(record.headers) for record in piece if record.headers)


def _proper_headers(headers: Headers) -> bool:
    if len(headers) > MAX_HEADERS:
        return False
    size = 0
    for name, content in headers:
        if content is None:  # which the C parser may give, whatever the type says
            return False
        size += len(name) + len(content)
    return size <= MAX_HEADER_BYTES


def _parse_tolerantly(
    payload: bytes | memoryview, header: BatchHeader, start: int
) -> Iterator[Record]:
    """Read a batch record by record and go on after a bad one, while that is possible.

    A record's length says where the next begins; once a length itself is impossible the
    rest of the batch is damaged.
    """
    position = 0
    for offset in range(header.base_offset, header.last_offset + 1):
        try:
            length, begin = read_varint(payload, position)
            if not 0 <= length <= len(payload) - begin:
                raise MalformedError(f"a record of {length} bytes")  # noqa: TRY301
        except MalformedError as error:
            yield from _damaged(header, max(offset, start), str(error))
            return
        position = begin + length
        if offset < start:
            continue
        try:
            record: Record = _parse_record(payload[begin:position], header, offset)
        except MalformedError as error:
            record = _damage(header, offset, str(error))
        yield record


def _parse_record(
    data: bytes | memoryview, header: BatchHeader, offset: int
) -> PlainRecord:
    """Parse one record of format v2 (KIP-98), its length left off."""
    delta, position = read_varint(data, 1)  # after the attributes
    _, position = read_varint(data, position)  # the producer's offset delta: hearsay
    key, position = _field(data, position)
    value, position = _field(data, position)
    count, position = read_varint(data, position)
    if not 0 <= count <= MAX_HEADERS:
        raise MalformedError(f"{count} headers; at most {MAX_HEADERS}")
    headers: list[tuple[str, bytes]] = []
    start = position
    for _ in range(count):
        name, position = _field(data, position)
        content, position = _field(data, position)
        try:
            headers.append(((name or b"").decode(), content or b""))
        except UnicodeDecodeError:
            raise MalformedError("a header key that is not UTF-8") from None
    if position - start > MAX_HEADER_BYTES:
        raise MalformedError(f"{position - start} bytes of headers")
    if position != len(data):
        raise MalformedError(f"{len(data) - position} bytes after the headers")
    return PlainRecord(
        offset=offset,
        timestamp=_time(header, delta),
        value=value,
        headers=tuple(headers),
        key=key,
        timestamp_type=int(header.log_append_time),
    )


def _field(data: bytes | memoryview, position: int) -> tuple[bytes | None, int]:
    """Read bytes with their length before them; -1 is null."""
    length, position = read_varint(data, position)
    if length == -1:
        return None, position
    end = position + length
    if length < 0 or end > len(data):
        raise MalformedError(f"a field of {length} bytes")
    return bytes(data[position:end]), end


def _time(header: BatchHeader, delta: int) -> int:
    if header.log_append_time:
        return header.max_timestamp
    return header.first_timestamp + delta


def _damage(header: BatchHeader, offset: int, problem: str) -> DamagedRecord:
    return DamagedRecord(offset, _time(header, 0), problem, int(header.log_append_time))


def _damaged(header: BatchHeader, start: int, problem: str) -> Iterator[DamagedRecord]:
    for offset in range(start, header.last_offset + 1):
        yield _damage(header, offset, problem)


def unpack(
    codec: int, packed: bytes, limit: int = MAX_UNPACKED_BYTES
) -> bytes | memoryview:
    """Decompress a batch's records, never into more than ``limit`` bytes.

    Args:
        codec: 1 gzip, 2 snappy (raw or Java's framing), 3 lz4 frames, 4 zstd.
        packed: what follows the batch header.
        limit: bytes.

    Raises:
        MalformedError: unknown codec, not of that codec, or larger than the limit.
    """
    try:
        if codec == _GZIP:
            return _gunzip(packed, limit)
        if codec == _SNAPPY:
            return _unsnap(packed, limit)
        if codec in {_LZ4, _ZSTD}:
            return _unframe(
                cramjam.lz4 if codec == _LZ4 else cramjam.zstd, packed, limit
            )
    except (cramjam.DecompressionError, zlib.error) as error:
        raise MalformedError(
            f"codec {codec}: {str(error)[:64]} (limit {limit} bytes)"
        ) from error
    raise MalformedError(f"unknown codec {codec}")


def _unframe(codec: Any, packed: bytes, limit: int) -> memoryview:
    """Decompress into a buffer of a likely size, then into one of the limit's.

    The buffer itself is given: a copy would need its memory once more.
    """
    likely = min(limit, _FIRST_GUESS * len(packed) + 4096)
    for size in (likely, limit):
        buffer = bytearray(size)
        try:
            used = codec.decompress_into(packed, buffer)
        except cramjam.DecompressionError:
            if size == limit:
                raise
            continue
        return memoryview(buffer)[:used]
    raise MalformedError("unreachable: the last size returns or raises")


def _gunzip(packed: bytes, limit: int) -> bytes:
    """Decompress one member after the other, as Java does."""
    members: list[bytes] = []
    while packed:
        opener = zlib.decompressobj(wbits=31)
        # Of a length of 0 zlib thinks as of no limit.
        members.append(opener.decompress(packed, max(limit, 1)))
        limit -= len(members[-1])
        if not opener.eof or limit < 0:
            raise MalformedError(f"codec {_GZIP}: cut off, or more than allowed")
        packed = opener.unused_data
    return b"".join(members)


def _unsnap(packed: bytes, limit: int) -> bytes:
    if not packed.startswith(_XERIAL):
        return _unsnap_block(packed, limit)
    blocks: list[bytes] = []
    position = _XERIAL_HEADER
    while position < len(packed):
        begin = position + 4
        size = int.from_bytes(packed[position:begin])
        position = begin + size
        if position > len(packed) or begin > len(packed):
            raise MalformedError(f"codec {_SNAPPY}: a block of {size} bytes")
        blocks.append(_unsnap_block(packed[begin:position], limit))
        limit -= len(blocks[-1])
    return b"".join(blocks)


def _unsnap_block(packed: bytes, limit: int) -> bytes:
    size = cramjam.snappy.decompress_raw_len(packed)
    if size > limit:
        raise MalformedError(f"codec {_SNAPPY}: more than {limit} bytes left")
    return bytes(cramjam.snappy.decompress_raw(packed))
