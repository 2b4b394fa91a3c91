"""One sealed transaction: do its events say what its seal says? Pure.

Completeness is arithmetic: every offset in [from, next) has exactly one terminal
event, or lies in a gap that the seal attests. Counts, spent hashes and anchor are
recomputed from the events; a seal is only a summary of what stands before it.

Not here: the chain (``audit.segments``) and what spans transactions
(``audit.verify``).
"""

from __future__ import annotations

import heapq
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from stream_executor.audit.findings import FindingCode, Problem
from stream_executor.model.audit import RequestExecuted, RequestRefused, Seal
from stream_executor.model.codes import CODES, Code, Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stream_executor.model.audit import Principal

TerminalEvent = RequestExecuted | RequestRefused
_SHARED_PREFIX = "auth_"


class Event(msgspec.Struct, frozen=True, gc=False):
    """A terminal event and the audit offset of its leaf."""

    audit_offset: int
    event: TerminalEvent

    @property
    def start(self) -> int:
        """First requests offset that it answers."""
        return self.event.offset

    @property
    def end(self) -> int:
        """Requests offset after the last that it answers."""
        return self.event.offset + count_of(self.event)


def count_of(event: TerminalEvent) -> int:
    """Give how many request records an event answers."""
    return event.count if isinstance(event, RequestRefused) else 1


def event_problems(event: Event) -> Iterator[Problem]:
    """Hold one event against the table of codes and the rule for ranges."""
    said = event.event
    expected, found = _expected_status(said), f"{said.status}, code {said.code}"
    if expected is not None:
        yield _at(event, FindingCode.STATUS_WRONG, expected, found)
    if not isinstance(said, RequestRefused) or said.count == 1:
        return
    shared = (
        said.code.startswith(_SHARED_PREFIX)
        and said.principal is None
        and said.request_id is None
        and said.body_digest is None
        and not said.spent
    )
    if said.count < 1 or not shared:
        yield _at(
            event, FindingCode.RANGE_NOT_ALLOWED,
            "one record, or several without any valid token and one auth_* code",
            f"{said.count} records, code {said.code}",
        )  # fmt: skip


def _expected_status(said: TerminalEvent) -> str | None:
    """Give what the status had to be, or None if it is right."""
    if said.code is None:
        right = said.status == Status.SUCCEEDED
        return None if right else "SUCCEEDED where there is no code"
    try:
        status = CODES[Code(said.code)].status
    except ValueError:
        return "a code of the closed list"
    if said.status != status:
        return f"{status.value} for code {said.code}"
    if isinstance(said, RequestExecuted) and (said.trap is not None) != (
        said.code == Code.TRAP
    ):
        return "a kind of trap with code trap only"
    return None


def seal_problems(
    seal: Seal, seal_offset: int, events: Sequence[Event]
) -> Iterator[Problem]:
    """Hold a seal against all events of its transaction, in chain order."""
    at = _Sealed(seal, seal_offset)
    yield from _gap_problems(at)
    yield from _coverage_problems(at, events)
    statuses: Counter[str] = Counter()
    for event in events:
        statuses[event.event.status] += count_of(event.event)
    counted = {status.value: statuses[status.value] for status in Status}
    said = dict(
        zip(
            (status.value for status in Status),
            (
                seal.succeeded, seal.failed, seal.rejected, seal.expired,
                seal.quarantined,
            ),
            strict=True,
        )
    )  # fmt: skip
    if said != counted or seal.answered != sum(counted.values()):
        yield at.problem(
            FindingCode.COUNTS_WRONG,
            f"answered {sum(counted.values())}, {counted}",
            f"answered {seal.answered}, {said}",
        )
    spent = b"".join(
        principal.jti_hash
        for principal in map(_spent_by, (event.event for event in events))
        if principal is not None
    )
    if spent != seal.spent:
        yield at.problem(
            FindingCode.SPENT_WRONG,
            f"{len(spent) // 16} hashes of its events",
            f"{len(seal.spent) // 16} hashes, not the same",
        )
    if events:
        yield from _anchor_problems(at, events[-1])


class _Sealed(msgspec.Struct, frozen=True):
    seal: Seal
    offset: int

    def problem(self, code: FindingCode, expected: str, found: str) -> Problem:
        return Problem(code, self.offset, self.seal.seq, expected, found)


def _at(event: Event, code: FindingCode, expected: str, found: str) -> Problem:
    return Problem(code, event.audit_offset, event.event.seq, expected, found)


def _spent_by(event: TerminalEvent) -> Principal | None:
    """Give the principal whose jti this event used up."""
    if isinstance(event, RequestRefused) and not event.spent:
        return None
    return event.principal


def _gap_problems(at: _Sealed) -> Iterator[Problem]:
    reached = at.seal.from_
    first = True
    for gap in at.seal.gaps:
        low_enough = gap.start >= reached if first else gap.start > reached
        if not low_enough or gap.end <= gap.start or gap.end > at.seal.next:
            yield at.problem(
                FindingCode.GAP_INVALID,
                f"sorted, maximal gaps inside [{at.seal.from_}, {at.seal.next})",
                f"[{gap.start}, {gap.end})",
            )
        reached, first = gap.end, False


def _coverage_problems(at: _Sealed, events: Sequence[Event]) -> Iterator[Problem]:
    """Lay events and gaps end to end: they must meet exactly, from ``from`` to next."""
    seal = at.seal
    spans = heapq.merge(
        ((event.start, event.end, event) for event in events),
        ((gap.start, gap.end, None) for gap in seal.gaps),
        key=lambda span: span[0],
    )
    cursor, after_gap = seal.from_, False
    for start, end, event in spans:
        where = (
            (at.offset, seal.seq)
            if event is None
            else (event.audit_offset, event.event.seq)
        )
        if start > cursor:
            yield Problem(
                FindingCode.REQUEST_UNANSWERED, *where,
                f"an event for [{cursor}, {start})", "none",
            )  # fmt: skip
        elif start < cursor:
            yield Problem(
                FindingCode.GAP_ANSWERED
                if after_gap or event is None
                else FindingCode.REQUEST_ANSWERED_TWICE,
                *where,
                f"nothing more for offsets below {cursor}",
                f"{'a gap' if event is None else 'an event'} for [{start}, {end})",
            )
        cursor, after_gap = max(cursor, end), event is None
    if cursor < seal.next:
        yield at.problem(
            FindingCode.REQUEST_UNANSWERED,
            f"an event for [{cursor}, {seal.next})", "none",
        )  # fmt: skip
    elif cursor > seal.next:
        yield at.problem(
            FindingCode.COUNTS_WRONG, f"next {cursor}", f"next {seal.next}"
        )


def _anchor_problems(at: _Sealed, last: Event) -> Iterator[Problem]:
    seal, said = at.seal, last.event
    found = f"offset {seal.anchor_offset}, timestamp {seal.anchor_timestamp}"
    if seal.anchor_offset != last.end - 1:
        yield at.problem(FindingCode.ANCHOR_WRONG, f"offset {last.end - 1}", found)
    elif said.body_digest is not None and (
        seal.anchor_timestamp != said.timestamp
        or seal.anchor_digest != said.body_digest
    ):
        yield at.problem(
            FindingCode.ANCHOR_WRONG,
            f"timestamp {said.timestamp} and body digest {said.body_digest.hex()}",
            f"{found}, body digest {seal.anchor_digest.hex()}",
        )
