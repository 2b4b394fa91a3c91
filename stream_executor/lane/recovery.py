"""From the audit log to a lane's head: what a new owner believes, and why.

Memory is never trusted across owners, nor the group's offsets: after the fence the
log is read to its end, and the last believed seal says where the lane stands. Every
doubt halts the lane (IntegrityError) with what was expected and what was found.

Steps, in this order:
 1. the end of the audit partition, uncommitted included: nothing later is ours;
 2. genesis: the operator's word for this log;
 3. the last believed seal, found from the end backwards;
 4. every segment from that seal's window_from: replay window, chain, continuity;
 5. no torn transaction after it;
 6. cross-checks: requests log holds ``next`` and the anchor; results are not ahead.

Source: design decisions 1 and 2 in docs/adr; ``audit.segments`` for what a leaf is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from stream_executor.audit.chain import ChainHead, leaf_hash
from stream_executor.audit.digests import BODY_TAG, Salter, content_digest
from stream_executor.audit.segments import Segment, SegmentParser
from stream_executor.audit.signing import verify_signed
from stream_executor.lane.head import LEAST_HORIZON_MS, LaneHead, SpentSeal
from stream_executor.model.audit import Genesis, Seal
from stream_executor.model.errors import FencedError, IntegrityError, MalformedError
from stream_executor.wire.avro import CODECS, class_of
from stream_executor.wire.results import decode_result

if TYPE_CHECKING:
    from stream_executor.auth.replay import ReplayWindow
    from stream_executor.lane.ports import LogReader

_FIRST_LOOK_BACK = 256
_LOOK_BACK_FACTOR = 8
_CLOCKS_APART_MS = 60_000


class Expected(msgspec.Struct, frozen=True):
    """What the deployment's settings say a log must be.

    Attributes:
        requests_topic, results_topic, audit_topic, partition: the lane.
        cluster_id: Kafka cluster id that the worker is connected to.
        operator_key: raw Ed25519 public key, 32 bytes.
        believe: raises IntegrityError for a seal whose fleet key was not valid.
        secret: the deployment secret, for the anchor's digest.
        horizon_ms: how long a spent jti matters, in lane time.
    """

    requests_topic: str
    results_topic: str
    audit_topic: str
    partition: int
    cluster_id: str
    operator_key: bytes
    believe: Callable[[Seal], None]
    secret: bytes
    horizon_ms: int


class Recovered(msgspec.Struct, frozen=True):
    """What the log says.

    Attributes:
        log_id: of the audit partition.
        head: where the lane stands.
        term: of the last owner; 0 if there was none.
        foreign: audit offsets seen that are no leaves.
    """

    log_id: bytes
    head: LaneHead
    term: int
    foreign: list[int]


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
    genesis = await _read_genesis(reader, expected, begin, end)
    last = await _last_seal(reader, expected, begin, end)
    if last is None:
        if genesis is None:
            message = (
                f"{topic}-{partition} has no genesis: run `wasm-executor init` once; "
                "if this log had one, it was deleted or this is another cluster"
            )
            raise IntegrityError(message)
        value, record = genesis
        recovered = Recovered(
            record.log_id,
            LaneHead(ChainHead(1, leaf_hash(value)), record.start_offset),
            0,
            [],
        )
    else:
        recovered = await _from_window(reader, expected, last, begin, end, window)
        if genesis is not None and genesis[1].log_id != recovered.log_id:
            message = f"{topic}-{partition}: seals name another log than genesis"
            raise IntegrityError(message)
    await _cross_check(reader, expected, recovered)
    return recovered


async def _read_genesis(
    reader: LogReader, expected: Expected, begin: int, end: int
) -> tuple[bytes, Genesis] | None:
    """Give the genesis at the log's start; None if the start is no longer kept."""
    where = f"{expected.audit_topic}-{expected.partition}"
    async for records in reader.read(
        expected.audit_topic, expected.partition, begin, min(end, begin + 16)
    ):
        for record in records:
            value = record.value or b""
            if class_of(value) is not Genesis:
                continue
            try:
                genesis: Genesis = CODECS[Genesis].decode(value)
                verify_signed(value, expected.operator_key)
            except (MalformedError, IntegrityError):
                continue  # not the operator's word: foreign
            ours = (
                genesis.cluster_id == expected.cluster_id
                and genesis.requests_topic == expected.requests_topic
                and genesis.results_topic == expected.results_topic
                and genesis.audit_topic == expected.audit_topic
                and genesis.partition == expected.partition
            )
            if not ours:
                message = (
                    f"{where}: genesis was written for {genesis.requests_topic}-"
                    f"{genesis.partition} on cluster {genesis.cluster_id}, this is "
                    f"{expected.requests_topic}-{expected.partition} on "
                    f"{expected.cluster_id}"
                )
                raise IntegrityError(message)
            return value, genesis
    return None


async def _last_seal(
    reader: LogReader, expected: Expected, begin: int, end: int
) -> Seal | None:
    """Find the last believed seal by looking back further and further."""
    back = _FIRST_LOOK_BACK
    while True:
        start = max(begin, end - back)
        parser = SegmentParser(
            None, ChainHead() if start == begin == 0 else None, expected.believe
        )
        await _parse(reader, expected, parser, start, end, _nothing)
        if parser.last is not None or start == begin:
            return parser.last
        back *= _LOOK_BACK_FACTOR


