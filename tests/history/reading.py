"""Reads a deployment's topics to their ends and has them counted.

``assert_sound`` is how every test that ran an executor ends: `tests.deployment` calls
it; tests that start theirs as an operator does call ``assert_sound_at``.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from stream_executor.kafka.reader import PartitionReader
from stream_executor.kafka.topics import TopicNames
from tests.history.counting import Counted, Outcome, PartitionHistory, Sent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from stream_executor.kafka.connection import KafkaConnection
    from stream_executor.model.record import Record
    from stream_executor.model.result import ExecutionResult


class Logs(Protocol):
    """Where a deployment's topics are."""

    @property
    def connection(self) -> KafkaConnection:
        """The brokers, for somebody who may read the three topics."""

    @property
    def topics(self) -> TopicNames:
        """Their names."""


class LaneTimes(NamedTuple):
    """When a lane's answers were appended and when it was begun anew; milliseconds."""

    answered_ms: list[int]
    acquired_ms: list[int]


class _LogsAt(NamedTuple):
    connection: KafkaConnection
    topics: TopicNames


@dataclass
class History(Counted):
    """Counters of a whole deployment.

    ``results`` are there if they were asked for: (partition, offset) → result.
    ``codes`` are what was answered, ``owed`` what should have been.
    """

    results: dict[tuple[int, int], ExecutionResult] = field(default_factory=dict)
    codes: Counter[str] = field(default_factory=Counter)
    owed: Counter[str] = field(default_factory=Counter)
    lanes: dict[int, LaneTimes] = field(default_factory=dict)


async def assert_sound(made: Logs, damaged: Mapping[str, str] | None = None) -> None:
    """Read the history and find no fault in it but those that the test itself made.

    What nobody answered yet is no fault: whether it should be, the test knows.

    Args:
        made: the deployment; best when its executors have stopped.
        damaged: counters that must not be zero, each with what the test did to the log.

    Raises:
        AssertionError: other counters than those are not zero.
    """
    history, damaged = await read_history(made, keep=False), damaged or {}
    if history.faults.keys() != damaged.keys():
        raise AssertionError(f"the history has {history.faults}, not {dict(damaged)}")


def assert_sound_at(connection: KafkaConnection, prefix: str = "wasm.") -> None:
    """``assert_sound`` for what no test deployment began: topics by their prefix."""
    names = {name: f"{prefix}{name}" for name in TopicNames.__struct_fields__}
    asyncio.run(assert_sound(_LogsAt(connection, TopicNames(**names))))


async def read_history(
    made: Logs,
    judge_of: Callable[[int], Callable[[Record], Outcome | None]] | None = None,
    *,
    keep: bool = True,
    tolerated: frozenset[str] = frozenset(),
    sent: Mapping[int, Sent] | None = None,
) -> History:
    """Read requests, results and audit of a deployment to their ends and compare.

    Args:
        made: the deployment.
        judge_of: gives for a partition who says what its records are owed, asked in
            the order of the log (``judge``, ``plain_run``).
        tolerated: codes that a fault of the sandbox may give instead.
        keep: whether to keep the results; a million of them take a gigabyte.
        sent: what the senders know by themselves, by partition.
    """
    history = History()
    async with PartitionReader(made.connection) as reader:
        for partition in range(await reader.partition_count(made.topics.requests)):
            one = PartitionHistory(
                partition,
                None if judge_of is None else judge_of(partition),
                tolerated,
                (sent or {}).get(partition, Sent()),
            )
            await _read_partition(made, reader, one, history.results if keep else None)
            history.add(one.counted)
            history.codes.update(one.codes)
            history.owed.update(one.owed)
            history.lanes[partition] = LaneTimes(one.answered_ms, one.acquired_ms)
    return history


async def _read_partition(
    made: Logs,
    reader: PartitionReader,
    one: PartitionHistory,
    results: dict[tuple[int, int], ExecutionResult] | None,
) -> None:
    """Read one partition's three topics up to where they end now.

    The lane may still work meanwhile: then only what was certainly read of all three
    is compared, and nothing is called wrong that was merely late.
    """
    topics, partition = made.topics, one.partition
    names = (topics.requests, topics.results, topics.audit)
    requests, answers, audit = [await reader.end_offset(n, partition) for n in names]
    last = -1
    async for record in _all(reader, topics.results, partition, answers):
        result = one.result(record)
        last = max(last, result.offset + result.count - 1)
        if results is not None:
            for offset in range(result.offset, result.offset + result.count):
                results[partition, offset] = result
    async for record in _all(reader, topics.audit, partition, audit):
        one.leaf(record)
    async for record in _all(reader, topics.requests, partition, requests):
        one.request(record)
    now = [await reader.end_offset(n, partition) for n in names]
    quiet = now == [requests, answers, audit]
    one.end(until=None if quiet else min(requests, last + 1, one.covered))


async def _all(
    reader: PartitionReader, topic: str, partition: int, end: int
) -> AsyncIterator[Record]:
    begin = await reader.begin_offset(topic, partition)
    async for records in reader.read(topic, partition, begin, end):
        for record in records:
            yield record
