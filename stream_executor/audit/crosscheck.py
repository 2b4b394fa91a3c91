"""The audit log against the other topics: results, requests, gaps. Pure.

The chain says what was answered; while the other topics are kept, they can be held
against it: exactly one result for each event, byte for byte the one that was sealed,
and every retained request the one that was answered.

Not here: reading those topics (``services.audit_reading``).
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

from stream_executor.audit.digests import BODY_TAG, content_digest
from stream_executor.audit.findings import FindingCode, Problem
from stream_executor.model.errors import MalformedError
from stream_executor.model.record import Range
from stream_executor.wire.results import decode_result

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stream_executor.audit.coverage import Event
    from stream_executor.audit.report import PartitionReport, Transaction
    from stream_executor.model.record import Record

# Results come in the order of their events; this many may lie between by mistake or
# malice before one counts as missing.
MOST_AHEAD = 10_000


class _Result(msgspec.Struct, frozen=True, gc=False):
    offset: int
    request: int
    s256: bytes
    salt: bytes | None


class ResultsCheck:
    """Joins one results partition, in offset order, with the events of its lane.

    Args:
        report: gets the findings and the count.
        trimmed: the results topic no longer begins at its start, so the events
            before its first record are not looked for.
    """

    def __init__(self, report: PartitionReport, *, trimmed: bool) -> None:
        self._report = report
        self._floor = None if trimmed else 0
        self._waiting: dict[int, list[_Result]] = {}
        self._ahead = 0
        self._passed = -1
        self._answered_before = 0
        self._where = 0
        report.results = 0

    def take(self, offset: int, value: bytes | None) -> None:
        """Take the results topic's next record."""
        report = self._report
        try:
            result = decode_result(value or b"")
        except MalformedError:
            self._unexpected(offset, None, "a value that is no result")
            return
        if (result.log_id, result.partition) != (report.log_id, report.partition):
            # Results of the log before this one stay where they are.
            if result.offset >= report.start:
                self._unexpected(offset, None, "a result that names another log")
            elif result.log_id == report.previous:
                self._answered_before = result.offset + result.count
            return
        if self._floor is None:
            self._floor = result.seq
        if result.seq <= self._passed:
            self._unexpected(
                offset, result.seq, "one more result for it", result.offset
            )
            return
        held = _Result(
            offset, result.offset, sha256(value or b"").digest(), result.salt
        )
        self._waiting.setdefault(result.seq, []).append(held)
        self._ahead += 1

    def wants_more(self, transaction: Transaction) -> bool:
        """Say whether the next result should be read before settling.

        Results come in order, so the last event says at once what all would say. A
        log that lost its tail uses its seqs again, so a seq alone says nothing.
        """
        return self._ahead < MOST_AHEAD and not all(
            any(
                result.request == event.start
                for result in self._waiting.get(event.event.seq, ())
            )
            for event in reversed(transaction.events)
            if self._floor is None or event.event.seq >= self._floor
        )

    def settle(self, transaction: Transaction) -> dict[int, bytes]:
        """Hold a transaction's events against the results that were taken.

        Gives the salts that the results carry, by requests offset.
        """
        salts: dict[int, bytes] = {}
        self._where = transaction.seal_offset
        for event in transaction.events:
            salt = self._match(event)
            if salt is not None:
                salts[event.start] = salt
        self._passed = max(self._passed, transaction.seal.seq)
        for seq in [seq for seq in self._waiting if seq <= self._passed]:
            for result in self._pop(seq):
                if transaction.whole:
                    self._unexpected(
                        result.offset, seq, "a result without an event", result.request
                    )
        return salts

    def _match(self, event: Event) -> bytes | None:
        """Hold one event against its results; give the salt of the right one."""
        seq, wanted = event.event.seq, event.event.result_s256
        results = [one for one in self._pop(seq) if not self._lost(one.request)]
        if not results:
            if self._floor is not None and seq >= self._floor:
                self._add(
                    event, FindingCode.RESULT_MISSING,
                    "one result in the results topic", "none",
                )  # fmt: skip
            return None
        self._report.results = (self._report.results or 0) + 1
        chosen = next((r for r in results if r.s256 == wanted), results[0])
        for other in results:
            if other is not chosen:
                self._unexpected(
                    other.offset, seq, "one more result for it", other.request
                )
        if chosen.s256 == wanted:
            return chosen.salt
        self._add(
            event, FindingCode.RESULT_ALTERED, f"SHA-256 {wanted.hex()}",
            f"{chosen.s256.hex()} at results offset {chosen.offset}",
        )  # fmt: skip
        return None

    def _pop(self, seq: int) -> list[_Result]:
        results = self._waiting.pop(seq, [])
        self._ahead -= len(results)
        return results

    def finish(self) -> None:
        """Say which results have no event; those after the last leaf may be newer.

        What the log before left unanswered, this one begins behind: that is lost.
        """
        if 0 < self._answered_before < self._report.start:
            lost = Range(self._answered_before, self._report.start)
            self._report.lost.insert(0, lost)
        for seq, results in self._waiting.items():
            for result in results:
                if seq < self._report.size:
                    self._unexpected(
                        result.offset, seq, "a result without an event", result.request
                    )

    def _lost(self, request: int) -> bool:
        """Say whether a request's event was lost, which is on record."""
        return any(one.start <= request < one.end for one in self._report.lost)

    def _add(self, event: Event, code: FindingCode, expected: str, found: str) -> None:
        self._report.add(
            Problem(code, event.audit_offset, event.event.seq, expected, found)
        )

    def _unexpected(
        self, offset: int, seq: int | None, found: str, request: int = -1
    ) -> None:
        if self._lost(request):
            return
        self._report.add(
            Problem(
                FindingCode.RESULT_UNEXPECTED, self._where, seq,
                "exactly one result for each event",
                f"{found}, at results offset {offset}",
            )
        )  # fmt: skip


def check_requests(
    report: PartitionReport,
    transaction: Transaction,
    records: Sequence[Record],
    salt_of: Callable[[int], bytes | None],
) -> None:
    """Hold a transaction against the retained request records of its offsets.

    Args:
        report: gets the findings and the count.
        transaction: what was sealed.
        records: committed records in [seal.from, seal.next) that are still kept.
        salt_of: gives the salt of a requests offset, None where it is not known; then
            only times are compared.
    """
    starts = {event.start: event for event in transaction.events}
    report.requests = (report.requests or 0) + len(records)
    for record in records:
        gap = next(
            (g for g in transaction.seal.gaps if g.start <= record.offset < g.end), None
        )
        if gap is not None:
            add_gap_unproven(
                report, transaction, f"a committed record at {record.offset}"
            )
        event = starts.get(record.offset)
        if event is None:
            continue
        said = event.event
        problem = None
        if record.timestamp != said.timestamp:
            problem = (f"append time {said.timestamp}", f"{record.timestamp}")
        salt = salt_of(record.offset)
        if problem is None and salt is not None and said.body_digest is not None:
            digest = content_digest(BODY_TAG, salt, record.value or b"")
            if digest != said.body_digest:
                problem = (f"body digest {said.body_digest.hex()}", digest.hex())
        if problem is not None:
            report.add(
                Problem(
                    FindingCode.REQUEST_ALTERED, event.audit_offset, said.seq, *problem
                )
            )


def add_gap_unproven(
    report: PartitionReport, transaction: Transaction, found: str
) -> None:
    """Report that an attested gap is none."""
    report.add(
        Problem(
            FindingCode.GAP_UNPROVEN, transaction.seal_offset, transaction.seal.seq,
            "no committed record in a gap", found,
        )
    )  # fmt: skip
