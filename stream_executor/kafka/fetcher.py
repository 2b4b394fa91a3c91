"""Fetch committed records of many partitions at once, from offsets that we name.

The worker's only source of requests; ``audit.log`` follows the audit topic with it. No
group decides what is fetched (``membership`` merely suggests), nothing is committed and
nothing is reset. A position moves over markers and aborted records. Bytes are hostile
here: every offset comes out in a record, a ``DamagedRecord`` or an ``EmptyRun``, and a
failure belongs to its partition and stops no other.

What answers after a broken connection or another leader's election may hold another
log: one that lost its tail, or another cluster's. So the newest batch is fetched once
more and must be the same before anything behind it counts (Kafka's own consumers ask
for the leader's epoch, KIP-320).

Not here: what a record means, and which gaps are proven (``gaps``).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aiokafka import TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.protocol.fetch import FetchRequest

from stream_executor.kafka.backlog import OPEN_BYTES, Backlog
from stream_executor.kafka.batches import fingerprint, parse_batches
from stream_executor.kafka.client import READ_COMMITTED, BrokerClient, read_partition
from stream_executor.kafka.failures import classify
from stream_executor.kafka.internals import connection_to
from stream_executor.model.errors import (
    ExecutorError,
    MalformedError,
    MisuseError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType
    from typing import Self

    from stream_executor.kafka.connection import KafkaConnection
    from stream_executor.model.record import Record

_RETRY_S: Final = 0.1
# Fetches that may wait unread per partition: the next one is under way while the
# worker empties the last, and no more is held.
_AHEAD: Final = 2
# Fetched bytes over all partitions from which on only those that have none ask.
_HELD_BYTES: Final = 16 << 20
# What one poll opens and hands out, bytes; one batch and one record at least.
_POLL_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """How much to fetch and how long to wait.

    Attributes:
        max_partition_bytes: of one partition in one answer (one batch at least).
        max_answer_bytes: of one broker's answer.
        max_wait_ms: how long a broker may wait for ``min_bytes``; bounds how late a
            partition that was just assigned or resumed joins the fetch.
        min_bytes: how much must be there before a broker answers early.
    """

    max_partition_bytes: int = 1 << 20
    max_answer_bytes: int = 16 << 20
    max_wait_ms: int = 100
    min_bytes: int = 1


DEFAULT_OPTIONS: Final = FetchOptions()


@dataclass(slots=True, eq=False)
class _Partition:
    """One assigned partition; replaced as a whole whenever it is sought."""

    backlog: Backlog
    fetch_from: int  # next offset that has not come
    paused: bool = False
    over: object | None = None  # the connection that we asked over last
    newest: tuple[int, int, bytes] | None = None  # fingerprint of the newest batch
    first: bool = False  # whether nothing lies before the offset that was sought
    doubted: bool = False  # whether another log may lie there now
    asking: bool = False
    failure: ExecutorError | None = None
    told: bool = False  # whether the failure has been handed out
    high_watermark: int = -1
    last_stable: int = -1

    @classmethod
    def at(cls, offset: int, *, paused: bool) -> Self:
        """Begin at an offset, with nothing fetched."""
        return cls(Backlog(offset), offset, paused, first=offset == 0)

    @property
    def failed(self) -> bool:
        """Whether a failure, and all that came before it, is to be told now."""
        return self.failure is not None and not self.told and not self.backlog

    @property
    def ask_from(self) -> int:
        """The offset to ask for: in doubt, the newest batch's last once more.

        Its first may have been deleted. At first the batch before comes, too, so that
        there is one to compare with.
        """
        if self.newest is None:
            return self.fetch_from - (not self.first)
        return self.newest[1] if self.doubted else self.fetch_from


class TopicFetcher:
    """Fetches one topic. One task at a time may call ``getmany``."""

    def __init__(
        self,
        connection: KafkaConnection,
        topic: str,
        *,
        options: FetchOptions = DEFAULT_OPTIONS,
    ) -> None:
        self._topic = topic
        self._options = options
        self._client = BrokerClient(connection, "fetch")
        self._partitions: dict[int, _Partition] = {}
        self._busy: set[int] = set()  # brokers that owe us an answer
        self._silent: set[int] = set()  # brokers that gave none when asked last
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()  # there may be something to ask for
        self._arrived = asyncio.Event()  # there may be something to hand out
        self._turn = 0
        self._died: BaseException | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Connect and begin to fetch what is, and will be, assigned.

        Raises:
            UnavailableError: no broker answered in time.
            BrokerRefusedError: ``not_authorised`` or ``unknown_topic``.
        """
        await self._client.start()
        try:
            await self._client.partition_count(self._topic)
            await self._client.raw.add_topic(self._topic)
        except BaseException:
            await self._client.close()
            raise
        self._spawn(self._run())

    async def close(self) -> None:
        """Stop fetching and disconnect; never hangs, never raises."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)
        await self._client.close()

    # -- what to fetch ----------------------------------------------------------------

    def assign(self, positions: Mapping[int, int], kept: Iterable[int] = ()) -> None:
        """Fetch exactly these partitions; any that was paused before stays so.

        Args:
            positions: from which offset each is fetched; what is buffered is dropped.
            kept: assigned before, go on as they are: what answers behind a new
                connection is held against what was fetched of these.
        """
        before = self._partitions
        self._partitions = {partition: self._assigned(partition) for partition in kept}
        self._partitions |= {
            partition: _Partition.at(
                offset, paused=partition in before and before[partition].paused
            )
            for partition, offset in positions.items()
        }
        self._changed.set()

    def seek(self, partition: int, offset: int) -> None:
        """Fetch an assigned partition from another offset; clears its failure."""
        old = self._assigned(partition)
        self._partitions[partition] = _Partition.at(offset, paused=old.paused)
        self._changed.set()

    def pause(self, partitions: Iterable[int]) -> None:
        """Hand out nothing of these until ``resume``; at most two fetches are held."""
        for partition in partitions:
            self._assigned(partition).paused = True

    def resume(self, partitions: Iterable[int]) -> None:
        """Go on with these where they stopped."""
        for partition in partitions:
            self._assigned(partition).paused = False
        self._changed.set()
        self._arrived.set()

    # -- what has come ----------------------------------------------------------------

    async def getmany(
        self, max_records: int, timeout_ms: int
    ) -> dict[int, list[Record]]:
        """Take what has come, or wait for it.

        Partitions take turns, so that a full one does not starve the others.

        Args:
            max_records: at most so many over all partitions.
            timeout_ms: how long to wait if there is nothing; also ends early when a
                partition has failed (``take_failures``).

        Returns:
            Records by partition, offsets rising; partitions without any are left out.

        Raises:
            MisuseError: the fetching itself has ended, by a bug of ours; no seek
                helps, so whoever runs this must end too.
        """
        deadline = asyncio.get_running_loop().time() + timeout_ms / 1000
        while True:
            if self._died is not None:
                raise MisuseError(
                    f"fetching {self._topic} has ended: {self._died!r}"
                ) from self._died
            self._arrived.clear()
            taken = self._take(max_records)
            if taken or any(slot.failed for slot in self._partitions.values()):
                return taken
            try:
                async with asyncio.timeout_at(deadline):
                    await self._arrived.wait()
            except TimeoutError:
                return {}

    def take_failures(self) -> dict[int, ExecutorError]:
        """Say which partitions have failed since the last call; they are not fetched.

        ``seek`` or ``assign`` tries again. ``BrokerRefusedError`` with reason
        ``other`` means that the position lies outside the log.
        """
        failed: dict[int, ExecutorError] = {}
        for partition, slot in self._partitions.items():
            if slot.failure is not None and slot.failed:
                failed[partition] = slot.failure
                slot.told = True
        return failed

    def position(self, partition: int) -> int:
        """Next offset that will be handed out; past markers that have come."""
        return self._assigned(partition).backlog.position

    def high_watermark(self, partition: int) -> int:
        """End of the log as of the last fetch, -1 before the first."""
        return self._assigned(partition).high_watermark

    def last_stable(self, partition: int) -> int:
        """End of what is decided as of the last fetch, -1 before the first."""
        return self._assigned(partition).last_stable

    @property
    def interrupted(self) -> bool:
        """Whether an assigned partition has no leader, or one that does not answer."""
        leaders = {self._leader(partition) for partition in self._partitions}
        return bool(leaders & {None, -1, *self._silent})

    def _take(self, max_records: int) -> dict[int, list[Record]]:
        """Let every partition give what the poll still has room for."""
        taken: dict[int, list[Record]] = {}
        left_bytes = _POLL_BYTES
        order = list(self._partitions)
        self._turn += 1
        shift = self._turn % len(order) if order else 0
        for partition in order[shift:] + order[:shift]:
            slot = self._partitions[partition]
            if slot.paused or not slot.backlog:
                continue
            records, left_bytes = self._take_from(
                partition, slot, max_records, left_bytes
            )
            if len(slot.backlog) < _AHEAD:
                self._changed.set()
            if records:
                taken[partition] = records
                max_records -= len(records)
                if max_records <= 0 or left_bytes <= 0:
                    break
        return taken

    def _take_from(
        self, partition: int, slot: _Partition, most: int, most_bytes: int
    ) -> tuple[list[Record], int]:
        """Let one partition give records; as ``Backlog.take``."""
        others = sum(
            one.backlog.open_bytes
            for one in self._partitions.values()
            if one is not slot
        )
        try:
            return slot.backlog.take(most, most_bytes, OPEN_BYTES - others)
        except Exception as error:  # noqa: BLE001 - its own bytes; no other's trouble
            position = slot.backlog.position
            slot.failure = MalformedError(
                f"{self._topic}-{partition} from {position}: {error!r:.200}"
            )
            slot.backlog = Backlog(position)
            return [], most_bytes

    def _assigned(self, partition: int) -> _Partition:
        try:
            return self._partitions[partition]
        except KeyError:
            raise MisuseError(
                f"{self._topic}-{partition} is not assigned to this fetcher"
            ) from None

    # -- asking -----------------------------------------------------------------------

    async def _run(self) -> None:
        """Keep one request under way to each broker that leads something we want."""
        while True:
            self._changed.clear()
            by_broker, leaderless = self._wanted()
            for node, partitions in by_broker.items():
                self._busy.add(node)
                self._spawn(self._ask(node, partitions))
            if leaderless:
                self._client.raw.force_metadata_update()
            try:
                async with asyncio.timeout(_RETRY_S if leaderless else None):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _leader(self, partition: int) -> int | None:
        """Give who leads a partition; -1 is nobody, None that no broker knows it."""
        leader: int | None = self._client.raw.cluster.leader_for_partition(
            TopicPartition(self._topic, partition)
        )
        return leader

    def _wanted(self) -> tuple[dict[int, dict[int, _Partition]], bool]:
        by_broker: dict[int, dict[int, _Partition]] = defaultdict(dict)
        leaderless = False
        held_bytes = sum(s.backlog.packed_bytes for s in self._partitions.values())
        for partition, slot in self._partitions.items():
            if (
                slot.paused
                or slot.asking
                or slot.failure is not None
                or len(slot.backlog) >= _AHEAD
                or (slot.backlog and held_bytes >= _HELD_BYTES)
            ):
                continue
            node = self._leader(partition)
            if node is None:  # no broker knows it
                self._gone(partition, slot)
            if node is None or node == -1:
                leaderless = True
            elif node not in self._busy:
                by_broker[node][partition] = slot
        return by_broker, leaderless

    async def _ask(self, node: int, partitions: dict[int, _Partition]) -> None:
        """Send one fetch and take in its answer."""
        for slot in partitions.values():
            slot.asking = True
        try:
            await self._client.raw.ready(node)
            connection = connection_to(self._client.raw, node)
            for slot in partitions.values():
                slot.doubted |= slot.over not in {None, connection}
                slot.over = connection
            response = await self._client.raw.send(node, self._request(partitions))
            self._silent.discard(node)
            received = [
                self._receive(partitions, response.API_VERSION, part)
                for _, parts in response.topics
                for part in parts
            ]
            if not received or not all(received):
                await asyncio.sleep(_RETRY_S)
        except kafka_errors.KafkaError:
            # A broker that is away: aiokafka has logged it and looks for the leaders.
            self._silent.add(node)
            self._client.raw.force_metadata_update()
            await asyncio.sleep(_RETRY_S)
        finally:
            for slot in partitions.values():
                slot.asking = False
            self._busy.discard(node)
            self._changed.set()

    def _request(self, partitions: dict[int, _Partition]) -> FetchRequest:
        options = self._options
        order = list(partitions)
        # A broker that reaches the answer's limit leaves out what comes last.
        shift = self._turn % len(order)
        return FetchRequest(
            options.max_wait_ms,
            options.min_bytes,
            options.max_answer_bytes,
            READ_COMMITTED,
            [
                (
                    self._topic,
                    [
                        (
                            partition,
                            partitions[partition].ask_from,
                            options.max_partition_bytes,
                        )
                        for partition in order[shift:] + order[:shift]
                    ],
                )
            ],
        )

    def _receive(
        self, partitions: dict[int, _Partition], version: int, part: tuple[Any, ...]
    ) -> bool:
        """Take in one partition's share of an answer; False if it must be repeated."""
        partition, code, fetched = read_partition(version, part)
        slot = partitions[partition]
        where = f"fetch {self._topic}-{partition} from {slot.fetch_from}"
        if code:
            return self._refused(partition, slot, code, where)
        slot.high_watermark = fetched.high_watermark
        slot.last_stable = fetched.last_stable
        try:
            headers = parse_batches(fetched.data)
        except MalformedError as error:
            return self._fail(slot, MalformedError(f"{where}: {error}"))
        if slot.doubted:
            if not headers and fetched.last_stable > slot.ask_from:
                return False  # other partitions' batches took the answer's room
            if not headers or fingerprint(fetched.data, headers[0]) != slot.newest:
                return self._fail(slot, _unlike(where))
            slot.doubted = False
        if headers:
            slot.newest = fingerprint(fetched.data, headers[-1])
        if headers and headers[-1].last_offset >= slot.fetch_from:
            slot.backlog.add(fetched.data, headers, fetched.aborted)
            slot.fetch_from = headers[-1].last_offset + 1
            self._arrived.set()
        return True

    def _refused(self, partition: int, slot: _Partition, code: int, where: str) -> bool:
        """Judge a broker's error; as ``_receive``."""
        error = kafka_errors.for_code(code)(where)
        if isinstance(error, kafka_errors.UnknownTopicOrPartitionError):
            return self._gone(partition, slot)
        if error.retriable:
            slot.doubted = True
            self._client.raw.force_metadata_update()
            return False
        if slot.newest is None and not slot.first:
            slot.first = True  # what was before is gone; ask without it
            return True
        if slot.doubted and isinstance(error, kafka_errors.OffsetOutOfRangeError):
            return self._fail(slot, _unlike(where))  # by retention, for all we know
        return self._fail(slot, classify(error, where, UnavailableError))

    def _gone(self, partition: int, slot: _Partition) -> bool:
        """Give a partition up that is not there at the moment.

        aiokafka would try again; but what comes back under this name may be another
        log, so whoever reads it must look at it anew.
        """
        where = f"fetch {self._topic}-{partition} from {slot.fetch_from}"
        return self._fail(slot, UnavailableError(f"{where}: it is not there"))

    def _fail(self, slot: _Partition, error: ExecutorError) -> bool:
        """Fetch this partition no more; True, for the answer is dealt with."""
        slot.failure = error
        self._arrived.set()
        return True

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Our bug, and nobody asks the brokers any more: `getmany` says so.
            self._died = error
            self._arrived.set()


def _unlike(where: str) -> UnavailableError:
    """What cannot be told from another log is given up; whoever reads it looks anew."""
    what = "what was fetched before is not known to be there still"
    return UnavailableError(f"{where}: {what}")
