"""Every offset of a batch comes out, proper or damaged, whatever the bytes."""

from __future__ import annotations

import gzip
from contextlib import suppress
from typing import TYPE_CHECKING

import cramjam
import pytest
from aiokafka.codec import snappy_encode
from hypothesis import given
from hypothesis import strategies as st

from stream_executor.kafka import records as room
from stream_executor.kafka.batches import BatchHeader, parse_batches
from stream_executor.kafka.records import (
    DamagedRecord,
    open_batch,
    open_batches,
    unpack,
)
from stream_executor.model.errors import MalformedError
from stream_executor.model.record import EmptyRun, PlainRecord, held_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stream_executor.model.record import Record
    from tests.unit.kafka.conftest import Bytes

PACKERS: dict[int, Callable[[bytes], bytes]] = {
    1: gzip.compress,
    2: snappy_encode,
    3: lambda data: bytes(cramjam.lz4.compress(data)),
    4: lambda data: bytes(cramjam.zstd.compress(data)),
}


def opened(data: bytes) -> list[Record]:
    return [
        record
        for piece in open_batches(data, parse_batches(data), (), 0)
        for record in piece
    ]


def pieces(data: bytes, header: BatchHeader) -> Iterator[list[Record]]:
    opened = open_batch(data, header)
    assert opened is not None
    return opened[1]


def shape(record: Record) -> tuple[object, ...]:
    return (
        record.offset,
        record.timestamp,
        record.timestamp_type,
        record.key,
        record.value,
        [tuple(header) for header in record.headers],
    )


@pytest.mark.parametrize("codec", [0, 1, 2, 3, 4])
def test_an_honest_batch_is_read_the_same_by_both_parsers(
    build: Bytes, codec: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = b"".join(
        [
            build.record(0, b"one", ((b"k", b"v"), (b"", b""))),
            build.record(1, None, key=b"key", time=7),
            build.record(2, b"", key=b""),
        ]
    )
    packed = PACKERS[codec](payload) if codec else payload
    for attributes in (codec, codec | 0x08):
        data = build.batch(5, packed, count=3, attributes=attributes)
        fast = [shape(record) for record in opened(data)]
        monkeypatch.setattr(room, "_C_PARSER_BYTES", -1)
        slow = [shape(record) for record in opened(data)]
        monkeypatch.undo()
        assert fast == slow
        assert [one[0] for one in fast] == [5, 6, 7]
        assert fast[0][5] == [("k", b"v"), ("", b"")]
        times = [one[1] for one in fast]
        assert times == ([2_000] * 3 if attributes & 8 else [1_000, 1_007, 1_000])


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ({"headers": ((b"\xff", b""),)}, "UTF-8"),
        ({"headers": ((b"k", b""),) * 65}, "65 headers"),
        ({"headers": ((b"k", bytes(17_000)),)}, "bytes of headers"),
        ({"tail": b"junk"}, "4 bytes after"),
        ({"count": -1}, "-1 headers"),
        ({"count": 3}, "no end"),
    ],
)
def test_a_bad_record_is_named_and_its_neighbours_are_whole(
    build: Bytes, bad: dict[str, object], problem: str
) -> None:
    middle = build.record(1, b"bad", **bad)  # type: ignore[arg-type]
    found = opened(build.batch(0, [build.record(0), middle, build.record(2, b"last")]))
    assert [one.offset for one in found] == [0, 1, 2]
    assert isinstance(found[1], DamagedRecord)
    assert problem in found[1].problem
    assert (found[0].value, found[2].value) == (b"v", b"last")


def test_a_null_header_value_is_empty_bytes(build: Bytes) -> None:
    (found,) = opened(build.batch(0, [build.record(0, headers=((b"k", None),))]))
    assert list(found.headers) == [("k", b"")]


def test_after_an_impossible_length_the_rest_is_damaged(build: Bytes) -> None:
    payload = build.record(0) + build.varint(10_000) + b"short"
    found = opened(build.batch(0, payload, count=4))
    assert [type(one) is DamagedRecord for one in found] == [False, True, True, True]


def test_records_beyond_the_last_offset_are_not_invented(build: Bytes) -> None:
    payload = build.record(0) + build.record(1)
    assert [one.offset for one in opened(build.batch(0, payload, count=1))] == [0]


@pytest.mark.parametrize("codec", [1, 2, 3, 4])
def test_unpacking_stops_at_the_limit(codec: int) -> None:
    packed = PACKERS[codec](bytes(100_000))
    assert unpack(codec, packed, 100_000) == bytes(100_000)
    with pytest.raises(MalformedError):
        unpack(codec, packed, 99_999)


@pytest.mark.parametrize("codec", [1, 4])
def test_two_streams_in_one_batch_are_one(codec: int) -> None:
    packed = PACKERS[codec](bytes(1_000)) + PACKERS[codec](b"x" * 500)
    assert unpack(codec, packed, 1_500) == bytes(1_000) + b"x" * 500
    for limit in (999, 1_000, 1_499):
        with pytest.raises(MalformedError):
            unpack(codec, packed, limit)


def test_raw_snappy_is_read_too() -> None:
    packed = bytes(cramjam.snappy.compress_raw(b"ab" * 1_000))
    assert unpack(2, packed) == b"ab" * 1_000
    with pytest.raises(MalformedError):
        unpack(2, packed, 100)


