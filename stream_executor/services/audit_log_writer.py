"""The process that writes ``audit.log``: every sealed leaf of all audit partitions.

    1. hold the file: one writer a file, another process stands by until it ends
    2. read each partition on from where the file ends, the control topic beside it
    3. write the sealed segments' lines, fsync, remember the place; go on

The topic is the record and this file its projection, so nothing here stops the
service: a full disk or a broker that is away is reported and waited out, and then the
file is filled up from where it ends. Started by the supervisor only
(``python -m stream_executor.services.audit_log_writer``).

Not here: what the file promises (``audit.log_file``), how a line looks
(``audit.project``).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import structlog
import uvloop
from setproctitle import setproctitle

from stream_executor.audit.log_file import AuditLogFile, Chunk
from stream_executor.audit.project import line
from stream_executor.http import metrics
from stream_executor.http.tally import Tally
from stream_executor.kafka.connection import from_properties, renew_certificate
from stream_executor.kafka.fetcher import FetchOptions, TopicFetcher
from stream_executor.kafka.reader import PartitionReader
from stream_executor.logs import configure_logs
from stream_executor.model.errors import ConfigError, ExecutorError, IntegrityError
from stream_executor.modules.view import ControlView
from stream_executor.services.audit_reading import SealedLog, shown
from stream_executor.services.control_reading import read_control
from stream_executor.services.lifeline import follow_supervisor, receive_orders
from stream_executor.services.reports import (
    EXIT_CONFIGURATION,
    REPORT_INTERVAL_S,
    AuditLogState,
    ReportWriter,
)
from stream_executor.services.secrecy import seal_memory
from stream_executor.services.worker_settings import AuditLogOrders

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stream_executor.model.record import Record
    from stream_executor.services.worker_settings import Reload

_STANDBY_S = 1.0
# After trouble: a broker or a disk comes back in its own time.
_FIRST_RETRY_S, _MOST_RETRY_S = 0.5, 5.0
# A write costs three fsyncs: lines of so many seconds go out together.
_PACE_S = 0.25
_POLL_MS = 500
_POLL_RECORDS = 5_000
_COUNT_PARTITIONS_S = 30.0
# A disk that has not answered for so long is said to hang.
_HUNG_S = 10.0
# The last transactions of the workers, which have ended by then, are on their way.
_FINISH_S = 5.0
_FETCH = FetchOptions(max_wait_ms=_POLL_MS)

log = structlog.get_logger()
P = ParamSpec("P")
T = TypeVar("T")


class AuditLogWriter:
    """Keeps the file complete, from ``run`` until ``stop`` is set.

    Args:
        orders: where to read and what to write.
        tally: what is counted.

    Attributes:
        stop: write what is sealed by then and return.
    """

    def __init__(self, orders: AuditLogOrders, tally: Tally) -> None:
        self.stop = asyncio.Event()
        self._state = AuditLogState(note="starting")
        self._asked_disk_at: float | None = None
        self._path = Path(orders.path)
        self._topics = orders.topics
        self._tally = tally
        self._connection, _ = from_properties(orders.kafka_properties)
        self._operator = orders.operator_public_key
        self._view = ControlView(self._operator)
        self._file: AuditLogFile | None = None
        self._trouble: tuple[type[Exception], int | None] | None = None
        self._sealed: dict[int, SealedLog] = {}
        self._trimmed: set[int] = set()

    @property
    def state(self) -> AuditLogState:
        """How it stands, for the supervisor."""
        asked_at = self._asked_disk_at
        if asked_at is not None and time.monotonic() - asked_at > _HUNG_S:
            return AuditLogState(
                note=f"the disk has not answered for more than {_HUNG_S:.0f} s"
            )
        return self._state

    async def run(self) -> None:
        """Do the three steps of the module's docstring, again after any trouble."""
        wait_s = _FIRST_RETRY_S
        try:
            while not self.stop.is_set():
                try:
                    file = self._file or await self._hold()
                    if file is None:
                        await self._pause(_STANDBY_S)
                    else:
                        await self._follow(file)
                        wait_s = _FIRST_RETRY_S
                except (ExecutorError, OSError) as error:
                    self._give_up(error)
                    await self._pause(wait_s)
                    wait_s = min(wait_s * 2, _MOST_RETRY_S)
        finally:
            self._release()

    def reload(self, order: Reload) -> None:
        """Take the log level and a renewed certificate. Never raises."""
        configure_logs(order.log_level)
        try:
            renew_certificate(self._connection)
        except ConfigError as error:
            log.error("audit_log.reload_refused", reason=str(error))  # noqa: TRY400

    # -- the file -------------------------------------------------------------

    async def _hold(self) -> AuditLogFile | None:
        """Open the file; None while another process writes it.

        Raises:
            OSError: it cannot be used.
        """
        try:
            self._file = await self._on_disk(AuditLogFile, self._path, _now_ms)
        except BlockingIOError:
            if not self._state.standby:
                log.info("audit_log.standby", path=str(self._path))
            note = f"another process writes {self._path}"
            self._state = AuditLogState(standby=True, note=note)
            self._tally.set(metrics.AUDIT_LOG_COMPLETE, time.time())
            return None
        if not self._trouble:
            log.info("audit_log.opened", path=str(self._path))
        self._tell_restored(self._file)
        return self._file

    def _tell_restored(self, file: AuditLogFile) -> None:
        if file.restored:
            log.warning(
                "audit_log.restored", path=str(self._path), reason=file.restored,
                remedy="none needed: it is filled up from the audit topic",
            )  # fmt: skip

    async def _reopened(self, file: AuditLogFile) -> bool:
        """Go on in another file if the name leads there; False: read anew from it."""
        if not file.moved:
            return True
        await self._on_disk(file.reopen)
        log.info("audit_log.reopened", path=str(self._path))
        self._tell_restored(file)
        return not file.restored

    def _give_up(self, error: ExecutorError | OSError) -> None:
        """Say what is wrong, once; the file is opened and read from anew."""
        self._release()
        note = str(error)
        # Not by its text, in which an offset may grow from one try to the next.
        trouble = (type(error), getattr(error, "errno", None))
        if trouble != self._trouble:
            log.error("audit_log.waiting", reason=note, remedy=_remedy(error))
        self._trouble = trouble
        self._state = AuditLogState(note=note)

    async def _on_disk(self, work: Callable[P, T], *given: P.args, **n: P.kwargs) -> T:
        """Do something with the file beside the loop; ``state`` says if it hangs."""
        self._asked_disk_at = time.monotonic()
        try:
            return await asyncio.to_thread(work, *given, **n)
        finally:
            self._asked_disk_at = None

    def _release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stop.wait()

    # -- the topic ------------------------------------------------------------

    async def _follow(self, file: AuditLogFile) -> None:
        """Write until told to stop; return also when all must be read anew.

        Raises:
            ExecutorError: the topics cannot be read, or are not this file's.
            OSError: the disk does not take it.
        """
        topic = self._topics.audit
        async with (
            PartitionReader(self._connection) as query,
            TopicFetcher(self._connection, topic, options=_FETCH) as fetch,
        ):
            partitions = await self._begin(file, query, fetch)
            loop = asyncio.get_running_loop()
            count_at = loop.time() + _COUNT_PARTITIONS_S
            finish_at = float("inf")
            while loop.time() < finish_at and await self._reopened(file):
                if self.stop.is_set():
                    finish_at = min(finish_at, loop.time() + _FINISH_S)
                if await self._step(file, query, fetch, partitions):
                    if self.stop.is_set():
                        return
                    await self._pause(_PACE_S)
                if loop.time() > count_at:
                    if await query.partition_count(topic) != len(partitions):
                        return
                    count_at = loop.time() + _COUNT_PARTITIONS_S

    async def _step(
        self,
        file: AuditLogFile,
        query: PartitionReader,
        fetch: TopicFetcher,
        partitions: range,
    ) -> bool:
        """Write what has come, or wait for it; True if that was all there is."""
        records = await fetch.getmany(_POLL_RECORDS, _POLL_MS)
        for error in fetch.take_failures().values():
            raise error
        if records:
            # No seal that has come cites a control record that comes after this.
            await read_control(query, self._topics.control, self._view)
            made = (_chunk(self._sealed[p], some) for p, some in records.items())
            chunks = [chunk for chunk in made if chunk is not None]
            self._tell_trimmed(file, chunks)
            written = await self._on_disk(file.append, chunks)
            self._tally.add(metrics.AUDIT_LOG_LINES, written)
            log.debug("audit_log.written", lines=written)
        if not all(fetch.position(p) >= fetch.last_stable(p) >= 0 for p in partitions):
            return False
        self._tally.set(metrics.AUDIT_LOG_COMPLETE, time.time())
        self._state = AuditLogState(writing=True)
        self._trouble = None
        return True

    async def _begin(
        self, file: AuditLogFile, query: PartitionReader, fetch: TopicFetcher
    ) -> range:
        """Begin to fetch every partition from where the file ends; give which.

        Raises:
            IntegrityError: the file is ahead of the topic.
        """
        topic = self._topics.audit
        partitions = range(await query.partition_count(topic))
        positions = {}
        self._trimmed = set()
        for partition in partitions:
            start = file.read_from(partition)
            begin = await query.begin_offset(topic, partition)
            end = await query.end_offset(topic, partition)
            if start > end:
                message = (
                    f"{self._path} stands at offset {start} of {topic}-{partition}, "
                    f"which ends at {end}: another topic, or its tail is lost"
                )
                raise IntegrityError(message)
            if start < begin:
                self._trimmed.add(partition)
            positions[partition] = max(start, begin)
        # After trouble read anew, too: what has answered may have been another cluster.
        self._view = ControlView(self._operator)
        self._sealed = {p: SealedLog(self._view, p, _tell_broken) for p in partitions}
        fetch.assign(positions)
        return partitions

    def _tell_trimmed(self, file: AuditLogFile, chunks: Sequence[Chunk]) -> None:
        """Say which leaves the topic had lost before they were written.

        Only leaves tell: what was trimmed may have been markers alone.
        """
        for chunk in chunks:
            if chunk.partition in self._trimmed:
                self._trimmed.discard(chunk.partition)
                if lost := file.missing_before(chunk):
                    log.warning(
                        "audit_log.trimmed", partition=chunk.partition,
                        first_seq=lost.start, last_seq=lost.stop - 1,
                        remedy="these leaves are no longer in the topic",
                    )  # fmt: skip


