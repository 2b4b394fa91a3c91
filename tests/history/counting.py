"""Counts what is wrong with one partition's requests, results and audit. Pure.

Fed record by record, results first, then audit, then requests; what it keeps is one
small value an offset. A counter counts what its line says and nothing else, so that a
doctored history raises the counter of its defect (tests/unit/history).
"""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64decode
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, NamedTuple

from stream_executor.audit.chain import leaf_hash
from stream_executor.audit.segments import link_of
from stream_executor.model.audit import (
    AttemptStarted,
    Context,
    LaneAcquired,
    RequestExecuted,
    RequestRefused,
    Resumed,
    Seal,
)
from stream_executor.model.errors import MalformedError
from stream_executor.wire.avro import CODECS, class_of
from stream_executor.wire.results import decode_result

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream_executor.model.record import Record
    from stream_executor.model.result import ExecutionResult


class Outcome(NamedTuple):
    """What a plain run of a request gives; None where it has nothing to say."""

    status: str
    code: str | None = None
    output: bytes | None = None
    fuel_consumed: int | None = None


@dataclass
class Sent:
    """What those who sent requests know of a partition by themselves.

    The reader that finds the committed records is the product's own: what it leaves
    out, and what it should have, only they can tell.

    Attributes:
        committed: offsets that a broker acknowledged, transaction and all.
        aborted: offsets of records that it took before their transaction was aborted.
    """

    committed: set[int] = field(default_factory=set)
    aborted: set[int] = field(default_factory=set)


@dataclass
class Counted:
    """Counters of a run; all but the first six must be zero."""

    requests: int = 0
    answered: int = 0
    attested: int = 0
    # A request record behind all that was answered or sealed: nobody had its turn yet.
    open: int = 0
    # A record whose token was spent before it on its partition.
    replays: int = 0
    # An answer with a tolerated code that was owed another one.
    excused: int = 0
    # A request record without a result, though the lane went on behind it.
    lost: int = 0
    # An offset with a second result, or a second event.
    doubled: int = 0
    # A result or an event behind one of a later offset.
    reordered: int = 0
    # A result or event for an offset that holds no committed record (aborted read).
    phantom: int = 0
    # A result without its event.
    unaudited: int = 0
    # An event without its result.
    unpublished: int = 0
    # A result whose bytes are not those that its event names.
    altered: int = 0
    # A result that says something else than its event.
    contradicted: int = 0
    # A result or event that says something else than a plain local run.
    wrong: int = 0
    # An offset that a seal covers, with neither event nor attestation.
    unattested: int = 0
    # An attested offset that holds a record.
    wrongly_attested: int = 0
    # A leaf that does not continue the chain.
    chain_breaks: int = 0
    # A seal that does not begin where the one before ended, or leaves without a seal.
    torn: int = 0
    # A term that does not follow the one before.
    terms_reused: int = 0
    # An event that cites another context than the one in force.
    context_errors: int = 0
    # A token that ran though it was spent, or though it was signed for elsewhere.
    replays_accepted: int = 0

    @property
    def faults(self) -> dict[str, int]:
        """Every counter that must be zero and is not."""
        return {name: n for name in FAULTS if (n := getattr(self, name))}

    def add(self, other: Counted) -> None:
        """Add another partition's counters."""
        for name in (*_FIRST, *FAULTS):
            setattr(self, name, getattr(self, name) + getattr(other, name))


_FIRST = ("requests", "answered", "attested", "open", "replays", "excused")
SUCCEEDED = "succeeded"
# What is owed to a token that was used before, here or elsewhere.
_REPLAYED, _ELSEWHERE = "auth_replayed", "auth_wrong_binding"
FAULTS = tuple(f.name for f in fields(Counted) if f.name not in _FIRST)


class _Answer(NamedTuple):
    """Of a result, what is compared later."""

    s256: bytes
    says: tuple[object, ...]
    outcome: Outcome
    first: int


class _Event(NamedTuple):
    """Of an event, what is compared later; ``control_offset`` is its context's."""

    s256: bytes
    says: tuple[object, ...]
    outcome: Outcome
    executed: bool
    control_offset: int


