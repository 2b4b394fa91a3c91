"""Verify audit partitions, and the other topics beside them, as far as written now.

Reads; what is right is decided in ``audit.verify`` and ``audit.crosscheck``. Memory
is one transaction's, whatever the log's size.

Not here: printing (the command line).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from stream_executor.audit.crosscheck import (
    ResultsCheck,
    add_gap_unproven,
    check_requests,
)
from stream_executor.audit.digests import Salter
from stream_executor.audit.report import PartitionReport, verdict_of
from stream_executor.audit.verify import PartitionVerifier, Place
from stream_executor.lane.ports import GapProver
from stream_executor.model.errors import IntegrityError
from stream_executor.modules.view import ControlView
from stream_executor.services.control_reading import read_control

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from stream_executor.audit.report import Transaction, Verdict
    from stream_executor.model.audit import Seal
    from stream_executor.model.record import Record
    from stream_executor.services.audit_reading import AuditSource
    from stream_executor.services.control_reading import LogReader


class Thoroughness(msgspec.Struct, frozen=True):
    """What to hold against the audit log besides itself.

    Attributes:
        results: compare every retained result.
        requests: compare every retained request, its time and, where the salt is
            known from a result or the secret, its body.
        prover: re-check every gap whose requests are retained; None does not.
        secret: the deployment secret; None takes salts from results alone.
    """

    results: bool = False
    requests: bool = False
    prover: GapProver | None = None
    secret: bytes | None = None


class Progress(msgspec.Struct, frozen=True):
    """How far a verification is: audit offsets of one partition."""

    partition: int
    partitions: int
    position: int
    end: int


class VerifyReport(msgspec.Struct, frozen=True):
    """What a verification came to.

    Attributes:
        partitions: one report each.
        control_serial: serial of the last control record accepted.
        control_ignored: control records that do not count, by reason.
    """

    partitions: list[PartitionReport]
    control_serial: int
    control_ignored: dict[str, int]

    @property
    def verdict(self) -> Verdict:
        """The worst of the partitions' verdicts."""
        return verdict_of(self.partitions)


async def verify(
    source: AuditSource,
    thoroughness: Thoroughness,
    progress: Callable[[Progress], None] = lambda _: None,
    partitions: Sequence[int] | None = None,
) -> VerifyReport:
    """Verify audit partitions as far as they are written now.

    Args:
        source: where to read and whom to believe.
        thoroughness: what else to compare.
        progress: called now and then, for a progress bar.
        partitions: which; None for all.

    Raises:
        UnavailableError: could not tell (exit code 3).
        IntegrityError: the control topic was begun under another operator's key.
    """
    reader, topics = source.reader, source.topics
    if partitions is None:
        partitions = range(await reader.partition_count(topics.audit))
    # The audit's ends first: no seal before them can cite control records after.
    ends = {p: await reader.end_offset(topics.audit, p) for p in partitions}
    view = ControlView(source.operator_key)
    await read_control(reader, topics.control, view)
    reports = []
    for at, partition in enumerate(partitions):
        one = _PartitionRun(source, thoroughness, view, partition)
        async for position in one.run(ends[partition]):
            progress(Progress(at, len(partitions), position, ends[partition]))
        reports.append(one.report)
    return VerifyReport(
        reports, view.serial, {r.value: n for r, n in sorted(view.ignored.items())}
    )