@given(st.integers(0, 9), st.binary(max_size=200))
def test_unpacking_arbitrary_bytes_is_bytes_or_malformed(
    codec: int, packed: bytes
) -> None:
    for data in (packed, b"\x82SNAPPY\x00" + packed):
        with suppress(MalformedError):
            assert len(unpack(codec, data, 1_000)) <= 1_000


@given(
    payload=st.binary(max_size=200),
    last=st.integers(0, 20),
    codec=st.integers(0, 7),
    count=st.integers(-5, 30),
)
def test_every_offset_comes_out_once_whatever_the_bytes(
    payload: bytes, last: int, codec: int, count: int
) -> None:
    data = bytes(61) + payload
    header = BatchHeader(
        10, 10 + last, codec, True, False, None, 0, 5, -1, count, 0, len(data)
    )
    found = [one for piece in pieces(data, header) for one in piece]
    assert [one.offset for one in found] == list(range(10, 11 + last))
    assert all(isinstance(one.headers, list | tuple) for one in found)


@given(
    mutations=st.lists(
        st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4
    )
)
def test_mutated_records_never_escape(
    mutations: list[tuple[int, int]], build: Bytes
) -> None:
    payload = bytearray(
        b"".join(
            build.record(index, b"value", ((b"name", b"content"),))
            for index in range(4)
        )
    )
    for position, byte in mutations:
        payload[position % len(payload)] = byte
    found = opened(build.batch(0, bytes(payload), count=4))
    assert [one.offset for one in found] == [0, 1, 2, 3]


def test_positions_markers_and_aborted_batches_are_left_out(build: Bytes) -> None:
    data = b"".join(
        [
            build.batch(0, [build.record(index) for index in range(3)]),
            build.transactional(3, pid=1),
            build.control(4, 1, 0),
            build.batch(5, [build.record(0, b"last")]),
        ]
    )
    found = list(open_batches(data, parse_batches(data), [(1, 3)], 2))
    assert [[one.offset for one in piece] for piece in found] == [[2], [5]]


def test_a_bad_record_late_in_a_long_batch_costs_nobody_else(build: Bytes) -> None:
    records = [build.record(index) for index in range(1_500)]
    records[1_400] = build.record(1_400, headers=((b"\xff", b""),))
    found = opened(build.batch(0, records))
    assert [one.offset for one in found] == list(range(1_500))
    assert [one.offset for one in found if isinstance(one, DamagedRecord)] == [1_400]


def test_a_long_batch_that_is_proper_is_read_in_c(
    build: Bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tolerant parser takes six times as long, whatever the batch is."""
    monkeypatch.setattr(room, "_parse_tolerantly", None)
    found = opened(build.batch(0, [build.record(index) for index in range(1_500)]))
    assert [one.offset for one in found] == list(range(1_500))


def test_a_batch_of_too_many_records_is_not_read(build: Bytes) -> None:
    """A requester owes 64 packed bytes a request; these have less than one."""
    empty = build.record(0, b"")
    most = room.MAX_RECORDS
    packed = [bytes(cramjam.zstd.compress(empty * count)) for count in (most, 10**6)]
    assert len(packed[1]) < 1_000
    allowed = build.batch(7, packed[0], count=most, attributes=0x0C)
    assert {one.value for one in opened(allowed)} == {b""}

    data = build.batch(7, packed[1], count=10**6, attributes=0x0C)
    (header,) = parse_batches(data)
    for position in (0, 500_000):
        first = max(7, position)
        result = open_batch(data, header, position)
        assert result is not None
        ((*named, run),) = result[1]
        assert result[0] == 0
        assert [one.offset for one in named] == list(range(first, first + 64))
        assert {one.problem for one in named} == {  # type: ignore[attr-defined]
            "a batch of 1000000 records; at most 16384"
        }
        assert run == EmptyRun(first + 64, 1_000_007, 2_000, 1)

    some = open_batches(data, [header], (), 900_000)
    found = [one for piece in some for one in piece]
    assert [one.offset for one in found] == list(range(900_000, 1_000_007))
    assert not any(isinstance(one, EmptyRun) for one in found)


def test_what_a_record_holds_is_all_that_its_producer_sent() -> None:
    record = PlainRecord(0, 0, bytes(10), (("name", bytes(5)),), bytes(100))
    assert held_bytes(record) == 10 + 100 + held_bytes(
        PlainRecord(0, 0, None, (("name", bytes(5)),))
    )
    # A header is three objects, however short it is.
    assert held_bytes(PlainRecord(0, 0, None, (("", b""),) * 64)) > 64 * 100
    assert held_bytes(PlainRecord(0, 0, None)) == 0


def test_millions_of_damaged_offsets_cost_few_answers(build: Bytes) -> None:
    """Some are told what is wrong; the rest have no token, and share one answer."""
    bad = build.record(0, b"", count=-1) * 5_000
    too_much = bytes(cramjam.zstd.compress(bytes(room.MAX_UNPACKED_BYTES + 1)))
    for data in (
        build.batch(0, bad, count=5_000),
        build.batch(0, too_much, count=5_000, attributes=0x0C),
    ):
        found = opened(data)
        assert [one.offset for one in found] == list(range(5_000))
        assert [type(one) is DamagedRecord for one in found] == (
            [True] * 64 + [False] * 4_936
        )
        assert all(one.problem for one in found[:64])  # type: ignore[attr-defined]
        last = found[-1]
        assert (last.value, list(last.headers), last.timestamp_type) == (None, [], 1)