async def _from_window(
    reader: LogReader,
    expected: Expected,
    last: Seal,
    begin: int,
    end: int,
    window: ReplayWindow,
) -> Recovered:
    """Re-read from the last seal's window_from; rebuild what the seals carry."""
    start = max(begin, last.window_from_offset)
    if expected.horizon_ms > LEAST_HORIZON_MS:
        # The last owner may have worked with a shorter horizon: go by time instead.
        since = last.lane_time - expected.horizon_ms - _CLOCKS_APART_MS
        by_time = await reader.offset_for_time(
            expected.audit_topic, expected.partition, since
        )
        start = start if by_time is None else max(begin, min(start, by_time))
    parser = SegmentParser(last.log_id, None, expected.believe)
    spent: list[SpentSeal] = []
    foreign: list[int] = []
    first_seq: list[int] = []

    def take(segment: Segment) -> None:
        seal = segment.seal
        first_seq.append(seal.seq)
        foreign.extend(segment.foreign if len(first_seq) > 1 else ())
        if seal.spent and seal.lane_time + expected.horizon_ms >= last.lane_time:
            window.load(seal.spent, seal.lane_time)
            spent.append(SpentSeal(seal.seq, segment.leaves[0].offset, seal.lane_time))

    await _parse(reader, expected, parser, start, end, take)
    seal, head = parser.last, parser.head
    if seal is None or head is None or seal.seq != last.seq:
        message = f"the log ends at another seal than at first reading (seq {last.seq})"
        raise IntegrityError(message)
    if first_seq[0] > last.window_from_seq and start > begin:
        message = (
            f"seal {last.seq} needs the log from seq {last.window_from_seq}, "
            f"the first one found is {first_seq[0]}"
        )
        raise IntegrityError(message)
    if torn := parser.torn():
        message = (
            f"{expected.audit_topic}-{expected.partition}: the records at offsets "
            f"{torn} continue the chain but no seal ends them: a torn transaction"
        )
        raise IntegrityError(message)
    return Recovered(
        seal.log_id,
        LaneHead(
            head, seal.next, seal.lane_time, seal.anchor_offset,
            seal.anchor_timestamp, seal.anchor_digest, seal.control_offset,
            seal.context_seq, spent[-1].audit_offset if spent else start,
            tuple(spent),
        ),
        seal.term,
        foreign,
    )  # fmt: skip


async def _cross_check(
    reader: LogReader, expected: Expected, recovered: Recovered
) -> None:
    """Hold the head against the requests and results partitions."""
    head, partition = recovered.head, expected.partition
    requests = f"{expected.requests_topic}-{partition}"
    begin = await reader.begin_offset(expected.requests_topic, partition)
    end = await reader.end_offset(expected.requests_topic, partition)
    if head.next < begin:
        message = (
            f"{requests} begins at {begin}, {head.next} is the next to answer: "
            "retention removed requests that were never answered"
        )
        raise IntegrityError(message)
    if head.next > end:
        message = (
            f"{requests} ends at {end}, but {head.next} is the next to answer: "
            "the topic was truncated or made anew"
        )
        raise IntegrityError(message)
    if begin <= head.anchor_offset:
        await _check_anchor(reader, expected, recovered)
    end = await reader.end_offset(expected.results_topic, partition)
    begin = await reader.begin_offset(expected.results_topic, partition)
    ahead = -1
    async for records in reader.read(
        expected.results_topic, partition, max(begin, end - 8), end
    ):
        for record in records:
            try:
                result = decode_result(record.value or b"")
            except MalformedError:
                continue
            if (result.log_id, result.partition) == (recovered.log_id, partition):
                ahead = max(ahead, result.offset + result.count)
    if ahead > head.next:
        message = (
            f"{expected.results_topic}-{partition} answers up to {ahead}, the audit "
            f"log only up to {head.next}: the audit log lost its tail"
        )
        raise IntegrityError(message)


async def _check_anchor(
    reader: LogReader, expected: Expected, recovered: Recovered
) -> None:
    head, partition = recovered.head, expected.partition
    async for records in reader.read(
        expected.requests_topic,
        partition,
        head.anchor_offset,
        head.anchor_offset + 1,
    ):
        for record in records:
            salt = Salter(expected.secret, recovered.log_id).salt(record.offset)
            digest = content_digest(BODY_TAG, salt, record.value or b"")
            found = (record.offset, record.timestamp, digest)
            if found == (
                head.anchor_offset,
                head.anchor_timestamp,
                head.anchor_digest,
            ):
                return
    message = (
        f"{expected.requests_topic}-{partition} no longer holds the record that was "
        f"answered at offset {head.anchor_offset}: the topic was made anew, another "
        "cluster answers at this address, or the deployment secret changed"
    )
    raise IntegrityError(message)


async def _parse(
    reader: LogReader,
    expected: Expected,
    parser: SegmentParser,
    start: int,
    end: int,
    take: Callable[[Segment], None],
) -> None:
    async for records in reader.read(
        expected.audit_topic, expected.partition, start, end
    ):
        for record in records:
            segment = parser.feed(record.offset, record.value)
            if segment is not None:
                take(segment)


def _nothing(_: Segment) -> None:
    """Only the parser's last seal is wanted."""
