"""An audit partition's records → sealed transactions, one at a time.

Recovery and verification both read the log through this parser, so what a new
owner believes is what an auditor will find. A record is a leaf because a believed
seal reaches it by ``prev``, backwards; whatever else lies between is *foreign*: not
a leaf, reported, never silently used. Memory is one transaction's.

Not here: what the events say (``audit.verify``), and what a lane does with the last
seal (``lane.recovery``).
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from stream_executor.audit.chain import ZERO_HASH, ChainHead, leaf_hash
from stream_executor.audit.signing import verify_certificate, verify_signed
from stream_executor.model.audit import Seal
from stream_executor.model.errors import IntegrityError, MalformedError
from stream_executor.wire.avro import CODECS, class_of
from stream_executor.wire.schemas import HEADER_BYTES


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
        MalformedError: too short to hold them.
    """
    seq, shift, at = 0, 0, HEADER_BYTES
    try:
        while True:
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
        message = "a value too short to be an audit record"
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


class SegmentParser:
    """Feeds on one partition's records in offset order, gives its segments.

    Args:
        log_id: the log that seals must name; None takes the first believed seal's.
        head: where the chain stands before the first record; None starts in the
            middle of a log, at whatever the first believed seal reaches back to.
        believe: called with each seal whose signature and certificate verify;
            raises IntegrityError if its fleet key was not valid there.
    """

    def __init__(
        self,
        log_id: bytes | None,
        head: ChainHead | None,
        believe: Callable[[Seal], None],
    ) -> None:
        self.log_id = log_id
        self.head = head
        self.last: Seal | None = None
        self._last_value = b""
        self._believe = believe
        self._pending: list[_Pending] = []

    @property
    def unsealed(self) -> list[int]:
        """Offsets fed since the last segment: leaves to come, or foreign records."""
        return [p.offset for p in self._pending]

    def feed(self, offset: int, value: bytes | None) -> Segment | None:
        """Take the next record; give the segment that it seals, if it does.

        Raises:
            IntegrityError: a believed seal forks the chain or does not follow the
                one before; the message says where.
        """
        value = value or b""
        self._pending.append(_Pending(offset, value, leaf_hash(value)))
        if class_of(value) is not Seal:
            return None
        try:
            seal: Seal = CODECS[Seal].decode(value)
        except MalformedError:
            return None
        if self.log_id is not None and seal.log_id != self.log_id:
            return None
        try:
            verify_seal(seal, value)
            self._believe(seal)
        except IntegrityError:
            return None  # anybody can write a seal under a key of his own: foreign
        return self._sealed(offset, seal, value)

    def _sealed(self, offset: int, seal: Seal, value: bytes) -> Segment | None:
        head, last = self.head, self.last
        if last is not None and seal.seq <= last.seq:
            if seal.seq == last.seq and value != self._last_value:
                message = f"two seals with seq {seal.seq}: the log forks at {offset}"
                raise IntegrityError(message)
            return None  # a copy of an old seal: foreign
        leaves = self._walk_back(seal)
        if head is not None:
            start = seal.seq - len(leaves) + 1
            _, reached = link_of(leaves[0].value)
            if start != head.seq or reached != head.hash:
                message = (
                    f"the seal at offset {offset} (seq {seal.seq}) reaches back to "
                    f"seq {start}, not to the head at seq {head.seq}: "
                    "leaves are missing or altered between them"
                )
                raise IntegrityError(message)
        if last is not None:
            check_follows(last, seal)
        kept = {leaf.offset for leaf in leaves}
        foreign = [p.offset for p in self._pending if p.offset not in kept]
        self.log_id = seal.log_id
        self.last, self._last_value = seal, value
        self.head = ChainHead(seal.seq + 1, leaf_hash(value))
        self._pending.clear()
        return Segment(leaves, seal, self.head, foreign)

    def _walk_back(self, seal: Seal) -> list[Leaf]:
        """Follow ``prev`` from the seal through what is pending, back to the head."""
        stop = ZERO_HASH if self.head is None else self.head.hash
        at = self._pending[-1]
        leaves = [Leaf(at.offset, at.value)]
        wanted, seq = seal.prev, seal.seq
        for pending in reversed(self._pending[:-1]):
            if wanted == stop:
                break
            if pending.hash != wanted:
                continue
            seq -= 1
            found, wanted = link_of(pending.value)
            if found != seq:
                message = f"leaf at offset {pending.offset} says seq {found}, not {seq}"
                raise IntegrityError(message)
            leaves.append(Leaf(pending.offset, pending.value))
        leaves.reverse()
        return leaves


def check_follows(before: Seal, seal: Seal) -> None:
    """Hold one seal against the one before it.

    Raises:
        IntegrityError: position, term, clock or control offset does not follow.
    """
    span = seal.next - seal.from_
    gaps = sum(len(gap) for gap in seal.gaps)
    problems = [
        text
        for wrong, text in (
            (seal.from_ != before.next, f"from {seal.from_}, expected {before.next}"),
            (seal.answered + gaps != span, "answered and gaps do not add up"),
            (seal.term < before.term, "the term fell"),
            (seal.lane_time < before.lane_time, "lane_time fell"),
            (seal.control_offset < before.control_offset, "control_offset fell"),
            (
                seal.term == before.term and seal.process_key != before.process_key,
                "the process key changed within a term",
            ),
        )
        if wrong
    ]
    if problems:
        message = f"seal seq {seal.seq} does not follow {before.seq}: " + "; ".join(
            problems
        )
        raise IntegrityError(message)
