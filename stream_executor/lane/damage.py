"""Why a lane halts, and the order that would let it go on. Values, pure.

What recovery finds and what ``audit doctor`` says are one thing: the error carries
the finding and, where there is a way back, exactly what an operator would sign.

Not here: finding it (``lane.recovery``), signing it (``modules.orders``).
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from stream_executor.audit.chain import ChainHead
from stream_executor.model.errors import IntegrityError
from stream_executor.model.record import Range

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stream_executor.lane.head import LaneHead
    from stream_executor.model.control import ResumeOrdered


class Damage(StrEnum):
    """Kinds of damage; the strings never change."""

    NO_GENESIS = "no_genesis"
    OTHER_CLUSTER = "other_cluster"
    OTHER_LOG = "other_log"
    CHAIN_BROKEN = "chain_broken"
    TORN_TRANSACTION = "torn_transaction"
    AUDIT_TAIL_LOST = "audit_tail_lost"
    REQUESTS_REMOVED = "requests_removed"
    REQUESTS_REPLACED = "requests_replaced"
    REQUESTS_HOLE = "requests_hole"
    REPLAY_WINDOW_LOST = "replay_window_lost"
    CONTROL_TAIL_LOST = "control_tail_lost"
    UNREADABLE = "unreadable"
    SECRET_CHANGED = "secret_changed"  # noqa: S105 - a kind
    FOREIGN_TIME = "foreign_time"


class Meaning(msgspec.Struct, frozen=True):
    """What one kind of damage is: what happened, and what a resume does."""

    happened: str
    resume: str


# As docs/recovery.md has them; a test compares.
MEANINGS: dict[Damage, Meaning] = {
    Damage.REQUESTS_REMOVED: Meaning(
        "retention or `delete-records` took requests before they were answered",
        "goes on at the first one kept; those between are lost",
    ),
    Damage.REQUESTS_REPLACED: Meaning(
        "the requests topic was truncated or made anew",
        "goes on at the first request that is not the one answered there",
    ),
    Damage.REQUESTS_HOLE: Meaning(
        "offsets that no batch covers: the broker lost part of a log",
        "goes on behind them; they are lost",
    ),
    Damage.AUDIT_TAIL_LOST: Meaning(
        "results cite events that the audit log no longer holds",
        "goes on after the answered ones; their events are lost",
    ),
    Damage.TORN_TRANSACTION: Meaning(
        "leaves that no seal ends",
        "skips them",
    ),
    Damage.CHAIN_BROKEN: Meaning(
        "leaves or seals that contradict each other",
        "goes on after the last good seal",
    ),
    Damage.FOREIGN_TIME: Meaning(
        "requests with their producer's time, or from the future",
        "answers them `invalid_request`",
    ),
    Damage.OTHER_LOG: Meaning(
        "seals of another lane or of an earlier log stand behind this one's",
        "skips them",
    ),
    Damage.REPLAY_WINDOW_LOST: Meaning(
        "retention or `delete-records` took leaves whose tokens could run again",
        "once none can: answers what waits from before then `invalid_request`",
    ),
    Damage.NO_GENESIS: Meaning(
        "the audit partition is empty, or was deleted",
        "nothing: bring it back, or begin another",
    ),
    Damage.OTHER_CLUSTER: Meaning(
        "genesis names another cluster or topic",
        "nothing: set the address right, or move",
    ),
    Damage.SECRET_CHANGED: Meaning(
        "the deployment secret is not what it was",
        "nothing: set it back",
    ),
    Damage.CONTROL_TAIL_LOST: Meaning(
        "the control topic ends before what the lanes had applied",
        "nothing: bring it back",
    ),
    Damage.UNREADABLE: Meaning(
        "bytes that are not what a log or topic may hold",
        "nothing: bring it back",
    ),
}

BRING_BACK = "bring the audit log back as it was written"


class WayBack(msgspec.Struct, frozen=True):
    """What a resume would order; see ``ResumeOrdered`` for each field.

    The newest order alone says what is refused, so a way back repeats what is still
    ahead; where the topic is another one, nothing is.
    """

    log_id: bytes
    head: ChainHead
    next: int
    lost: tuple[Range, ...] = ()
    skipped: tuple[Range, ...] = ()
    refused: tuple[Range, ...] = ()


class DamagedError(IntegrityError):
    """A lane's logs are not what they must be.

    Attributes:
        damage: what kind.
        where: topic and partition.
        finding: what was expected and what was found.
        way_back: what a resume would order; None if none can help.
        remedy: what to do, with a command; where no resume can help, what is wrong
            is not in this lane's log.
    """

    def __init__(
        self,
        damage: Damage,
        where: str,
        finding: str,
        partition: int,
        way_back: WayBack | None = None,
        remedy: str = BRING_BACK,
    ) -> None:
        if way_back is not None:
            remedy = resume_with(partition)
        super().__init__(f"{where}: {finding}; {remedy}")
        self.damage = damage
        self.where = where
        self.finding = finding
        self.partition = partition
        self.way_back = way_back
        self.remedy = remedy


def resume_with(partition: int) -> str:
    """Give the commands that look at a halted lane and let it go on."""
    return (
        "look at it with `wasm-executor audit doctor`, then "
        f"`wasm-executor lane resume {partition}`"
    )


def begin_anew(partition: int, previous_log: bytes) -> str:
    """Give the command that begins another log where this one was lost or left."""
    return f"`wasm-executor init --previous-log {partition}={previous_log.hex()}`"


def order_is_for(order: ResumeOrdered, head: LaneHead) -> bool:
    """Tell whether an order names exactly this head."""
    return (order.head_seq, order.head) == (head.chain.seq - 1, head.chain.hash)


def span(start: int, end: int) -> tuple[Range, ...]:
    """Give [start, end) as ranges: none if it is empty."""
    return (Range(start, end),) if start < end else ()


def ranges_of(offsets: Iterable[int]) -> tuple[Range, ...]:
    """Give sorted offsets as maximal half-open ranges."""
    found: list[Range] = []
    for offset in offsets:
        if found and found[-1].end == offset:
            found[-1] = Range(found[-1].start, offset + 1)
        else:
            found.append(Range(offset, offset + 1))
    return tuple(found)


def still_ahead(ranges: Iterable[Range], offset: int) -> tuple[Range, ...]:
    """Give what of the ranges lies at the offset or behind it."""
    return tuple(Range(max(r.start, offset), r.end) for r in ranges if r.end > offset)


def within(ranges: Iterable[Range], offset: int) -> bool:
    """Say whether an offset lies in one of the ranges."""
    return any(one.start <= offset < one.end for one in ranges)
