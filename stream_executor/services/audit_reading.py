"""Show what audit partitions say: replay a range, follow the tail.

Only sealed leaves are shown: a record that no believed seal reaches is nobody's
word. Memory is one transaction's, whatever the log's size.

Not here: whether all of it is right (``audit_verification``), which events are asked
for and how they look (``audit.replay``, ``audit.project``), and printing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

import msgspec

from stream_executor.audit.findings import ChainError
from stream_executor.audit.genesis import TopicNames
from stream_executor.audit.project import JsonObject, project, unknown
from stream_executor.audit.segments import Leaf, SegmentParser
from stream_executor.model.audit import RequestExecuted, RequestRefused, Seal
from stream_executor.model.errors import IntegrityError, MalformedError
from stream_executor.model.lanes import MOST_COMMIT_REQUESTS
from stream_executor.modules.view import ControlView
from stream_executor.services.control_reading import LogReader, read_control
from stream_executor.wire.avro import decode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from stream_executor.audit.replay import ReplayFilter
    from stream_executor.audit.segments import Segment
    from stream_executor.model.audit import AuditLeaf
    from stream_executor.model.control import ResumeOrdered

POLL_S = 0.5
# So many records back there is certainly a seal: a transaction has an event for each
# request at most, and few leaves beside them.
LOOK_BACK = MOST_COMMIT_REQUESTS + 1_024


class TimedLogReader(LogReader, Protocol):
    """A reader that also finds records by time (``kafka.reader.PartitionReader``)."""

    async def offset_for_time(
        self, topic: str, partition: int, timestamp_ms: int
    ) -> int | None:
        """Give the first offset at or after a time; None if there is none."""
        ...


class AuditSource(msgspec.Struct, frozen=True):
    """Where to read and whom to believe.

    Attributes:
        reader: reads the topics.
        topics: their names.
        operator_key: raw Ed25519 public key that the auditor trusts.
        cluster_id: Kafka cluster id that genesis must name; None is not compared.
    """

    reader: TimedLogReader
    topics: TopicNames
    operator_key: bytes
    cluster_id: str | None = None


class SealedLog:
    """Gives one partition's sealed segments as they come.

    Args:
        view: says which keys were enrolled and which resumes ordered; whoever feeds
            records must have read the control topic to its end after they were there.
        partition: audit partition.
        broken: told the partition and what is wrong where the chain is broken. To say
            that fully is the verifier's task; what is sealed is given all the same.
    """

    def __init__(
        self,
        view: ControlView,
        partition: int,
        broken: Callable[[int, str], None] = lambda *_: None,
    ) -> None:
        self.partition = partition
        self._view = view
        self._broken = broken
        self._orders: list[ResumeOrdered] = []
        self._parser = SegmentParser(None, None, self._believe, self._orders)

    def _believe(self, seal: Seal) -> None:
        if not self._view.fleet_key_valid(seal.fleet_key, seal.control_offset):
            message = "not a seal of this deployment"
            raise IntegrityError(message)
        self._orders[:] = self._view.orders(seal.log_id)

    def feed(self, offset: int, value: bytes | None) -> Segment | None:
        """Take a record; give the segment that it seals, if it does."""
        try:
            return self._parser.feed(offset, value)
        except ChainError as error:
            self._broken(self.partition, str(error))
            return self._parser.rejoin()


async def replay(
    source: AuditSource,
    asked: ReplayFilter,
    partitions: Sequence[int] | None = None,
) -> AsyncIterator[JsonObject]:
    """Give the terminal events that a filter asks for, partition by partition.

    Args:
        source: where to read and whom to believe.
        asked: which events.
        partitions: which partitions; None for all.

    Raises:
        UnavailableError: the topics could not be read.
    """
    reader, topics = source.reader, source.topics
    view = ControlView(source.operator_key)
    if partitions is None:
        partitions = range(await reader.partition_count(topics.audit))
    ends = {p: await reader.end_offset(topics.audit, p) for p in partitions}
    await read_control(reader, topics.control, view)
    for partition in partitions:
        start = await _replay_start(source, asked, partition)
        sealed = SealedLog(view, partition)
        async for records in reader.read(
            topics.audit, partition, start, ends[partition]
        ):
            for record in records:
                for leaf in _leaves(sealed.feed(record.offset, record.value)):
                    event = _decoded(leaf)
                    if isinstance(
                        event, RequestExecuted | RequestRefused
                    ) and asked.matches(event):
                        yield project(event, leaf.offset, partition)


async def _replay_start(
    source: AuditSource, asked: ReplayFilter, partition: int
) -> int:
    """Give an audit offset at or before the first event asked for.

    An event is appended after its request, so the request's time never misses it.
    The look-back makes the first transaction whole.
    """
    reader, topic = source.reader, source.topics.audit
    begin = await reader.begin_offset(topic, partition)
    if asked.since_ms is None:
        return begin
    offset = await reader.offset_for_time(topic, partition, asked.since_ms)
    if offset is None:
        offset = await reader.end_offset(topic, partition)
    return max(begin, offset - LOOK_BACK)


async def tail(
    source: AuditSource, last: int, *, follow: bool, poll_s: float = POLL_S
) -> AsyncIterator[JsonObject]:
    """Give the last sealed leaves of all partitions, then new ones as they come.

    Args:
        source: where to read and whom to believe.
        last: how many leaves of each partition to begin with.
        follow: go on for ever.
        poll_s: seconds between two looks.

    Raises:
        UnavailableError: the topics could not be read.
    """
    reader, topics = source.reader, source.topics
    view = ControlView(source.operator_key)
    count = await reader.partition_count(topics.audit)
    logs = []
    for partition in range(count):
        begin = await reader.begin_offset(topics.audit, partition)
        end = await reader.end_offset(topics.audit, partition)
        # A marker follows each transaction, so leaves are fewer than offsets.
        start = max(begin, end - 2 * last - LOOK_BACK)
        logs.append(_Followed(SealedLog(view, partition), start))
    shown: deque[JsonObject]
    for log in logs:
        shown = deque(maxlen=last)
        async for row in _news(source, view, log):
            shown.append(row)
        for row in shown:
            yield row
    while follow:
        await asyncio.sleep(poll_s)
        for log in logs:
            async for row in _news(source, view, log):
                yield row


@dataclass
class _Followed:
    sealed: SealedLog
    position: int


async def _news(
    source: AuditSource, view: ControlView, log: _Followed
) -> AsyncIterator[JsonObject]:
    """Give what was sealed in one partition since the last look."""
    reader, topics = source.reader, source.topics
    partition = log.sealed.partition
    end = await reader.end_offset(topics.audit, partition)
    if end <= log.position:
        return
    await read_control(reader, topics.control, view)
    async for records in reader.read(topics.audit, partition, log.position, end):
        for record in records:
            for leaf in _leaves(log.sealed.feed(record.offset, record.value)):
                yield shown(leaf, partition)
    log.position = end


def shown(leaf: Leaf, partition: int) -> JsonObject:
    """Give a leaf as tools show it; one of a schema that we do not know, too."""
    decoded = _decoded(leaf)
    if decoded is not None:
        return project(decoded, leaf.offset, partition)
    return unknown(leaf.value, leaf.offset, partition)


def _leaves(segment: Segment | None) -> list[Leaf]:
    return [] if segment is None else segment.leaves


def _decoded(leaf: Leaf) -> AuditLeaf | None:
    """Give a leaf's value; None if this release does not know its schema."""
    try:
        return cast("AuditLeaf", decode(leaf.value))
    except MalformedError:
        return None
