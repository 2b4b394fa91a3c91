"""Batches that real Kafka accepts and an ordinary client cannot take (facts-brokers 3).

Each of them goes through a broker; behind it every offset must come out, good records
whole and bad ones named, and the next partition must not notice.
"""

from __future__ import annotations

import resource
import struct
import time
from typing import TYPE_CHECKING, Any

import cramjam
import pytest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.util import calc_crc32c

from stream_executor.kafka.client import BrokerClient
from stream_executor.kafka.intake import RequestFetcher
from stream_executor.kafka.records import DamagedRecord

if TYPE_CHECKING:
    from stream_executor.kafka.connection import KafkaConnection
    from stream_executor.model.record import Record
    from tests.integration.kafka.conftest import MakeTopic

ZSTD = 4


def varint(number: int) -> bytes:
    """Zig-zag, seven bits a byte, for what fits 32 bits."""
    rest = (number << 1) ^ (number >> 31)
    out = bytearray()
    while rest >= 0x80:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def record(delta: int, value: bytes, headers: bytes = b"\0") -> bytes:
    """One record of format v2; ``headers`` are raw, their count first."""
    body = b"\0\0" + varint(delta) + varint(-1) + varint(len(value)) + value + headers
    return varint(len(body)) + body


def batch(records: list[bytes], codec: int = 0) -> bytes:
    payload = b"".join(records)
    if codec == ZSTD:
        payload = bytes(cramjam.zstd.compress(payload, level=3))
    now = int(time.time() * 1000)
    checked = (
        struct.pack(
            ">hiqqqhii", codec, len(records) - 1, now, now, -1, -1, -1, len(records)
        )
        + payload
    )
    head = struct.pack(">qiibI", 0, len(checked) + 9, -1, 2, calc_crc32c(checked))
    return head + checked


def header(name: bytes, value: bytes) -> bytes:
    return varint(1) + varint(len(name)) + name + varint(len(value)) + value


GOOD = batch([record(0, b"good")])


async def fetch_behind(
    connection: KafkaConnection, topic: str, hostile: bytes, count: int
) -> list[Record]:
    """Produce good, hostile, good; fetch them all."""
    async with BrokerClient(connection) as client:
        for data in (GOOD, hostile, GOOD):
            request = ProduceRequest(None, -1, 10_000, [(topic, [(0, data)])])

            def code(response: Any) -> tuple[int, None]:
                return response.topics[0][1][0][1], None

            await client.ask_leader(topic, 0, request, code)
    taken: list[Record] = []
    async with RequestFetcher(connection, topic) as fetcher:
        fetcher.assign({0: 0})
        deadline = time.monotonic() + 20
        while fetcher.position(0) < count + 2:
            assert time.monotonic() < deadline
            for records in (await fetcher.getmany(10_000, 200)).values():
                taken += records
            assert fetcher.take_failures() == {}
    assert [one.offset for one in taken] == list(range(count + 2))
    assert taken[0].value == taken[-1].value == b"good"
    return taken[1:-1]


@pytest.mark.parametrize("codec", [0, ZSTD])
async def test_a_header_key_that_is_not_utf8_costs_its_record_only(
    connection: KafkaConnection, make_topic: MakeTopic, codec: int
) -> None:
    hostile = batch(
        [
            record(0, b"a"),
            record(1, b"b", header(b"\xff\xfe", b"x")),
            record(2, b"c", header(b"k", b"v")),
        ],
        codec,
    )
    first, bad, last = await fetch_behind(
        connection, await make_topic("requests"), hostile, 3
    )
    assert (first.value, last.value, list(last.headers)) == (b"a", b"c", [("k", b"v")])
    assert isinstance(bad, DamagedRecord)
    assert "UTF-8" in bad.problem
    assert bad.timestamp_type == 1


async def test_forged_offset_deltas_hide_no_record(
    connection: KafkaConnection, make_topic: MakeTopic
) -> None:
    hostile = batch(
        [record(0, b"a"), record(0, b"b"), record(1_000, b"c"), record(3, b"d")]
    )
    found = await fetch_behind(connection, await make_topic("requests"), hostile, 4)
    assert [one.value for one in found] == [b"a", b"b", b"c", b"d"]


@pytest.mark.parametrize(
    "hostile",
    [
        pytest.param(batch([record(0, bytes(200 << 20))], ZSTD), id="200-MiB-value"),
        pytest.param(
            batch([record(0, b"v", varint(7_000_000) + bytes(14_000_000))], ZSTD),
            id="7-million-headers",
        ),
    ],
)
async def test_a_batch_that_unpacks_to_much_is_one_damaged_record(
    connection: KafkaConnection, make_topic: MakeTopic, hostile: bytes
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (bad,) = await fetch_behind(connection, await make_topic("requests"), hostile, 1)
    assert isinstance(bad, DamagedRecord)
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mib < 120


async def test_two_hundred_thousand_empty_records_are_each_accounted_for(
    connection: KafkaConnection, make_topic: MakeTopic
) -> None:
    count = 50_000
    hostile = batch([record(index, b"") for index in range(count)], ZSTD)
    found = await fetch_behind(connection, await make_topic("requests"), hostile, count)
    assert {one.value for one in found} == {b""}
