"""What is in force from leaf to leaf: term, key, context, clock. Pure.

A chain may be unbroken and still tell a story that does not hold together: an event
under a context that was replaced, a term nobody began, a clock that jumped. Each
leaf is held against what the leaves before it left in force.

Not here: what stands inside one transaction (``audit.coverage``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from stream_executor.audit.findings import FindingCode, Problem
from stream_executor.audit.signing import verify_certificate
from stream_executor.model.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stream_executor.audit.coverage import Event
    from stream_executor.model.audit import (
        AttemptStarted,
        Context,
        LaneAcquired,
        LaneReleased,
        Seal,
    )
    from stream_executor.model.control import ResumeOrdered


class ControlHistory(Protocol):
    """What the control chain said at each offset (``modules.view.ControlView``)."""

    @property
    def next_offset(self) -> int:
        """Control offset (exclusive) up to which it was read."""
        ...

    def fleet_key_valid(self, fleet_key: bytes, control_offset: int) -> bool:
        """Say whether a seal that cites this offset may use the fleet key."""
        ...

    def head_at(self, control_offset: int) -> bytes:
        """Give the control chain's head up to an offset (exclusive)."""
        ...

    def orders(self, log_id: bytes) -> Sequence[ResumeOrdered]:
        """Give the resumes that were accepted for a log."""
        ...


class InForce(msgspec.Struct):
    """What the leaves so far left in force; None where a broken stretch hid it.

    The defaults are those of a log's beginning; ``next`` is then genesis' start.
    """

    next: int | None = None
    term: int | None = 0
    process_key: bytes | None = None
    context_seq: int | None = None
    control_offset: int | None = 0
    lane_time: int | None = 0

    @classmethod
    def unknown(cls) -> InForce:
        """Give the state in the middle of a log: anything may be in force."""
        return cls(None, None, None, None, None, None)

    def event(self, event: Event, orders: Sequence[ResumeOrdered]) -> Iterator[Problem]:
        """Hold a terminal event's context and clock."""
        said = event.event
        at = (event.audit_offset, said.seq)
        if self.context_seq not in (None, said.context_seq):
            yield Problem(
                FindingCode.CONTEXT_UNKNOWN, *at,
                f"context_seq {self.context_seq}", f"{said.context_seq}",
            )  # fmt: skip
        least = max(self.lane_time or 0, said.timestamp)
        exact = event.end - event.start == 1 and self.lane_time is not None
        if any(r.start <= event.start < r.end for o in orders for r in o.refused):
            # Records without append time, refused by order, do not move the clock.
            least, exact = self.lane_time or 0, False
        if said.lane_time < least or (exact and said.lane_time != least):
            yield Problem(
                FindingCode.LANE_TIME_WRONG, *at, f"{least}", f"{said.lane_time}"
            )
        self.lane_time = said.lane_time

    def acquired(
        self, offset: int, said: LaneAcquired, control: ControlHistory
    ) -> Iterator[Problem]:
        """Begin a term."""
        for field, expected in (
            ("term", None if self.term is None else self.term + 1),
            ("next", self.next),
            ("lane_time", self.lane_time),
        ):
            found = getattr(said, field)
            if expected not in (None, found):
                yield Problem(
                    FindingCode.TERM_WRONG, offset, said.seq,
                    f"{field} {expected}", f"{found}",
                )  # fmt: skip
        try:
            verify_certificate(said)
        except IntegrityError as error:
            yield Problem(
                FindingCode.PROCESS_KEY_WRONG, offset, said.seq,
                "a certificate of the fleet key", str(error),
            )  # fmt: skip
        self.term, self.process_key = said.term, said.process_key
        yield from self._context(offset, said, control)

    def context(
        self, offset: int, said: Context, control: ControlHistory
    ) -> Iterator[Problem]:
        """Change what decisions rest on."""
        yield from self.within_term(offset, said)
        yield from self._context(offset, said, control)

    def within_term(
        self, offset: int, said: Context | LaneReleased | AttemptStarted | Seal
    ) -> Iterator[Problem]:
        """Hold a leaf's term."""
        if self.term not in (None, said.term):
            yield Problem(
                FindingCode.TERM_WRONG, offset, said.seq,
                f"term {self.term}", f"{said.term}",
            )  # fmt: skip

    def sealed(self, offset: int, seal: Seal) -> Iterator[Problem]:
        """Hold a seal; from here on what it says is in force."""
        yield from self.within_term(offset, seal)
        if self.process_key not in (None, seal.process_key):
            yield Problem(
                FindingCode.PROCESS_KEY_WRONG, offset, seal.seq,
                "the process key of lane.acquired", seal.process_key.hex(),
            )  # fmt: skip
        for field, code in (
            ("context_seq", FindingCode.CONTEXT_UNKNOWN),
            ("control_offset", FindingCode.CONTEXT_UNKNOWN),
            ("lane_time", FindingCode.LANE_TIME_WRONG),
        ):
            expected, found = getattr(self, field), getattr(seal, field)
            if expected not in (None, found):
                yield Problem(code, offset, seal.seq, f"{field} {expected}", f"{found}")
        self.next, self.term, self.process_key = seal.next, seal.term, seal.process_key
        self.context_seq, self.control_offset = seal.context_seq, seal.control_offset
        self.lane_time = seal.lane_time

    def _context(
        self, offset: int, said: LaneAcquired | Context, control: ControlHistory
    ) -> Iterator[Problem]:
        expected = control.head_at(said.control_offset)
        if said.control_offset > control.next_offset:
            yield Problem(
                FindingCode.CONTROL_HEAD_WRONG, offset, said.seq,
                f"control_offset {control.next_offset} at most",
                f"{said.control_offset}",
            )  # fmt: skip
        elif said.control_head != expected:
            yield Problem(
                FindingCode.CONTROL_HEAD_WRONG, offset, said.seq,
                f"control head {expected.hex()} at control offset "
                f"{said.control_offset}", said.control_head.hex(),
            )  # fmt: skip
        self.context_seq, self.control_offset = said.seq, said.control_offset