@dataclass
class PartitionHistory:
    """One partition, fed in this order: results, audit, requests, ``end``.

    ``expected`` says what a record is owed; it is asked in the order of the log.
    """

    partition: int = 0
    expected: Callable[[Record], Outcome | None] | None = None
    # Codes that a fault of the sandbox may give to the request that it struck.
    tolerated: frozenset[str] = frozenset()
    sent: Sent = field(default_factory=Sent)
    counted: Counted = field(default_factory=Counted)
    # What was answered, and what of it was owed.
    codes: Counter[str] = field(default_factory=Counter)
    owed: Counter[str] = field(default_factory=Counter)
    # When results were appended, and lanes begun: milliseconds, rising, each once.
    answered_ms: list[int] = field(default_factory=list)
    acquired_ms: list[int] = field(default_factory=list)
    answers: dict[int, _Answer] = field(default_factory=dict)
    events: dict[int, _Event] = field(default_factory=dict)
    # How often a request was tried alone before it was answered.
    attempts: Counter[int] = field(default_factory=Counter)
    covered: int = -1
    _head: tuple[int, bytes] = (0, bytes(32))
    _unsealed: int = 0
    _last_result: int = -1
    _last_event: int = -1
    _term: int = 0
    _context_seq: int = 0
    _control_offset: int = 0
    _gaps: set[int] = field(default_factory=set)
    _asked: set[int] = field(default_factory=set)
    _declared: set[int] = field(default_factory=set)
    _ran: set[tuple[object, ...] | bytes] = field(default_factory=set)

    # -- results ----------------------------------------------------------------

    def result(self, record: Record) -> ExecutionResult:
        """Take the next record of the results partition."""
        value, counted = record.value or b"", self.counted
        result = decode_result(value)
        counted.reordered += result.offset <= self._last_result
        self._last_result = max(self._last_result, result.offset)
        says = (
            result.offset, result.count, result.request_id, result.status,
            result.code, result.fuel_consumed, result.module_s256, result.seq,
        )  # fmt: skip
        answer = _Answer(
            hashlib.sha256(value).digest(), says,
            Outcome(result.status, result.code, result.output, result.fuel_consumed),
            result.offset,
        )  # fmt: skip
        self.codes[result.code or SUCCEEDED] += result.count
        if record.timestamp != (self.answered_ms or [0])[-1]:
            self.answered_ms.append(record.timestamp)
        for offset in range(result.offset, result.offset + result.count):
            counted.doubled += offset in self.answers
            self.answers[offset] = answer
        return result

    # -- audit ------------------------------------------------------------------

    def leaf(self, record: Record) -> None:
        """Take the next record of the audit partition."""
        value, counted = record.value or b"", self.counted
        try:
            link = link_of(value)
        except MalformedError:
            counted.chain_breaks += 1
            return
        counted.chain_breaks += link != self._head
        # Go on from what the leaf itself says, so that one break is counted once.
        self._head = (link[0] + 1, leaf_hash(value))
        cls = class_of(value)
        if cls is Seal:
            self._seal(CODECS[Seal].decode(value))
            return
        self._unsealed += link[0] > 0  # genesis stands alone
        if cls is RequestExecuted:
            self._executed(CODECS[RequestExecuted].decode(value))
        elif cls is RequestRefused:
            self._refused(CODECS[RequestRefused].decode(value))
        elif cls is LaneAcquired:
            acquired: LaneAcquired = CODECS[LaneAcquired].decode(value)
            counted.terms_reused += acquired.term != self._term + 1
            self._term, self._context_seq = acquired.term, acquired.seq
            self._control_offset = acquired.control_offset
            self.acquired_ms.append(record.timestamp)
        elif cls is Context:
            context: Context = CODECS[Context].decode(value)
            self._context_seq = context.seq
            self._control_offset = context.control_offset
        elif cls is AttemptStarted:
            self.attempts[CODECS[AttemptStarted].decode(value).offset] += 1
        elif cls is Resumed:
            self.covered = -1  # the operator's word says where the lane goes on

    def _seal(self, seal: Seal) -> None:
        counted, self._unsealed = self.counted, 0
        counted.torn += self.covered not in {-1, seal.from_}
        counted.torn += seal.term != self._term
        self.covered = seal.next
        for gap in seal.gaps:
            offsets = range(gap.start, gap.end)
            counted.doubled += sum(o in self._gaps or o in self.events for o in offsets)
            self._gaps.update(offsets)

    def _executed(self, event: RequestExecuted) -> None:
        says = (
            event.offset, 1, event.request_id, event.status, event.code,
            event.fuel_consumed, event.module_s256, event.seq,
        )  # fmt: skip
        outcome = Outcome(event.status, event.code, None, event.fuel_consumed)
        known = _Event(event.result_s256, says, outcome, True, self._control_offset)
        self._happened(event.offset, 1, event.context_seq, known)

    def _refused(self, event: RequestRefused) -> None:
        says = (
            event.offset, event.count, event.request_id, event.status, event.code,
            0, None, event.seq,
        )  # fmt: skip
        outcome = Outcome(event.status, event.code)
        known = _Event(event.result_s256, says, outcome, False, self._control_offset)
        self._happened(event.offset, event.count, event.context_seq, known)

    def _happened(
        self, first: int, count: int, context_seq: int, event: _Event
    ) -> None:
        counted = self.counted
        counted.context_errors += context_seq != self._context_seq
        counted.reordered += first <= self._last_event
        self._last_event = max(self._last_event, first + count - 1)
        for offset in range(first, first + count):
            counted.doubled += offset in self.events or offset in self._gaps
            self.events[offset] = event

    # -- requests ---------------------------------------------------------------

    def request(self, record: Record) -> None:
        """Take the next committed record of the requests partition."""
        counted, offset = self.counted, record.offset
        if offset in self.sent.aborted:
            return  # whoever read it as committed is wrong; `end` finds its answer
        counted.requests += 1
        answer, event = self.answers.get(offset), self.events.get(offset)
        counted.wrongly_attested += offset in self._gaps
        self._asked.add(offset)
        expected = None if self.expected is None else self.expected(record)
        said = [of.outcome for of in (answer, event) if of is not None]
        if expected is not None:
            self._compare(expected, said)
        if event is not None and event.executed:
            token = _token_of(record)
            spent = token in self._ran or (
                expected is not None and expected.code in {_REPLAYED, _ELSEWHERE}
            )
            counted.replays_accepted += spent
            self._ran.add(token)

    def _compare(self, expected: Outcome, said: list[Outcome]) -> None:
        counted = self.counted
        self.owed[expected.code or SUCCEEDED] += 1
        counted.replays += expected.code == _REPLAYED
        others = [outcome for outcome in said if not _agrees(expected, outcome)]
        # Whose token is refused never comes near a sandbox, and is struck by nothing.
        near = not (expected.code or "").startswith("auth_")
        excused = near and all(outcome.code in self.tolerated for outcome in others)
        counted.excused += excused and bool(others)
        counted.wrong += bool(others) and not excused

    def declared_lost(self, offsets: set[int]) -> None:
        """Take the operator's word that these offsets' events are gone."""
        for offset in offsets:
            self.answers.pop(offset, None)
        self._gaps |= offsets - self.events.keys()
        self._declared |= offsets

    def end(self, *, until: int | None = None) -> Counted:
        """Compare what only the whole tells; give the counters.

        Args:
            until: first offset that is not compared, where the lane still worked
                while the three topics were read one after the other.
        """
        counted, answers, events = self.counted, self.answers, self.events
        counted.answered += len(answers)
        unseen = self.sent.committed - self._asked
        counted.wrongly_attested += len(unseen & self._gaps)
        self._asked |= unseen
        passed = max(self.covered, max(answers, default=-1) + 1)
        if until is not None:
            passed = min(passed, until)
        unanswered = self._asked - answers.keys() - self._declared
        counted.lost += sum(offset < passed for offset in unanswered)
        counted.open += sum(offset >= passed for offset in unanswered)
        if until is not None:
            answers = {o: a for o, a in answers.items() if o < until}
            events = {o: e for o, e in events.items() if o < until}
        counted.attested += len(self._gaps)
        either = answers.keys() | events.keys()
        counted.phantom += len(either - self._asked)
        counted.unaudited += len(answers.keys() - events.keys())
        counted.unpublished += len(events.keys() - answers.keys())
        for offset in answers.keys() & events.keys():
            answer, event = answers[offset], events[offset]
            counted.altered += answer.s256 != event.s256
            counted.contradicted += answer.says != event.says
        start = min(either | self._gaps, default=0)
        covered = set(range(start, self.covered))
        counted.unattested += len(covered - events.keys() - self._gaps)
        counted.torn += self._unsealed > 0
        return counted


def _agrees(expected: Outcome, found: Outcome) -> bool:
    """Hold two outcomes against each other where both have something to say."""
    return all(
        a == b or (place > 1 and (a is None or b is None))
        for place, (a, b) in enumerate(zip(expected, found, strict=True))
    )


def _token_of(record: Record) -> tuple[object, ...] | bytes:
    """Name the token as its own claims do: the same one signed anew has other bytes.

    Nothing is verified; it is asked only of what was executed.
    """
    header = next((v for k, v in record.headers if k == "authorization"), b"")
    try:
        payload = header.split(b".")[1]
        claims = json.loads(urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))
        return claims["iss"], claims["jti"]
    except (IndexError, ValueError, KeyError, TypeError):
        return hashlib.sha256(header).digest()
