"""From the audit log to a lane's head: what a new owner believes, and why.

Memory is never trusted across owners, nor the group's offsets: after the fence the
log is read to its end, and the last believed seal says where the lane stands. Every
doubt halts the lane (DamagedError) with what was expected, what was found and what an
operator may order. An order holds for the one head that it names: once the lane has
written on, it is history.

Steps, in this order:
 1. the end of the audit partition, uncommitted included: nothing later is ours;
 2. genesis: the operator's word for this log;
 3. the last believed seal, found from the end backwards;
 4. every segment from that seal's window_from: replay window, chain, continuity;
    where leaves of the window were removed, whether that can harm;
 5. nothing of another log and no torn transaction after it;
 6. the operator's order for this head, if there is one;
 7. cross-checks: requests log holds ``next`` and the anchor; results are not ahead.

Source: ADR 0002 and 0004; ``audit.segments`` for what a leaf is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from stream_executor.lane.audit_log import (
    AuditLog,
    Expected,
    named_log,
    no_genesis,
    read_root,
)
from stream_executor.lane.crosschecks import cross_check, hold_replay_window
from stream_executor.lane.damage import order_is_for
from stream_executor.lane.head import (
    CLOCKS_APART_MS,
    LEAST_HORIZON_MS,
    LaneHead,
    SpentSeal,
)
from stream_executor.lane.suspicion import Standstill, Suspicion
from stream_executor.model.audit import ZERO32, Seal
from stream_executor.model.errors import FencedError, IntegrityError, MalformedError
from stream_executor.model.record import Range
from stream_executor.modules.view import ResumeOrder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stream_executor.audit.segments import Segment
    from stream_executor.auth.replay import ReplayWindow
    from stream_executor.lane.ports import LogReader


class Recovered(msgspec.Struct, frozen=True):
    """What the log says.

    Attributes:
        log_id: of the audit partition.
        head: where the lane stands.
        term: of the last owner; 0 if there was none.
        sealed_next: where the last seal left off; an order moves ``head.next`` only.
        resume: the order for this head, to be written as a leaf.
        refused: requests offsets that the newest order refuses.
        suspicion: what must be tried alone.
    """

    log_id: bytes
    head: LaneHead
    term: int
    sealed_next: int = 0
    resume: ResumeOrder | None = None
    refused: tuple[Range, ...] = ()
    suspicion: Suspicion = Suspicion()


async def recover(
    reader: LogReader, expected: Expected, window: ReplayWindow
) -> Recovered:
    """Read one audit partition and give the lane's head; fill the replay window.

    Call only after the lane's writer has fenced every other.

    Raises:
        IntegrityError: the log is not one that this lane may continue.
        FencedError: somebody wrote while we read, so a later owner has the lane.
        TransientError: the broker could not be read; nothing is known.
    """
    topic, partition = expected.audit_topic, expected.partition
    end = await reader.end_offset(topic, partition)
    try:
        return await _recover_up_to(end, reader, expected, window)
    except (IntegrityError, MalformedError) as error:
        # Since our fence only a later owner can have written the audit log; whatever
        # does not fit together then was read at two different times.
        if await reader.end_offset(topic, partition) > end:
            message = f"{topic}-{partition} was written by a later owner meanwhile"
            raise FencedError(message) from error
        raise


async def _recover_up_to(
    end: int, reader: LogReader, expected: Expected, window: ReplayWindow
) -> Recovered:
    topic, partition = expected.audit_topic, expected.partition
    begin = await reader.begin_offset(topic, partition)
    root = await read_root(reader, expected, begin, end)
    log_id = (
        await named_log(reader, expected, begin, end) if root is None else root.log_id
    )
    if log_id is None:
        raise await no_genesis(reader, expected, end)
    resumes = expected.resumes(log_id)
    orders = [one.order for one in resumes]
    refused = tuple(orders[-1].refused) if orders else ()
    log = AuditLog(reader, expected, log_id, root, orders, begin, end)
    standstill = Standstill()
    parser = await log.to_last_seal(standstill)
    if parser.last is not None:
        recovered = await _from_window(log, parser.last, window, refused)
    elif root is not None:
        await log.hold_end(parser)
        at = LaneHead(root.head, root.next)
        recovered = Recovered(root.log_id, at, 0, root.next, refused=refused)
    else:
        message = f"{log.where}: the seal that named log {log_id.hex()} is gone"
        raise IntegrityError(message)
    recovered = _ordered(recovered, resumes)
    await cross_check(log, recovered)
    requests_end = await reader.end_offset(expected.requests_topic, partition)
    suspicion = standstill.suspicion(
        recovered.head.next, requests_end, expected.incarnation
    )
    return msgspec.structs.replace(recovered, suspicion=suspicion)


def _ordered(recovered: Recovered, resumes: Sequence[ResumeOrder]) -> Recovered:
    """Let the newest order for exactly this head move the lane."""
    head = recovered.head
    for one in reversed(resumes):
        order = one.order
        if order_is_for(order, head):
            if order.next != head.next:  # the anchor may be of a topic that is gone
                head = msgspec.structs.replace(
                    head,
                    next=order.next,
                    anchor_offset=-1,
                    anchor_timestamp=0,
                    anchor_digest=ZERO32,
                )
            return msgspec.structs.replace(recovered, head=head, resume=one)
    return recovered


async def _from_window(
    log: AuditLog, last: Seal, window: ReplayWindow, refused: tuple[Range, ...]
) -> Recovered:
    """Re-read from the last seal's window_from; rebuild what the seals carry."""
    expected, begin = log.expected, log.begin
    start = max(begin, last.window_from_offset)
    if expected.horizon_ms > LEAST_HORIZON_MS:
        # The last owner may have worked with a shorter horizon: go by time instead.
        since = last.lane_time - expected.horizon_ms - CLOCKS_APART_MS
        by_time = await log.reader.offset_for_time(
            expected.audit_topic, expected.partition, since
        )
        start = start if by_time is None else max(begin, min(start, by_time))
    parser = log.parser(None)
    spent: list[SpentSeal] = []
    first: list[Seal] = []

    def take(segment: Segment) -> None:
        seal = segment.seal
        if not first:
            first.append(seal)
        if seal.spent and seal.lane_time + expected.horizon_ms >= last.lane_time:
            window.load(seal.spent, seal.lane_time)
            spent.append(SpentSeal(seal.seq, segment.leaves[0].offset, seal.lane_time))

    await log.parse(parser, start, take)
    seal, head = parser.last, parser.head
    if seal is None or head is None or seal.seq != last.seq:
        message = f"the log ends at another seal than at first reading (seq {last.seq})"
        raise IntegrityError(message)
    await log.hold_end(parser)
    recovered = Recovered(
        seal.log_id,
        LaneHead(
            head, seal.next, seal.lane_time, seal.anchor_offset,
            seal.anchor_timestamp, seal.anchor_digest, seal.control_offset,
            seal.context_seq, spent[-1].audit_offset if spent else start,
            tuple(spent),
        ),
        seal.term,
        seal.next,
        refused=refused,
    )  # fmt: skip
    if first[0].seq > last.window_from_seq:
        await hold_replay_window(log, recovered, first[0])
    return recovered
