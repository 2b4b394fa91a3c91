"""Does a recovered head fit what stands beside its log?

Requests must reach as far as the head and hold the anchored record still; results must
not cite events that the log lost; the control topic must hold what was applied; and no
spent token may be forgotten that could run again. What does not fit is damage, with its
way back.

Not here: reading the log itself (``lane.recovery``, whose step 7 this is).
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from stream_executor.audit.digests import BODY_TAG, Salter, content_digest
from stream_executor.audit.project import utc
from stream_executor.lane.damage import (
    Damage,
    DamagedError,
    WayBack,
    resume_with,
    span,
    still_ahead,
    within,
)
from stream_executor.lane.head import CLOCKS_APART_MS
from stream_executor.model.audit import RequestExecuted, RequestRefused
from stream_executor.model.errors import MalformedError
from stream_executor.wire.avro import class_of, decode
from stream_executor.wire.results import decode_result

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stream_executor.audit.segments import Segment
    from stream_executor.lane.audit_log import AuditLog, Expected
    from stream_executor.lane.ports import LogReader
    from stream_executor.lane.recovery import Recovered
    from stream_executor.model.audit import Seal
    from stream_executor.model.record import Range

_FIRST_RESULTS = 8  # a result may be as large as a record
_LOOK_BACK_FACTOR = 8


class _Cited(msgspec.Struct, frozen=True, gc=False):
    """The event that a result cites, and the first requests offset behind it."""

    log_id: bytes
    seq: int
    end: int


async def cross_check(log: AuditLog, recovered: Recovered) -> None:
    """Hold the head against the requests and results partitions.

    Raises:
        DamagedError: they do not fit together.
    """
    reader, expected = log.reader, log.expected
    head, partition = recovered.head, expected.partition
    requests = f"{expected.requests_topic}-{partition}"
    begin = await reader.begin_offset(expected.requests_topic, partition)
    end = await reader.end_offset(expected.requests_topic, partition)
    if head.next > end:
        raise DamagedError(
            Damage.REQUESTS_REPLACED,
            requests,
            f"ends at {end}, but {head.next} is the next to answer: "
            "the topic was truncated or made anew",
            partition,
            way_back(recovered, await _first_other(log, recovered, begin), anew=True),
        )
    if begin <= head.anchor_offset:
        await _check_anchor(log, recovered, begin)
    ahead = await answered_by_results(
        reader, expected, recovered.log_id, head.chain.seq
    )
    if ahead > head.next:
        raise DamagedError(
            Damage.AUDIT_TAIL_LOST,
            f"{expected.results_topic}-{partition}",
            f"answers up to {ahead}, the audit log only up to {head.next}: "
            "the audit log lost its tail",
            partition,
            way_back(recovered, max(ahead, begin), span(head.next, max(ahead, begin))),
        )
    if head.next < begin:
        raise DamagedError(
            Damage.REQUESTS_REMOVED,
            requests,
            f"begins at {begin}, {head.next} is the next to answer: "
            "requests were removed before they were answered",
            partition,
            way_back(recovered, begin, span(head.next, begin)),
        )


def hold_control(recovered: Recovered, partition: int, control_offset: int) -> None:
    """Hold the head against how far the control topic goes.

    Raises:
        DamagedError: decisions rested on what is no longer there.
    """
    if control_offset < recovered.head.control_offset:
        raise DamagedError(
            Damage.CONTROL_TAIL_LOST,
            "the control topic",
            f"ends at {control_offset}, the last seal had applied it up to "
            f"{recovered.head.control_offset}",
            partition,
            remedy="bring the control topic back as it was written",
        )


async def hold_replay_window(log: AuditLog, recovered: Recovered, first: Seal) -> None:
    """Hold a log whose beginning was removed: are all spent tokens known that matter?

    Those of the removed leaves could run again in requests that were appended within
    the horizon of the first leaves that are kept.

    Args:
        log: the audit partition.
        recovered: what it says, orders not applied.
        first: its first seal, younger than the one that the last seal needs.

    Raises:
        DamagedError: such requests wait, or may come still.
    """
    expected, head = log.expected, recovered.head
    topic, partition = expected.requests_topic, expected.partition
    over_ms = first.lane_time + expected.horizon_ms
    found = await log.reader.offset_for_time(topic, partition, over_ms)
    safe = await log.reader.end_offset(topic, partition) if found is None else found
    over = found is not None or expected.now_ms > over_ms + CLOCKS_APART_MS
    unsafe = range(head.next, safe)
    if over and all(within(recovered.refused, offset) for offset in unsafe):
        return
    refused = (*span(head.next, safe), *still_ahead(recovered.refused, safe))
    raise DamagedError(
        Damage.REPLAY_WINDOW_LOST,
        log.where,
        f"begins at {log.begin}: leaves were removed whose tokens could run again in "
        f"requests from before {utc(over_ms)}",
        partition,
        WayBack(recovered.log_id, head.chain, head.next, refused=refused)
        if over
        else None,
        remedy=f"wait until {utc(over_ms + CLOCKS_APART_MS)}, then "
        + resume_with(partition),
    )


def way_back(
    recovered: Recovered,
    next_offset: int,
    lost: tuple[Range, ...] = (),
    *,
    anew: bool = False,
) -> WayBack:
    """Go on from this head elsewhere; an order that is not written yet is kept.

    So is what was ordered to be refused, unless the requests are others now.
    """
    before = () if recovered.resume is None else tuple(recovered.resume.order.lost)
    refused = () if anew else still_ahead(recovered.refused, next_offset)
    return WayBack(
        recovered.log_id,
        recovered.head.chain,
        next_offset,
        (*before, *lost),
        refused=refused,
    )


async def answered_by_results(
    reader: LogReader, expected: Expected, log_id: bytes, from_seq: int
) -> int:
    """Give up to where results cite events that the audit log does not hold; or -1."""
    return max(
        (
            cited.end
            for cited in await _last_cited(reader, expected)
            if cited.log_id == log_id and cited.seq >= from_seq
        ),
        default=-1,
    )


async def log_of_results(reader: LogReader, expected: Expected) -> bytes | None:
    """Give the log that the last result names; None if there is no result."""
    cited = await _last_cited(reader, expected)
    return cited[-1].log_id if cited else None


async def _last_cited(reader: LogReader, expected: Expected) -> list[_Cited]:
    """Give what this partition's last committed results cite; one if there is any.

    However many offsets lie behind it: an aborted transaction may end the log.
    """
    topic, partition = expected.results_topic, expected.partition
    end = await reader.end_offset(topic, partition)
    begin = await reader.begin_offset(topic, partition)
    found: list[_Cited] = []
    for start in looking_back(begin, end, _FIRST_RESULTS):
        async for records in reader.read(topic, partition, start, end):
            for record in records:
                with suppress(MalformedError):
                    result = decode_result(record.value or b"")
                    if result.partition == partition:
                        past = result.offset + result.count
                        found.append(_Cited(result.log_id, result.seq, past))
        if found:
            break
    return found


def looking_back(begin: int, end: int, back: int) -> Iterator[int]:
    """Give offsets to read from, further and further before the end; begin is last."""
    while end - back > begin:
        yield end - back
        back *= _LOOK_BACK_FACTOR
    yield begin


async def _first_other(log: AuditLog, recovered: Recovered, begin: int) -> int:
    """Give the first requests offset that does not hold what was answered there.

    A topic that was truncated still holds the requests before; one that was made anew
    holds none of them. The replay window's events tell; what is older is not read, so
    a topic that kept only older ones counts as made anew.
    """
    expected, head = log.expected, recovered.head
    topic, partition = expected.requests_topic, expected.partition
    answered: dict[int, tuple[int, bytes | None]] = {}

    def take(segment: Segment) -> None:
        for leaf in segment.leaves:
            if class_of(leaf.value) in {RequestExecuted, RequestRefused}:
                event: Any = decode(leaf.value)
                answered[event.offset] = (event.timestamp, event.body_digest)

    if head.spent_seals:
        start = head.spent_seals[0].audit_offset
        await log.parse(log.parser(None), start, take)
    salter = Salter(expected.secret, recovered.log_id) if expected.secret else None
    end = min(head.next, await log.reader.end_offset(topic, partition))
    start, same = max(begin, min(answered, default=end)), False
    async for records in log.reader.read(topic, partition, start, end):
        for record in records:
            said = answered.get(record.offset)
            if said is None:
                continue  # one of many that share a refusal
            timestamp, digest = said
            found = digest
            if salter is not None and digest is not None:
                salt = salter.salt(record.offset)
                found = content_digest(BODY_TAG, salt, record.value or b"")
            if (record.timestamp, found) != (timestamp, digest):
                return record.offset if same else begin
            same = True
    return end if same else begin


async def _check_anchor(log: AuditLog, recovered: Recovered, begin: int) -> None:
    reader, expected = log.reader, log.expected
    head, partition = recovered.head, expected.partition
    at, wanted = head.anchor_offset, head.anchor_timestamp
    damage = Damage.REQUESTS_REPLACED
    finding = (
        f"offset {at} is not the record that was answered there: the topic was made "
        "anew, or another cluster answers at this address"
    )
    async for records in reader.read(expected.requests_topic, partition, at, at + 1):
        for record in records:
            if (record.offset, record.timestamp) != (at, wanted):
                continue
            if not expected.secret:
                return
            salt = Salter(expected.secret, recovered.log_id).salt(at)
            digest = content_digest(BODY_TAG, salt, record.value or b"")
            if digest == head.anchor_digest:
                return
            damage = Damage.SECRET_CHANGED
            finding = (
                f"offset {at} holds another body than was answered, appended at the "
                "same moment: the deployment secret changed"
            )
    back = None
    if damage is Damage.REQUESTS_REPLACED:
        other = await _first_other(log, recovered, begin)
        back = way_back(recovered, other, anew=True)
    raise DamagedError(
        damage,
        f"{expected.requests_topic}-{partition}",
        finding,
        partition,
        back,
        remedy="set the deployment secret back to what `wasm-executor init` made",
    )
