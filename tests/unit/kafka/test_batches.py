"""Batch headers: parsed exactly, hostile bytes refused, gaps found by Kafka's rule."""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_executor.kafka.batches import (
    HEADER,
    Marker,
    committed,
    merge,
    parse_batches,
    read_varint,
)
from stream_executor.model.errors import MalformedError
from stream_executor.model.record import Range

if TYPE_CHECKING:
    from tests.unit.kafka.conftest import Bytes


def test_a_header_is_read_whole(build: Bytes) -> None:
    (header,) = parse_batches(
        build.batch(7, [build.record(0), build.record(1)], attributes=0x1C, pid=42)
    )
    assert (header.base_offset, header.last_offset) == (7, 8)
    assert (header.codec, header.log_append_time, header.transactional) == (
        4,
        True,
        True,
    )
    assert header.marker is None
    assert (header.producer_id, header.record_count) == (42, 2)
    assert (header.first_timestamp, header.max_timestamp) == (1_000, 2_000)
    assert (header.start, header.end) == (0, HEADER.size + 16)


@pytest.mark.parametrize(
    ("kind", "marker"), [(0, Marker.ABORT), (1, Marker.COMMIT), (2, Marker.OTHER)]
)
def test_a_control_batch_says_what_it_ends(
    build: Bytes, kind: int, marker: Marker
) -> None:
    (header,) = parse_batches(build.control(3, 9, kind))
    assert header.marker is marker


def test_a_cut_off_tail_is_left_out(build: Bytes) -> None:
    whole = build.batch(0, [build.record(0)])
    tail = build.batch(1, [build.record(0)])
    for cut in range(len(tail)):
        assert len(parse_batches(whole + tail[:cut])) == 1
    assert len(parse_batches(whole + tail)) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"magic": 1}, "expected v2, got v1"),
        ({"crc": 0}, "CRC"),
        ({"last": -1}, "last delta -1"),
        ({"base": -1}, "offset -1"),
        ({"records": b"", "attributes": 0x28}, "no end"),
    ],
)
def test_what_cannot_be_is_malformed(
    build: Bytes, change: dict[str, object], message: str
) -> None:
    arguments: dict[str, object] = {"base": 0, "records": [build.record(0)]} | change
    with pytest.raises(MalformedError, match=message):
        parse_batches(build.batch(**arguments))  # type: ignore[arg-type]


def test_offsets_must_rise_and_lengths_must_hold_a_header(build: Bytes) -> None:
    one = build.batch(5, [build.record(0)])
    with pytest.raises(MalformedError, match="from 6 on, got 5"):
        parse_batches(one + one)
    with pytest.raises(MalformedError, match="too small"):
        parse_batches(struct.pack(">qi", 0, 48) + bytes(48))
    with pytest.raises(MalformedError, match="too small"):
        parse_batches(struct.pack(">qi", 0, -5) + bytes(100))


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_headers_or_malformed(data: bytes) -> None:
    try:
        headers = parse_batches(data)
    except MalformedError:
        return
    assert all(header.end <= len(data) for header in headers)


@given(data=st.data())
def test_a_flipped_bit_is_found_or_harmless(data: st.DataObject, build: Bytes) -> None:
    """Only offset, length and leader epoch lie outside the CRC."""
    batch = bytearray(build.control(3, 9, 0))
    bit = data.draw(st.integers(0, len(batch) * 8 - 1))
    batch[bit // 8] ^= 1 << bit % 8
    try:
        headers = parse_batches(bytes(batch))
    except MalformedError:
        return
    assert bit // 8 < 16
    assert not headers or headers[0].marker is Marker.ABORT


@given(st.integers(-(2**63), 2**63 - 1), st.binary(max_size=3))
def test_a_varint_is_read_back(number: int, tail: bytes) -> None:
    rest = (number << 1) ^ (number >> 63)
    data = bytearray()
    while rest >= 0x80:
        data.append(rest & 0x7F | 0x80)
        rest >>= 7
    data.append(rest)
    assert read_varint(bytes(data) + tail, 0) == (number, len(data))


def test_a_varint_without_end_is_malformed() -> None:
    for data in (b"", b"\x80", b"\xff" * 11):
        with pytest.raises(MalformedError):
            read_varint(data, 0)


def test_aborted_transactions_are_told_apart_by_producer(build: Bytes) -> None:
    data = b"".join(
        [
            build.transactional(0, pid=1),  # aborted
            build.transactional(1, pid=2, count=3),  # committed
            build.batch(4, [build.record(0)]),  # plain
            build.transactional(5, pid=1),  # aborted
            build.control(6, 1, 0),
            build.transactional(7, pid=1),  # the next transaction, committed
            build.control(8, 2, 1),
            build.control(9, 1, 1),
            build.transactional(10, pid=2),  # aborted
            build.control(11, 2, 0),
        ]
    )
    headers = parse_batches(data)
    held = [
        (header.base_offset, holds)
        for header, holds in committed(headers, [(2, 10), (1, 0)])
    ]
    assert held == [
        (0, False),
        (1, True),
        (4, True),
        (5, False),
        (6, False),
        (7, True),
        (8, False),
        (9, False),
        (10, False),
        (11, False),
    ]


def test_a_fetch_that_begins_inside_an_aborted_transaction(build: Bytes) -> None:
    headers = parse_batches(build.transactional(90, pid=1) + build.control(91, 1, 0))
    assert [holds for _, holds in committed(headers, [(1, 3)])] == [False, False]


def test_a_plain_record_of_an_aborting_producer_id_is_kept(build: Bytes) -> None:
    headers = parse_batches(build.batch(0, [build.record(0)], pid=1))
    assert [holds for _, holds in committed(headers, [(1, 0)])] == [True]


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 6))))
def test_merged_ranges_cover_the_same_offsets_and_are_maximal(
    pieces: list[tuple[int, int]],
) -> None:
    ranges = [Range(start, start + length) for start, length in pieces]
    merged = merge(ranges)
    covered = {offset for one in ranges for offset in range(one.start, one.end)}
    assert {o for one in merged for o in range(one.start, one.end)} == covered
    assert all(one.start < one.end for one in merged)
    for left, right in itertools.pairwise(merged):
        assert left.end < right.start