class _PartitionRun:
    """One partition's verification with everything that is compared beside it."""

    def __init__(
        self,
        source: AuditSource,
        thoroughness: Thoroughness,
        view: ControlView,
        partition: int,
    ) -> None:
        topics = source.topics
        self._reader, self._topics = source.reader, topics
        self._thoroughness = thoroughness
        self._view = view
        self._partition = partition
        self._verifier = PartitionVerifier(
            Place(
                source.operator_key, partition, source.cluster_id, topics.requests,
                topics.results, topics.audit,
            ),
            view,
        )  # fmt: skip
        self.report = self._verifier.report
        self._results: ResultsCheck | None = None
        self._unread: AsyncIterator[tuple[int, bytes | None]] | None = None
        self._requests_begin = 0
        self._requests: _Requests | None = None

    async def run(self, end: int) -> AsyncIterator[int]:
        """Verify up to an audit offset; yield how far it is."""
        reader, topics, partition = self._reader, self._topics, self._partition
        await self._open()
        begin = await reader.begin_offset(topics.audit, partition)
        async for records in reader.read(topics.audit, partition, begin, end):
            for record in records:
                transaction = self._verifier.feed(record.offset, record.value)
                if transaction is not None:
                    await self._compare(transaction)
            if records:
                yield records[-1].offset + 1
        self._verifier.finish()
        if self._results is not None and self._unread is not None:
            async for offset, value in self._unread:
                self._results.take(offset, value)
            self._results.finish()
        yield end

    async def _open(self) -> None:
        reader, topics, partition = self._reader, self._topics, self._partition
        if self._thoroughness.results:
            begin = await reader.begin_offset(topics.results, partition)
            end = await reader.end_offset(topics.results, partition)
            self._results = ResultsCheck(self.report, trimmed=begin > 0)
            self._unread = _one_by_one(reader, topics.results, partition, begin, end)
        if self._thoroughness.requests or self._thoroughness.prover is not None:
            begin = await reader.begin_offset(topics.requests, partition)
            end = await reader.end_offset(topics.requests, partition)
            self._requests_begin = begin
            self._requests = _Requests(
                reader.read(topics.requests, partition, begin, end)
            )

    async def _compare(self, transaction: Transaction) -> None:
        salts: dict[int, bytes] = {}
        if self._results is not None and self._unread is not None:
            while self._results.wants_more(transaction):
                try:
                    offset, value = await anext(self._unread)
                except StopAsyncIteration:
                    break
                self._results.take(offset, value)
            salts = self._results.settle(transaction)
        end = self._comparable_end(transaction.seal)
        if self._thoroughness.prover is not None:
            await self._prove_gaps(self._thoroughness.prover, transaction, end)
        if self._thoroughness.requests:
            await self._compare_requests(transaction, end, salts)

    def _comparable_end(self, seal: Seal) -> int:
        """Give the requests offset up to which the topic still is what it was then.

        A later order that lets the lane go on before where it had been is the
        operator's word that from there on the topic holds other requests.
        """
        orders = self._view.orders(seal.log_id)
        later = (order.next for order in orders if order.head_seq >= seal.seq)
        return min([seal.next, *later])

    async def _prove_gaps(
        self, prover: GapProver, transaction: Transaction, comparable_end: int
    ) -> None:
        for gap in transaction.seal.gaps:
            start = max(gap.start, self._requests_begin)
            end = min(gap.end, comparable_end)
            if start >= end:
                continue
            try:
                await prover.prove_gap(
                    self._topics.requests, self._partition, start, end
                )
            except IntegrityError as error:
                add_gap_unproven(self.report, transaction, str(error))

    async def _compare_requests(
        self, transaction: Transaction, end: int, salts: dict[int, bytes]
    ) -> None:
        seal = transaction.seal
        start = max(seal.from_, self._requests_begin)
        if start >= end:
            return
        secret, log_id = self._thoroughness.secret, self.report.log_id
        salter = None
        if secret is not None and log_id is not None:
            salter = Salter(secret, log_id)
        last = end - 1
        if self._thoroughness.prover is not None:
            for gap in reversed(seal.gaps):  # proven: there is nothing to wait for
                last = gap.start - 1 if gap.end == last + 1 else last
        records = []
        if self._requests is not None:
            records = await self._requests.take(start, last, end)
        check_requests(
            self.report,
            transaction,
            records,
            lambda o: salter.salt(o) if salter is not None else salts.get(o),
        )


class _Requests:
    """Request records in offset order, each read once however seals cut them.

    A producer may put very many into one batch; reading that anew for each transaction
    would cost the square of it.
    """

    def __init__(self, pieces: AsyncIterator[Sequence[Record]]) -> None:
        self._pieces = pieces
        self._held: list[Record] = []

    async def take(self, start: int, last: int, end: int) -> list[Record]:
        """Give the records of [start, end); none is expected after ``last``."""
        held = self._held
        while not held or held[-1].offset < last:
            some = await anext(self._pieces, None)
            if some is None:
                break
            held += some
        self._held = [record for record in held if record.offset >= end]
        return [record for record in held if start <= record.offset < end]


async def _one_by_one(
    reader: LogReader, topic: str, partition: int, start: int, end: int
) -> AsyncIterator[tuple[int, bytes | None]]:
    async for records in reader.read(topic, partition, start, end):
        for record in records:
            yield record.offset, record.value
