"""Does a recovered head fit the requests and the results beside its log?

Requests must reach as far as the head and hold the anchored record still; results must
not cite events that the log lost. What does not fit is damage, with its way back.

Not here: reading the log itself (``lane.recovery``, whose step 7 this is).
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from stream_executor.audit.digests import BODY_TAG, Salter, content_digest
from stream_executor.lane.damage import Damage, DamagedError, WayBack, span
from stream_executor.model.audit import RequestExecuted, RequestRefused
from stream_executor.model.errors import MalformedError
from stream_executor.wire.avro import class_of, decode
from stream_executor.wire.results import decode_result

if TYPE_CHECKING:
    from stream_executor.audit.segments import Segment
    from stream_executor.lane.audit_log import AuditLog, Expected
    from stream_executor.lane.ports import LogReader
    from stream_executor.lane.recovery import Recovered
    from stream_executor.model.record import Range
    from stream_executor.model.result import ExecutionResult

_LAST_RESULTS = 8


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
            _way_back(recovered, await _first_other(log, recovered, begin)),
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
            _way_back(recovered, max(ahead, begin), span(head.next, max(ahead, begin))),
        )
    if head.next < begin:
        raise DamagedError(
            Damage.REQUESTS_REMOVED,
            requests,
            f"begins at {begin}, {head.next} is the next to answer: "
            "requests were removed before they were answered",
            partition,
            _way_back(recovered, begin, span(head.next, begin)),
        )


def _way_back(
    recovered: Recovered, next_offset: int, lost: tuple[Range, ...] = ()
) -> WayBack:
    """Go on from this head elsewhere; an order that is not written yet is kept."""
    before = () if recovered.resume is None else tuple(recovered.resume.order.lost)
    return WayBack(
        recovered.log_id, recovered.head.chain, next_offset, (*before, *lost)
    )


async def answered_by_results(
    reader: LogReader, expected: Expected, log_id: bytes, from_seq: int
) -> int:
    """Give up to where results cite events that the audit log does not hold; or -1."""
    return max(
        (
            result.offset + result.count
            for result in await _last_results(reader, expected)
            if result.log_id == log_id and result.seq >= from_seq
        ),
        default=-1,
    )


async def log_of_results(reader: LogReader, expected: Expected) -> bytes | None:
    """Give the log that the last result names; None if there is no result."""
    results = await _last_results(reader, expected)
    return results[-1].log_id if results else None


async def _last_results(reader: LogReader, expected: Expected) -> list[ExecutionResult]:
    topic, partition = expected.results_topic, expected.partition
    end = await reader.end_offset(topic, partition)
    begin = await reader.begin_offset(topic, partition)
    found = []
    async for records in reader.read(
        topic, partition, max(begin, end - _LAST_RESULTS), end
    ):
        for record in records:
            with suppress(MalformedError):
                found.append(decode_result(record.value or b""))
    return [result for result in found if result.partition == partition]


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
    way_back = None
    if damage is Damage.REQUESTS_REPLACED:
        way_back = _way_back(recovered, await _first_other(log, recovered, begin))
    raise DamagedError(
        damage,
        f"{expected.requests_topic}-{partition}",
        finding,
        partition,
        way_back,
        remedy="set the deployment secret back to what `wasm-executor init` made",
    )
