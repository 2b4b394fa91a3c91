"""An audit partition's records → sealed transactions, one at a time.

Recovery and verification both read the log through this parser, so what a new
owner believes is what an auditor will find. A record is a leaf because a believed
seal reaches it by ``prev``, backwards; whatever else lies between is *foreign*: not
a leaf, reported, never silently used. Memory is one transaction's.

Not here: what the events say (``audit.verify``), and what a lane does with the last
seal (``lane.recovery``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import msgspec

from stream_executor.audit.chain import ChainHead, leaf_hash
from stream_executor.audit.findings import ChainError, FindingCode
from stream_executor.audit.signing import verify_certificate, verify_signed
from stream_executor.model.audit import ZERO32, Resumed, Seal
from stream_executor.model.control import ResumeOrdered
from stream_executor.model.errors import IntegrityError, MalformedError
from stream_executor.wire.avro import CODECS, class_of
from stream_executor.wire.schemas import HEADER_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Leaf(msgspec.Struct, frozen=True, gc=False):
    """One leaf: its audit offset and exact value bytes."""

    offset: int
    value: bytes


class Segment(msgspec.Struct, frozen=True):
    """One sealed transaction.

    Attributes:
        leaves: its leaves in chain order; the last one is the seal.
        seal: the seal, decoded, believed.
        head: the chain's head after it.
        foreign: audit offsets between the segment before and this seal that are
            no leaves.
    """

    leaves: list[Leaf]
    seal: Seal
    head: ChainHead
    foreign: list[int]


def link_of(value: bytes) -> tuple[int, bytes]:
    """Give (seq, prev) of any audit record's bytes without decoding the rest.

    Raises:
        MalformedError: it does not hold them.
    """
    seq, shift, at = 0, 0, HEADER_BYTES
    try:
        # A longer run of bytes is no long: without the bound, a megabyte of 0xFF
        # would cost minutes of big-integer arithmetic.
        while shift <= 63:  # noqa: PLR2004 - bits of a long
            byte = value[at]
            at += 1
            seq |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:  # noqa: PLR2004 - a varint's last byte
                break
    except IndexError:
        shift = 64
    prev = value[at : at + 32]
    if shift > 63 or len(prev) != 32:  # noqa: PLR2004 - nine varint bytes; SHA-256
        message = "a value that is too short or odd to be an audit record"
        raise MalformedError(message)
    return (seq >> 1) ^ -(seq & 1), prev


def verify_seal(seal: Seal, value: bytes) -> None:
    """Verify a seal's signature and certificate (not whether the key is enrolled).

    Raises:
        IntegrityError: one of them does not verify.
    """
    verify_certificate(seal)
    verify_signed(value, seal.process_key)


class _Pending(msgspec.Struct, gc=False):
    offset: int
    value: bytes
    hash: bytes


class _Reach(msgspec.Struct, gc=False):
    """How far a believed seal reaches back: kept for ``rejoin``."""

    offset: int
    seal: Seal
    leaves: list[Leaf]


class SegmentParser:
    """Feeds on one partition's records in offset order, gives its segments.

    Args:
        log_id: the log that seals must name; None takes the first believed seal's.
        head: where the chain stands before the first record; None starts in the
            middle of a log, at whatever the first believed seal reaches back to.
        believe: called with each seal whose signature and certificate verify;
            raises IntegrityError if its fleet key was not valid there.
        orders: resumes that the control chain accepted for this log. What one skips
            behind the head that it names neither breaks nor continues the chain; the
            transaction that holds its ``resumed`` leaf goes on at its ``next``.
    """

    def __init__(
        self,
        log_id: bytes | None,
        head: ChainHead | None,
        believe: Callable[[Seal], None],
        orders: Sequence[ResumeOrdered] = (),
    ) -> None:
        self.log_id = log_id
        self.head = head
        self.last: Seal | None = None
        self._last_value = b""
        self._believe = believe
        self._orders = orders
        self._pending: list[_Pending] = []
        self._reach: _Reach | None = None

    @property
    def unsealed(self) -> list[int]:
        """Offsets fed since the last segment: leaves to come, or foreign records."""
        return [p.offset for p in self._pending]

    def torn(self) -> list[int]:
        """Give the offsets since the last segment that continue the chain, in order.

        At the end of a log these are a transaction that no seal ends.
        """
        links = [pending.offset for pending in self._forward()[0]]
        return [offset for offset in links if not self.skips(offset)]

    def strays(self) -> list[int]:
        """Give the offsets since the last segment of seals that name another log.

        Believed ones: whoever wrote them is one of the fleet, in the wrong place.
        """
        found = []
        for pending in self._pending:
            seal = _seal_or_none(pending.value)
            stray = seal is not None and seal.log_id != self.log_id
            if seal is None or not stray or self.skips(pending.offset):
                continue
            if _is_believed(seal, pending.value, self._believe):
                found.append(pending.offset)
        return found

    def _forward(self) -> tuple[list[_Pending], ChainHead]:
        """Follow the chain from the head on, as far as what is pending links."""
        head = self.head or ChainHead()
        links = []
        for pending in self._pending:
            if _link_or_none(pending.value) == (head.seq, head.hash):
                head = ChainHead(head.seq + 1, pending.hash)
                links.append(pending)
        return links, head

    def skips(self, offset: int) -> bool:
        """Say whether an order skips this audit offset, behind the present head.

        Behind another head it says nothing: who lost a tail uses offsets again.
        """
        head = self.head
        here = None if self.last is None or head is None else (head.seq - 1, head.hash)
        return any(
            r.start <= offset < r.end
            for order in self._orders
            if here in {None, (order.head_seq, order.head)}
            for r in order.skipped
        )

    def feed(self, offset: int, value: bytes | None) -> Segment | None:
        """Take the next record; give the segment that it seals, if it does.

        Raises:
            ChainError: a believed seal forks the chain or does not follow the one
                before; it says where. ``rejoin`` goes on from there.
        """
        value = value or b""
        self._reach = None
        self._pending.append(_Pending(offset, value, leaf_hash(value)))
        seal = _seal_or_none(value)
        if seal is None or self.log_id not in (None, seal.log_id):
            return None
        if not _is_believed(seal, value, self._believe):
            return None
        try:
            return self._sealed(offset, seal, value)
        except ChainError:
            if not self.skips(offset):
                raise
            self._reach = None
            return None

    def rejoin(self) -> Segment | None:
        """Go on after a ChainError, at the seal that raised it.

        Gives the leaves that this seal still reaches, or None after a second seal
        with a used seq, which stays foreign. For verifiers, which report the error
        and go on; a lane halts instead.
        """
        return None if self._reach is None else self._join(self._reach)

    def _sealed(self, offset: int, seal: Seal, value: bytes) -> Segment | None:
        last = self.last
        if last is not None and seal.seq <= last.seq:
            if seal.seq == last.seq and value != self._last_value:
                raise ChainError(
                    FindingCode.FORK, offset, seal.seq,
                    f"one seal with leaf hash {leaf_hash(self._last_value).hex()}",
                    f"another with {leaf_hash(value).hex()}",
                )  # fmt: skip
            return None  # a copy of an old seal: foreign
        leaves, error = self._walk_back(seal)
        self._reach = _Reach(offset, seal, leaves)
        if error is not None:
            raise error
        self._check_joined(leaves)
        if last is not None:
            check_follows(last, seal, offset, self._resumed_next(leaves))
        return self._join(self._reach)

    def _join(self, reach: _Reach) -> Segment:
        kept = {leaf.offset for leaf in reach.leaves}
        foreign = [p.offset for p in self._pending if p.offset not in kept]
        value = reach.leaves[-1].value
        self.log_id = reach.seal.log_id
        self.last, self._last_value = reach.seal, value
        self.head = ChainHead(reach.seal.seq + 1, leaf_hash(value))
        self._pending.clear()
        return Segment(reach.leaves, reach.seal, self.head, foreign)

    def _walk_back(self, seal: Seal) -> tuple[list[Leaf], ChainError | None]:
        """Follow ``prev`` from the seal through what is pending, back to the head.

        Stops at a leaf that says another seq than its place, and says so.
        """
        stop = ZERO32 if self.head is None else self.head.hash
        at = self._pending[-1]
        leaves = [Leaf(at.offset, at.value)]
        wanted, seq = seal.prev, seal.seq
        error = None
        for pending in reversed(self._pending[:-1]):
            if wanted == stop:
                break
            if pending.hash != wanted:
                continue
            try:
                found, before = link_of(pending.value)
            except MalformedError:
                found, before = -1, b""
            if found != seq - 1:
                error = ChainError(
                    FindingCode.LEAF_MISNUMBERED, pending.offset, seq - 1,
                    f"seq {seq - 1}", f"seq {found}",
                )  # fmt: skip
                break
            wanted, seq = before, found
            leaves.append(Leaf(pending.offset, pending.value))
        leaves.reverse()
        return leaves, error

    def _check_joined(self, leaves: list[Leaf]) -> None:
        """Hold the first leaf reached against the head; say what is broken, where."""
        head = self.head
        first = leaves[0]
        start, reached = link_of(first.value)
        if head is None or (start, reached) == (head.seq, head.hash):
            return
        if start <= head.seq:
            raise ChainError(
                FindingCode.FORK, first.offset, start,
                f"seq {head.seq} after leaf hash {head.hash.hex()}",
                f"seq {start} after {reached.hex()}",
            )  # fmt: skip
        self._raise_broken(first, start - 1, reached, {leaf.offset for leaf in leaves})

    def _raise_broken(
        self, first: Leaf, missing: int, reached: bytes, kept: set[int]
    ) -> NoReturn:
        """Say what became of the leaf before the first one that the seal reaches."""
        for pending in self._pending:
            if pending.hash == reached:
                raise ChainError(
                    FindingCode.LEAF_MISPLACED, pending.offset, missing,
                    f"before offset {first.offset}", "after it",
                )  # fmt: skip
        altered = self._altered(first.offset, missing, kept)
        if altered is not None:
            raise ChainError(
                FindingCode.LEAF_ALTERED, altered.offset, missing,
                f"leaf hash {reached.hex()}", altered.hash.hex(),
            )  # fmt: skip
        raise ChainError(
            FindingCode.LEAF_MISSING, first.offset, missing,
            f"leaf hash {reached.hex()} before it", "no such leaf",
        )  # fmt: skip

    def _altered(self, before: int, missing: int, kept: set[int]) -> _Pending | None:
        """Find the record that stands, altered, where a leaf is missing.

        Its own seq and prev may be what was altered, so either may give it away.
        """
        links, end = self._forward()
        if end.seq > missing:
            return links[missing - end.seq]
        intact = {pending.offset for pending in links}
        for pending in reversed(self._pending):
            link = _link_or_none(pending.value)
            if (
                link is not None
                and pending.offset < before
                and pending.offset not in kept
                and pending.offset not in intact
                and (link[0] == missing or (end.seq == missing and link[1] == end.hash))
            ):
                return pending
        return None

    def _resumed_next(self, leaves: list[Leaf]) -> int | None:
        """Give where a resume in these leaves lets the lane go on, if there is one."""
        next_offset = None
        for leaf in leaves:
            if class_of(leaf.value) is not Resumed:
                continue
            order = resume_order(leaf.value)
            if order is None or order not in self._orders:
                seq, _ = link_of(leaf.value)
                raise ChainError(
                    FindingCode.RESUME_UNFOUNDED, leaf.offset, seq,
                    "an order that the control chain accepted", "another",
                )  # fmt: skip
            next_offset = order.next
        return next_offset


def resume_order(value: bytes) -> ResumeOrdered | None:
    """Give the order that a ``resumed`` leaf embeds; None if it embeds none."""
    try:
        resumed: Resumed = CODECS[Resumed].decode(value)
        order: ResumeOrdered = CODECS[ResumeOrdered].decode(resumed.order)
    except MalformedError:
        return None
    return order


def believed_seal(value: bytes, believe: Callable[[Seal], None]) -> Seal | None:
    """Give the seal that a record is, if one of the fleet wrote it."""
    seal = _seal_or_none(value)
    ours = seal is not None and _is_believed(seal, value, believe)
    return seal if ours else None


def _is_believed(seal: Seal, value: bytes, believe: Callable[[Seal], None]) -> bool:
    """Say whether a seal is believed: anybody can write one under his own key."""
    try:
        verify_seal(seal, value)
        believe(seal)
    except IntegrityError:
        return False
    return True


def _seal_or_none(value: bytes) -> Seal | None:
    if class_of(value) is not Seal:
        return None
    try:
        seal: Seal = CODECS[Seal].decode(value)
    except MalformedError:
        return None
    return seal


def _link_or_none(value: bytes) -> tuple[int, bytes] | None:
    try:
        return link_of(value)
    except MalformedError:
        return None


def check_follows(
    before: Seal, seal: Seal, offset: int, resumed_next: int | None = None
) -> None:
    """Hold one seal against the one before it.

    Args:
        before: the seal before.
        seal: the seal.
        offset: its audit offset, for the message.
        resumed_next: where a resume in this transaction lets the lane go on.

    Raises:
        ChainError: position, term, clock or control offset does not follow.
    """
    span = seal.next - seal.from_
    gaps = sum(gap.end - gap.start for gap in seal.gaps)
    wanted = before.next if resumed_next is None else resumed_next
    problems = [
        (expected, found)
        for wrong, expected, found in (
            (seal.from_ != wanted, f"from {wanted}", f"from {seal.from_}"),
            (
                seal.answered + gaps != span,
                f"{span} offsets answered or gaps",
                f"{seal.answered} answered and {gaps} in gaps",
            ),
            (seal.term < before.term, f"term {before.term}", f"term {seal.term}"),
            (
                seal.lane_time < before.lane_time,
                f"lane_time {before.lane_time} or later",
                f"lane_time {seal.lane_time}",
            ),
            (
                seal.control_offset < before.control_offset,
                f"control_offset {before.control_offset} or more",
                f"control_offset {seal.control_offset}",
            ),
            (
                seal.term == before.term and seal.process_key != before.process_key,
                "one process key within a term",
                "another",
            ),
        )
        if wrong
    ]
    if problems:
        raise ChainError(
            FindingCode.SEAL_DISCONTINUOUS,
            offset,
            seal.seq,
            "; ".join(expected for expected, _ in problems),
            "; ".join(found for _, found in problems),
        )
