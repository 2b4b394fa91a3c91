"""How much of the fetched bytes is unpacked at a time, and who waits for whom."""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import TYPE_CHECKING

import cramjam
import pytest

from stream_executor.kafka.backlog import OPEN_BYTES, SMALL_BYTES, Backlog
from stream_executor.kafka.batches import parse_batches
from stream_executor.kafka.connection import KafkaConnection
from stream_executor.kafka.fetcher import _POLL_BYTES, TopicFetcher
from stream_executor.kafka.records import MAX_UNPACKED_BYTES
from stream_executor.model.errors import MalformedError, MisuseError
from tests.hostile import BOMBS

if TYPE_CHECKING:
    from tests.unit.kafka.conftest import Bytes

LARGE = 15 << 20


def packed(build: Bytes, base: int, sizes: list[int]) -> bytes:
    """A zstd batch of records with values of these sizes."""
    records = [build.record(at, bytes(size)) for at, size in enumerate(sizes)]
    payload = bytes(cramjam.zstd.compress(b"".join(records)))
    return build.batch(base, payload, count=len(sizes), attributes=0x0C)


def fetched(backlog: Backlog, data: bytes) -> Backlog:
    backlog.add(data, parse_batches(data), ())
    return backlog


def fetcher(backlogs: dict[int, bytes]) -> TopicFetcher:
    """A fetcher without brokers that has fetched this of its partitions."""
    made = TopicFetcher(KafkaConnection(bootstrap_servers="nowhere:1"), "requests")
    made.assign(dict.fromkeys(backlogs, 0))
    for partition, data in backlogs.items():
        fetched(made._partitions[partition].backlog, data)
    return made


async def test_many_small_bombs_in_one_poll_are_opened_a_few_at_a_time(
    build: Bytes,
) -> None:
    """48 partitions bring some kilobytes each that unpack to 12 MiB each."""
    bomb = packed(build, 0, [3 << 20] * 4)
    assert len(bomb) < 10_000
    many = fetcher(dict.fromkeys(range(48), bomb))
    offsets: dict[int, list[int]] = {partition: [] for partition in range(48)}
    while not all(len(found) == 4 for found in offsets.values()):
        taken = await many.getmany(200, 1_000)
        assert taken
        size = sum(len(r.value or b"") for rs in taken.values() for r in rs)
        assert size <= _POLL_BYTES + (3 << 20)
        opened = sum(p.backlog.open_bytes for p in many._partitions.values())
        assert opened <= OPEN_BYTES
        for partition, records in taken.items():
            offsets[partition] += [record.offset for record in records]
    assert set(map(tuple, offsets.values())) == {(0, 1, 2, 3)}


@pytest.mark.threat("T-21")
@pytest.mark.parametrize("bomb", BOMBS)
async def test_a_poll_takes_little_memory_wherever_a_batch_hides_its_bytes(
    bomb: bytes,
) -> None:
    """In values, in keys that nobody reads, in headers: one poll opens a few."""
    count = 40
    (header,) = parse_batches(bomb)
    size = header.last_offset + 1
    many = fetcher({0: b"".join(at(number * size, bomb) for number in range(count))})
    tracemalloc.start()
    try:
        for _ in range(3):
            assert await many.getmany(200, 1_000)
            # One batch as it is unpacked, and what is in it once more as records.
            assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()


def at(base: int, batch: bytes) -> bytes:
    """The batch as it lies at an offset: its CRC does not cover that."""
    return base.to_bytes(8) + batch[8:]


async def test_a_poll_tries_few_batches_that_are_too_large(build: Bytes) -> None:
    """Each costs the time in which 16 MiB are unpacked, and other lanes wait for it."""
    large = packed(build, 0, [MAX_UNPACKED_BYTES])
    many = fetcher({0: b"".join(at(number, large) for number in range(40))})
    assert len((await many.getmany(200, 1_000))[0]) == 1


async def test_small_batches_pass_a_large_one_that_waits(build: Bytes) -> None:
    large = packed(build, 0, [LARGE // 300] * 300)
    some = fetcher({0: large, 1: large, 2: packed(build, 0, [10] * 50)})
    taken = await some.getmany(10, 1_000)
    while 2 not in taken:
        taken |= await some.getmany(10, 1_000)
    # One of the two large ones is open and the other waits for it, paused or not.
    open_bytes = [
        some._partitions[partition].backlog.open_bytes for partition in (0, 1)
    ]
    assert min(open_bytes) == 0
    assert max(open_bytes) > LARGE
    counts = {0: len(taken.get(0, [])), 1: len(taken.get(1, []))}
    while counts != {0: 300, 1: 300}:
        for partition, records in (await some.getmany(1_000, 1_000)).items():
            if partition != 2:
                counts[partition] += len(records)


def test_a_batch_that_waited_is_whole_once_there_is_room(build: Bytes) -> None:
    backlog = fetched(Backlog(1), packed(build, 0, [LARGE // 3] * 3))
    assert backlog.take(10, 1 << 30, 0) == ([], 1 << 30)
    assert backlog.take(10, 1 << 30, SMALL_BYTES) == ([], 1 << 30)
    assert backlog.position == 1
    found, _ = backlog.take(10, 1 << 30, OPEN_BYTES)
    assert [len(record.value or b"") for record in found] == [LARGE // 3] * 2
    assert (backlog.position, backlog.open_bytes) == (3, 0)


def test_what_no_room_can_hold_is_damaged_and_holds_nothing(build: Bytes) -> None:
    data = packed(build, 0, [MAX_UNPACKED_BYTES]) + build.batch(1, [build.record(0)])
    backlog = fetched(Backlog(0), data)
    found, _ = backlog.take(10, 1 << 30, OPEN_BYTES)
    assert [record.value for record in found] == [None, b"v"]
    assert backlog.open_bytes == 0


async def test_a_parser_that_fails_costs_its_own_partition_only(
    build: Bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = build.batch(0, [build.record(0)])
    two = fetcher({0: good, 1: good})

    def broken(*_: object) -> None:
        raise KeyError("a bug of ours")

    monkeypatch.setattr(two._partitions[0].backlog, "take", broken)
    taken = await two.getmany(10, 1_000)
    taken |= await two.getmany(10, 10)
    assert list(taken) == [1]
    failures = two.take_failures()
    assert list(failures) == [0]
    assert isinstance(failures[0], MalformedError)
    assert "a bug of ours" in str(failures[0])


async def test_a_fetcher_whose_loop_has_died_says_so_to_whoever_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Lanes would otherwise acquire again and again, and never get a record."""
    dying = fetcher({})

    async def broken() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError("a bug of ours")

    waiting = asyncio.create_task(dying.getmany(10, 60_000))
    dying._spawn(broken())
    with pytest.raises(MisuseError, match="a bug of ours"):
        await waiting
    dying.assign({0: 0})
    with pytest.raises(MisuseError, match="has ended"):
        await dying.getmany(10, 60_000)