def _chunk(sealed: SealedLog, records: Sequence[Record]) -> Chunk | None:
    """Give the lines of the segments that end within these records."""
    lines: list[tuple[int, bytes]] = []
    log_id, read_from = "", 0
    for record in records:
        segment = sealed.feed(record.offset, record.value)
        if segment is None:
            continue
        for leaf in segment.leaves:
            row = shown(leaf, sealed.partition)
            lines.append((row["seq"], line(row)))
        log_id = segment.seal.log_id.hex()
        read_from = segment.leaves[-1].offset + 1
    return Chunk(sealed.partition, log_id, lines, read_from) if lines else None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _tell_broken(partition: int, reason: str) -> None:
    log.error(
        "audit_log.chain_broken", partition=partition, reason=reason,
        remedy="wasm-executor audit verify",
    )  # fmt: skip


def _remedy(error: ExecutorError | OSError) -> str:
    if isinstance(error, IntegrityError):
        return "wasm-executor audit verify"
    if isinstance(error, OSError):
        return "df -h, ls -l of AUDIT_LOG_PATH's folder; lines follow by themselves"
    return "wasm-executor doctor"


def main() -> None:
    """Write the file until told to stop; never returns."""
    seal_memory()
    orders = receive_orders(AuditLogOrders)
    setproctitle("wasm-executor: audit.log")
    configure_logs(orders.log_level)
    sys.exit(uvloop.run(_run(orders)))


async def _run(orders: AuditLogOrders) -> int:
    tally = Tally()
    reports = ReportWriter(orders.report_fd, tally)
    try:
        writer = AuditLogWriter(orders, tally)
    except ConfigError as error:
        reports.fault(str(error))
        return EXIT_CONFIGURATION
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, writer.stop.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)
    lifeline = asyncio.create_task(follow_supervisor(writer.reload))
    lifeline.add_done_callback(lambda task: task.cancelled() or os._exit(0))
    writing = asyncio.create_task(writer.run())
    try:
        while not writing.done():
            with suppress(BrokenPipeError):
                reports.send(writer.state)
            await asyncio.wait({writing}, timeout=REPORT_INTERVAL_S)
        writing.result()
        with suppress(BrokenPipeError):
            reports.send(writer.state)
    finally:
        lifeline.cancel()
    return 0


if __name__ == "__main__":
    main()
