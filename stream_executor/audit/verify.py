"""One audit partition, verified as it streams by: memory of one transaction. Pure.

Believed, in this order:

1. the operator key, which the auditor brings;
2. genesis: the operator's word for this log, its place and its start;
3. seals under process keys that a fleet key certified which the control chain had
   enrolled, and not retired, at the control offset that the seal cites;
4. leaves that a believed seal reaches by ``prev``;
5. what those leaves say, held against each other.

Whatever no seal reaches is foreign: listed, no leaf, no reason to stop. A finding
does not end the verification either: after a broken stretch it goes on at the next
believed seal, so that one flipped bit hides nothing behind it.

What this cannot see: a tail cut off at a seal. Only who knows from elsewhere how long
the log was can tell.

Not here: reading topics (``services.audit_reading``) and what other topics hold
(``audit.crosscheck``). Source: docs/wire-format.md, "Audit chain".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from stream_executor.audit.chain import ChainHead, leaf_hash
from stream_executor.audit.coverage import Event, event_problems, seal_problems
from stream_executor.audit.findings import ChainError, FindingCode, Problem
from stream_executor.audit.in_force import ControlHistory, InForce
from stream_executor.audit.report import PartitionReport, Transaction
from stream_executor.audit.segments import (
    Leaf,
    Segment,
    SegmentParser,
    link_of,
    resume_order,
    verify_seal,
)
from stream_executor.audit.signing import verify_signed
from stream_executor.model.audit import (
    AttemptStarted,
    Context,
    Genesis,
    LaneAcquired,
    LaneReleased,
    RequestExecuted,
    RequestRefused,
    Resumed,
    Seal,
)
from stream_executor.model.errors import IntegrityError, MalformedError
from stream_executor.wire.avro import CODECS, class_of, decode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from stream_executor.model.control import ResumeOrdered

# Seals remembered to tell a copy of an old seal from a fork, 8 bytes of hash each.
_REMEMBERED_SEALS = 1 << 16
_REMEMBERED_BYTES = 8


class Place(msgspec.Struct, frozen=True):
    """Where the log lies and whose it must be; None is not compared.

    ``operator_key`` is the raw Ed25519 public key that the auditor trusts.
    """

    operator_key: bytes
    partition: int
    cluster_id: str | None = None
    requests_topic: str | None = None
    results_topic: str | None = None
    audit_topic: str | None = None


class PartitionVerifier:
    """Verifies one audit partition's records, fed in offset order.

    Args:
        place: the log's place and the operator's key.
        control: the control chain, read to its end *after* the audit's end was
            taken, so that no seal can rightly cite an offset beyond it.
        genesis: the genesis leaf's bytes from an archive, where the topic no longer
            begins at it; the chain is then followed from its first believed seal.

    Cost: two Ed25519 verifications and a few hashes a transaction, one decode a leaf.
    """

    def __init__(
        self,
        place: Place,
        control: ControlHistory,
        *,
        genesis: bytes | None = None,
    ) -> None:
        self.report = PartitionReport(place.partition)
        self._place = place
        self._control = control
        self._parser: SegmentParser | None = None
        self._before: list[Leaf] = []
        self._orders: Sequence[ResumeOrdered] = ()
        self._state = InForce()
        self._seals: dict[int, bytes] = {}
        self._offset = 0
        self._genesis_offset = -1
        if genesis is not None and self._take_genesis(0, genesis, None):
            self._state = InForce.unknown()

    def feed(self, offset: int, value: bytes | None) -> Transaction | None:
        """Take the next record; give the transaction that it seals, if it does."""
        value = value or b""
        self._offset = offset
        if self._parser is not None:
            return self._feed(self._parser, offset, value)
        if class_of(value) is Genesis:
            parser = self._take_genesis(offset, value, ChainHead())
            if parser is not None:
                self.report.list_foreign([leaf.offset for leaf in self._before])
                self._before.clear()
                return self._feed(parser, offset, value)
        self._before.append(Leaf(offset, value))
        if class_of(value) is Seal:
            return self._begin_without_genesis()
        return None

    def finish(self) -> PartitionReport:
        """Say what it came to; call once, after the last record."""
        report, parser = self.report, self._parser
        if parser is None:
            self._take(self._genesis_problems())
            report.list_foreign([leaf.offset for leaf in self._before])
            return report
        # Genesis stands under the operator's signature; no seal need end it.
        report.torn = [o for o in parser.torn() if o != self._genesis_offset]
        torn = set(report.torn)
        report.list_foreign(
            [o for o in parser.unsealed if o not in torn and o != self._genesis_offset]
        )
        return report

    # Genesis.

    def _take_genesis(
        self, offset: int, value: bytes, head: ChainHead | None
    ) -> SegmentParser | None:
        """Begin at a genesis; None if it is not the operator's word."""
        try:
            genesis: Genesis = CODECS[Genesis].decode(value)
            verify_signed(value, self._place.operator_key)
        except (MalformedError, IntegrityError):
            return None
        self._orders = self._control.orders(genesis.log_id)
        self._parser = SegmentParser(genesis.log_id, head, self._believe, self._orders)
        self._genesis_offset = offset
        self.report.log_id = genesis.log_id
        self.report.previous = genesis.previous_log
        self.report.size, self.report.head = 1, leaf_hash(value)
        self.report.start = self.report.next = genesis.start_offset
        self._state.next = genesis.start_offset
        self._take(self._misplaced(offset, genesis))
        return self._parser

    def _misplaced(self, offset: int, genesis: Genesis) -> Iterator[Problem]:
        for field in (
            "cluster_id", "requests_topic", "results_topic", "audit_topic", "partition"
        ):  # fmt: skip
            expected, found = getattr(self._place, field), getattr(genesis, field)
            if expected not in (None, found):
                yield Problem(
                    FindingCode.GENESIS_MISMATCH, offset, 0,
                    f"{field} {expected}", f"{found}",
                )  # fmt: skip

    def _begin_without_genesis(self) -> Transaction | None:
        """Follow the chain all the same, from the first seal that is believed."""
        self._take(self._genesis_problems())
        self._state = InForce.unknown()
        self._parser = parser = SegmentParser(None, None, self._believe)
        before, self._before = self._before, []
        transactions = [self._feed(parser, leaf.offset, leaf.value) for leaf in before]
        return transactions[-1]

    def _genesis_problems(self) -> Iterator[Problem]:
        key = self._place.operator_key.hex()
        for leaf in self._before:
            if class_of(leaf.value) is Genesis:
                yield Problem(
                    FindingCode.GENESIS_INVALID, leaf.offset, 0,
                    f"the signature of operator key {key}", "another",
                )  # fmt: skip
                return
        yield Problem(
            FindingCode.GENESIS_MISSING, self._offset, 0,
            f"a genesis of operator key {key}", "none",
        )  # fmt: skip

    # The chain.

    def _believe(self, seal: Seal) -> None:
        if not self._control.fleet_key_valid(seal.fleet_key, seal.control_offset):
            message = (
                f"fleet key {seal.fleet_key.hex()} was not enrolled, or was retired, "
                f"at control offset {seal.control_offset}"
            )
            raise IntegrityError(message)

    def _feed(
        self, parser: SegmentParser, offset: int, value: bytes
    ) -> Transaction | None:
        head = parser.head
        try:
            segment = parser.feed(offset, value)
        except ChainError as error:
            self.report.add(error.problem)
            segment = parser.rejoin()
        else:
            not_taken = segment is None and class_of(value) is Seal
            if not_taken and not parser.skips(offset):
                self._take(self._seal_not_taken(parser, offset, value))
        return None if segment is None else self._follow(segment, head)

    def _seal_not_taken(
        self, parser: SegmentParser, offset: int, value: bytes
    ) -> Iterator[Problem]:
        """Say why: forged, a fork, or a copy of an old one (which is harmless)."""
        try:
            seal: Seal = CODECS[Seal].decode(value)
        except MalformedError:
            return
        if seal.log_id != parser.log_id:
            return
        try:
            verify_seal(seal, value)
            self._believe(seal)
        except IntegrityError as error:
            yield Problem(
                FindingCode.SEAL_FORGED, offset, seal.seq, "a believed seal", str(error)
            )
            return
        known = self._seals.get(seal.seq)
        if known is None and seal.seq < min(self._seals, default=0):
            return  # older than what is remembered: taken for a copy
        if known != leaf_hash(value)[:_REMEMBERED_BYTES]:
            yield Problem(
                FindingCode.FORK, offset, seal.seq,
                "one chain", "a believed seal that is not on it",
            )  # fmt: skip

    def _follow(self, segment: Segment, head: ChainHead | None) -> Transaction:
        """Hold one transaction's leaves against what is in force, then its seal."""
        report, seal = self.report, segment.seal
        seal_offset = segment.leaves[-1].offset
        first = link_of(segment.leaves[0].value)
        whole = head is not None and first == (head.seq, head.hash)
        if not whole:
            self._state = InForce.unknown()
        report.list_foreign(segment.foreign)
        events: list[Event] = []
        for leaf in segment.leaves[:-1]:
            self._take(self._leaf(leaf, events))
        started = self._state.next
        if not self._seals and whole and started not in (None, seal.from_):
            # Later seals are held against the one before by the parser.
            problem = Problem(
                FindingCode.SEAL_DISCONTINUOUS, seal_offset, seal.seq,
                f"from {started}, the genesis' start", f"from {seal.from_}",
            )  # fmt: skip
            report.add(problem)
        if seal.partition != self._place.partition:
            problem = Problem(
                FindingCode.SEAL_DISCONTINUOUS, seal_offset, seal.seq,
                f"partition {self._place.partition}", f"{seal.partition}",
            )  # fmt: skip
            report.add(problem)
        self._take(self._state.sealed(seal_offset, seal))
        if whole:
            self._take(seal_problems(seal, seal_offset, events))
        self._remember(segment)
        report.events += len(events)
        report.answered += sum(event.end - event.start for event in events)
        return Transaction(seal, seal_offset, events, whole)

    def _remember(self, segment: Segment) -> None:
        report, seal = self.report, segment.seal
        report.log_id = seal.log_id
        report.size, report.head = segment.head.seq, segment.head.hash
        report.gaps += sum(gap.end - gap.start for gap in seal.gaps)
        report.next, report.terms = seal.next, max(report.terms, seal.term)
        self._seals[seal.seq] = segment.head.hash[:_REMEMBERED_BYTES]
        if len(self._seals) > _REMEMBERED_SEALS:
            del self._seals[next(iter(self._seals))]

    def _leaf(self, leaf: Leaf, events: list[Event]) -> Iterator[Problem]:
        """Hold one leaf; terminal events are collected on the way."""
        state, at = self._state, leaf.offset
        try:
            said = decode(leaf.value)
        except MalformedError as error:
            yield Problem(
                FindingCode.LEAF_UNDECODABLE, at, link_of(leaf.value)[0],
                "an audit record of a known schema", str(error),
            )  # fmt: skip
            return
        match said:
            case RequestExecuted() | RequestRefused():
                event = Event(at, said)
                events.append(event)
                yield from event_problems(event)
                yield from state.event(event, self._orders)
            case LaneAcquired():
                yield from state.acquired(at, said, self._control)
            case Context():
                yield from state.context(at, said, self._control)
            case LaneReleased() | AttemptStarted():
                yield from state.within_term(at, said)
            case Resumed():
                self._resumed(leaf.value)
            case Genesis() if said.seq == 0:
                pass  # taken already, or it would not be at the chain's root
            case _:
                yield Problem(
                    FindingCode.LEAF_UNEXPECTED, at, link_of(leaf.value)[0],
                    "an event, a context or a lane's own leaf", type(said).__name__,
                )  # fmt: skip

    def _resumed(self, value: bytes) -> None:
        """Go on where the order says; the parser has held it to be the operator's."""
        order = resume_order(value)
        if order is not None:
            self.report.lost.extend(order.lost)
            self._state.next = order.next

    def _take(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            self.report.add(problem)
