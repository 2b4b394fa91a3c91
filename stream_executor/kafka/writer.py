"""Write a lane's results and audit events, both or neither, as its only writer.

One transactional producer per requests partition. Its transactional id names the
*resource* (the audit partition), so whichever process fences last owns the lane and
every other writer's next request fails (ADR 0002, KIP-98). A writer lives once: fence,
commit any number of times, close. After any doubt it refuses to go on, and the lane
fences with a new one and reads what the log says.

Not here: what is written, and what a failure means for the lane.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from aiokafka import AIOKafkaProducer

from stream_executor.kafka.failures import (
    classified,
    classify,
    require_partition,
    seen,
)
from stream_executor.kafka.internals import discard, shorten_marker_wait, watch, within
from stream_executor.model.errors import (
    BrokerRefusedError,
    IndefiniteError,
    IntegrityError,
    MisuseError,
)
from stream_executor.model.record import LOG_APPEND_TIME, OutRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence
    from types import TracebackType
    from typing import Self

    from aiokafka.producer.message_accumulator import BatchBuilder
    from aiokafka.structs import RecordMetadata

    from stream_executor.kafka.connection import KafkaConnection

# aiokafka counts sequence numbers past 2^31 - 1 into the negative, which Kafka refuses
# (tests/faults/test_hazards.py, 2); half of that leaves room.
MAX_RECORDS: Final = 1 << 30
# What a batch needs besides its records' keys and values, and a record besides its
# value and headers, at most (DefaultRecordBatch.java, DefaultRecord.java).
_BATCH_OVERHEAD: Final = 61
_RECORD_OVERHEAD: Final = 21
_HEADER_OVERHEAD: Final = 10

_T = TypeVar("_T")


class Acknowledged(msgspec.Struct, frozen=True, gc=False):
    """Where a committed transaction begins in the two logs.

    Attributes:
        results_base: offset of the first result; None where there was none.
        audit_base: offset of the first audit event.
        appended_ms: the brokers' time of its append, milliseconds since 1970; None
            where the topic keeps its producers' times.
    """

    results_base: int | None
    audit_base: int
    appended_ms: int | None = None


@dataclass(frozen=True, slots=True)
class WriterOptions:
    """How a lane writes; the defaults are measured.

    Attributes:
        max_batch_bytes: a transaction's records go out in batches of at most this;
            below the broker's ``message.max.bytes`` of 1,048,588.
        transaction_timeout_ms: after which the broker aborts what we left open; above
            the request timeout.
        commit_deadline_s: for one whole ``commit``, seconds.
        fence_deadline_s: for one whole ``fence``, seconds.
        close_deadline_s: for ``close``, seconds.
        retry_backoff_ms: between aiokafka's own attempts.
        marker_wait_s: aiokafka's sleep while the last transaction is being marked.
        compression: None, ``lz4``, ``zstd``, ``snappy`` or ``gzip``.
    """

    max_batch_bytes: int = 900_000
    transaction_timeout_ms: int = 30_000
    commit_deadline_s: float = 15.0
    fence_deadline_s: float = 15.0
    close_deadline_s: float = 3.0
    retry_backoff_ms: int = 5
    marker_wait_s: float = 0.000_5
    compression: str | None = None


DEFAULT_OPTIONS: Final = WriterOptions()


class LaneWriter:
    """The one producer of a lane. Not for concurrent use: one ``commit`` at a time."""

    def __init__(
        self,
        connection: KafkaConnection,
        *,
        results_topic: str,
        audit_topic: str,
        partition: int,
        options: WriterOptions = DEFAULT_OPTIONS,
        compare: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Prepare a writer; nothing is opened before ``fence``.

        Args:
            connection: the brokers.
            results_topic: where results go.
            audit_topic: where audit events go; names the lane's transactional id.
            partition: of both topics.
            options: how.
            compare: given the id of the cluster that answers, before anybody is fenced
                there; what it raises ``fence`` raises.

        Raises:
            ConfigError: the installed aiokafka is not built as we rely on.
        """
        shorten_marker_wait(options.marker_wait_s)
        self._connection = connection
        self._results_topic = results_topic
        self._audit_topic = audit_topic
        self._partition = partition
        self._options = options
        self._compare = compare
        self._producer: AIOKafkaProducer | None = None
        self._burial: asyncio.Task[None] | None = None
        self._fenced = False
        self._doubt = asyncio.Event()
        self._taint: str | None = None
        self._written = {results_topic: 0, audit_topic: 0}
        self._log_ends = {results_topic: 0, audit_topic: 0}

    async def __aenter__(self) -> Self:
        await self.fence()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def transactional_id(self) -> str:
        """``wasm-executor.<audit topic>.<partition>``, whatever group or deployment."""
        return f"wasm-executor.{self._audit_topic}.{self._partition}"

    @property
    def tainted(self) -> str | None:
        """What left this writer in doubt, or None; a tainted writer commits no more."""
        return self._taint

    async def fence(self) -> None:
        """Take the lane: complete or abort the predecessor's transaction, bump epochs.

        When this returns, no other writer can commit any more, and every transaction
        before ours is decided: read the log now, not earlier (InitProducerId, KIP-98).

        Raises:
            IndefiniteError: no answer in time, or an answer in doubt; close this writer
                and fence with a new one.
            BrokerRefusedError: ``not_authorised`` for the transactional id, or
                ``unknown_topic`` if a topic lacks this partition.
            MisuseError: called before.
        """
        if self._producer is not None or self._fenced or self._taint is not None:
            raise MisuseError("a lane writer fences once; make a new one")
        options = self._options
        producer = AIOKafkaProducer(
            **self._connection.client_options(f"lane-{self._partition}"),
            transactional_id=self.transactional_id,
            acks="all",
            linger_ms=0,
            max_batch_size=options.max_batch_bytes,
            compression_type=options.compression,
            transaction_timeout_ms=options.transaction_timeout_ms,
            retry_backoff_ms=options.retry_backoff_ms,
        )
        self._producer = producer
        watch(producer, self._taint_with, self._compare)
        try:
            with classified(f"fence {self.transactional_id}"):
                async with asyncio.timeout(options.fence_deadline_s):
                    await self._unless_in_doubt(producer.start())
                    for topic in (self._results_topic, self._audit_topic):
                        await require_partition(producer, topic, self._partition)
        except BaseException as error:
            self._taint_with(f"fence: {error!r}")
            self._drop()
            raise
        self._fenced = True

    async def commit(
        self, results: Sequence[OutRecord], audit: Sequence[bytes]
    ) -> Acknowledged:
        """Publish results and audit events in one transaction.

        In this order: begin → batches to both topics → await *every* send → compare
        the acknowledged offsets → commit; one deadline for all. A failed send never
        commits: aiokafka would (ADR 0002). When this returns, it is decided:
        ``read_committed`` readers see both, in order, once, as soon as the coordinator
        has written its markers (milliseconds).

        Args:
            results: in offset order; may be empty.
            audit: exact event bytes, in chain order, the last one a seal.

        Returns:
            The offsets at which they begin.

        Raises:
            FencedError: another writer has the lane. Nothing was published.
            IndefiniteError: published or not, we cannot tell.
            BrokerRefusedError: refused for what it is. Nothing was published.
                ``too_large`` found before anything was sent leaves this writer usable;
                after every other exception it is not.
            IntegrityError: the log's end went backwards. Nothing was published.
            MisuseError: not fenced, closed, or no audit event.
        """
        producer = self._usable(len(results), len(audit))
        outgoing = [
            *self._fill(producer, self._results_topic, results),
            *self._fill(
                producer, self._audit_topic, (OutRecord(event) for event in audit)
            ),
        ]
        doing = f"commit to {self.transactional_id}"
        try:
            with classified(doing):
                async with asyncio.timeout(self._options.commit_deadline_s):
                    return await self._unless_in_doubt(
                        self._transact(producer, outgoing)
                    )
        except BaseException as error:
            self._taint_with(f"commit: {error!r}")
            self._drop()
            raise

    async def close(self) -> None:
        """Let go of the lane; never hangs, never raises, may be called twice.

        An open transaction is left for the next fence to abort: aborting it ourselves
        would race with whatever made us stop.
        """
        deadline_s = self._options.close_deadline_s
        if self._taint is None and self._producer is not None:
            producer, self._producer = self._producer, None
            await within(deadline_s, producer.stop())
        self._drop()
        if self._burial is not None:
            await asyncio.wait([self._burial], timeout=deadline_s)

    # -- one transaction --------------------------------------------------------------

    async def _transact(
        self,
        producer: AIOKafkaProducer,
        outgoing: list[tuple[str, BatchBuilder]],
    ) -> Acknowledged:
        await producer.begin_transaction()
        # Both topics' first batches are handed over before aiokafka's sender runs, so
        # that one AddPartitionsToTxn and one Produce carry them.
        sends = [
            await producer.send_batch(batch, topic, partition=self._partition)
            for topic, batch in outgoing
        ]
        await _all_sent(sends)
        bases: dict[str, int] = {}
        for (topic, batch), sent in zip(outgoing, sends, strict=True):
            base = self._advance(topic, sent.result(), batch.record_count())
            bases.setdefault(topic, base)
        await producer.commit_transaction()
        last = sends[-1].result()
        return Acknowledged(
            bases.get(self._results_topic),
            bases[self._audit_topic],
            last.timestamp if last.timestamp_type == LOG_APPEND_TIME else None,
        )

    def _advance(self, topic: str, sent: RecordMetadata, count: int) -> int:
        """Record where a batch landed; offsets of a log must rise."""
        base: int = sent.offset
        where = f"{topic}-{self._partition}"
        if base < 0:
            # DUPLICATE_SEQUENCE_NUMBER: written by an earlier attempt, offset unknown.
            raise IndefiniteError(f"{where}: the broker does not say where it wrote")
        if base < self._log_ends[topic]:
            raise IntegrityError(
                f"{where}: expected an offset from {self._log_ends[topic]} on, "
                f"got {base}: the log has lost records; look at it with "
                "`wasm-executor audit doctor`, then restart this executor"
            )
        self._log_ends[topic] = base + count
        self._written[topic] += count
        return base

    def _fill(
        self, producer: AIOKafkaProducer, topic: str, records: Iterable[OutRecord]
    ) -> list[tuple[str, BatchBuilder]]:
        """Pack records into as few batches as the size allows."""
        filled: list[tuple[str, BatchBuilder]] = []
        batch: BatchBuilder | None = None
        for record in records:
            size = _BATCH_OVERHEAD + _RECORD_OVERHEAD + len(record.value)
            for key, value in record.headers:
                size += _HEADER_OVERHEAD + len(key.encode()) + len(value)
            if size > self._options.max_batch_bytes:
                raise BrokerRefusedError(
                    f"{topic}-{self._partition}: a record of {size} bytes exceeds "
                    f"the batch size of {self._options.max_batch_bytes}",
                    "too_large",
                )
            if batch is None or not _append(batch, record):
                batch = producer.create_batch()
                if not _append(batch, record):
                    raise MisuseError("aiokafka refused a record in an empty batch")
                filled.append((topic, batch))
        for _, full in filled:
            full.close()
        return filled

    def _drop(self) -> None:
        """Let the producer send nothing more, from this moment on."""
        if self._producer is not None:
            self._burial = discard(self._producer)
            self._producer = None

    # -- doubt ------------------------------------------------------------------------

    def _taint_with(self, what: str) -> None:
        if self._taint is None:
            self._taint = what[:300]
        self._doubt.set()

    async def _unless_in_doubt(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Await work, but only while nothing has left us in doubt.

        aiokafka would go on retrying after a lost connection. The lane has to fence and
        read the log in any case then, so it may as well begin at once.
        """
        task = asyncio.ensure_future(work)
        doubt = asyncio.ensure_future(self._doubt.wait())
        try:
            await asyncio.wait((task, doubt), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise IndefiniteError(f"{self.transactional_id}: {self._taint}")
        finally:
            doubt.cancel()
            if not task.done():
                task.cancel()
                task.add_done_callback(seen)

    def _usable(self, results: int, audit: int) -> AIOKafkaProducer:
        """Return the producer if this writer may commit."""
        if self._taint is not None:
            raise IndefiniteError(
                f"{self.transactional_id}: in doubt since {self._taint}"
            )
        if self._producer is None or not self._fenced:
            raise MisuseError("fence before commit; a closed writer commits nothing")
        if audit == 0:
            raise MisuseError("every transaction ends in a seal; got no audit event")
        if max(self._written.values()) + max(results, audit) > MAX_RECORDS:
            raise IndefiniteError(f"{self.transactional_id}: time for a new producer")
        return self._producer


def _append(batch: BatchBuilder, record: OutRecord) -> bool:
    """Append a record; False if the batch is full."""
    # aiokafka's C builder takes headers as a list only.
    added = batch.append(
        timestamp=None, key=None, value=record.value, headers=list(record.headers)
    )
    return added is not None


async def _all_sent(sends: list[asyncio.Future[RecordMetadata]]) -> None:
    """Wait until every batch is acknowledged; raise the first failure at once."""
    for send in sends:
        send.add_done_callback(seen)
    done, _ = await asyncio.wait(sends, return_when=asyncio.FIRST_EXCEPTION)
    failures = [error for send in done if (error := send.exception()) is not None]
    if failures:
        # A fence explains every other failure of the same transaction.
        raise min(failures, key=_severity)


def _severity(error: BaseException) -> int:
    name = type(classify(error, "")).__name__
    return ("FencedError", "BrokerRefusedError", "IndefiniteError").index(name)
