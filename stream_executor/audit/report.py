"""What a verification comes to, as values.

Nothing here verifies; ``audit.verify`` and ``audit.crosscheck`` fill these in.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from stream_executor.audit.coverage import Event
from stream_executor.audit.findings import Finding, Problem
from stream_executor.model.audit import ZERO32, Seal
from stream_executor.model.record import Range

# A log may be full of what does not belong: counts stay exact, lists stay short.
MOST_LISTED = 1_000


class Verdict(StrEnum):
    """What a verification comes to."""

    OK = "ok"
    OK_WITH_TAIL = "ok_with_tail"  # so far; the newest leaves lack a seal
    FINDING = "finding"


class Transaction(msgspec.Struct, frozen=True):
    """A sealed transaction whose leaves were followed, for checks elsewhere.

    ``whole`` is False where leaves of it are missing or altered.
    """

    seal: Seal
    seal_offset: int
    events: list[Event]
    whole: bool


class PartitionReport(msgspec.Struct):
    """What was verified of one partition.

    Attributes:
        partition: which.
        log_id: its log; None if neither genesis nor seal told.
        previous: the log before this one, as genesis names it.
        start: first requests offset that the log answers for.
        size: leaves, the seals among them.
        head: leaf hash of the last leaf.
        events: terminal events.
        answered: requests offsets with a terminal event.
        gaps: requests offsets attested as holding no committed record.
        next: first requests offset not yet answered.
        terms: highest term.
        foreign: first ``MOST_LISTED`` audit offsets that are no leaves.
        foreign_count: how many there are.
        torn: audit offsets after the last seal that continue the chain.
        lost: requests offsets that the operator declared lost, or that neither the
            log before answered nor this one answers for.
        results: results compared; None if the results topic was not read.
        requests: retained requests compared; None if that topic was not read.
        findings: the first ``MOST_LISTED``.
        finding_count: how many there are.
    """

    partition: int
    log_id: bytes | None = None
    previous: bytes | None = None
    start: int = 0
    size: int = 0
    head: bytes = ZERO32
    events: int = 0
    answered: int = 0
    gaps: int = 0
    next: int = 0
    terms: int = 0
    foreign: list[int] = []
    foreign_count: int = 0
    torn: list[int] = []
    lost: list[Range] = []
    results: int | None = None
    requests: int | None = None
    findings: list[Finding] = []
    finding_count: int = 0

    @property
    def verdict(self) -> Verdict:
        """What it comes to."""
        if self.finding_count:
            return Verdict.FINDING
        return Verdict.OK_WITH_TAIL if self.torn else Verdict.OK

    def add(self, problem: Problem) -> None:
        """Take one more finding."""
        self.finding_count += 1
        if len(self.findings) < MOST_LISTED:
            self.findings.append(
                Finding(
                    problem.code, self.partition, problem.offset, problem.seq,
                    problem.expected, problem.found,
                )
            )  # fmt: skip

    def list_foreign(self, offsets: list[int]) -> None:
        """Take more records that are no leaves."""
        self.foreign_count += len(offsets)
        self.foreign.extend(offsets[: MOST_LISTED - len(self.foreign)])


def verdict_of(reports: list[PartitionReport]) -> Verdict:
    """Give the worst verdict; ``FINDING`` where nothing was verified at all."""
    verdicts = {report.verdict for report in reports}
    if Verdict.FINDING in verdicts or not reports:
        return Verdict.FINDING
    return Verdict.OK_WITH_TAIL if Verdict.OK_WITH_TAIL in verdicts else Verdict.OK
