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
 5. no torn transaction after it;
 6. the operator's order for this head, if there is one;
 7. cross-checks: requests log holds ``next`` and the anchor; results are not ahead.

Source: design decisions 1 and 2 in docs/adr; ``audit.segments`` for what a leaf is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from stream_executor.audit.chain import ChainHead, leaf_hash
from stream_executor.audit.findings import ChainError
from stream_executor.audit.segments import Segment, SegmentParser
from stream_executor.audit.signing import verify_signed
from stream_executor.lane.crosschecks import answered_by_results, cross_check
from stream_executor.lane.damage import Damage, DamagedError, WayBack, ranges_of, span
from stream_executor.lane.head import LEAST_HORIZON_MS, LaneHead, SpentSeal
from stream_executor.lane.ports import LogReader
from stream_executor.lane.suspicion import Standstill, Suspicion
from stream_executor.model.audit import ZERO32, Genesis, Seal
from stream_executor.model.control import ResumeOrdered
from stream_executor.model.errors import FencedError, IntegrityError, MalformedError
from stream_executor.model.record import Range
from stream_executor.modules.view import ResumeOrder
from stream_executor.wire.avro import CODECS, class_of

if TYPE_CHECKING:
    from stream_executor.auth.replay import ReplayWindow

_FIRST_LOOK_BACK = 256
_LOOK_BACK_FACTOR = 8
_CLOCKS_APART_MS = 60_000


def _nothing_ordered(_: bytes) -> Sequence[ResumeOrder]:
    return ()


class Expected(msgspec.Struct, frozen=True):
    """What the deployment's settings say a log must be.

    Attributes:
        requests_topic, results_topic, audit_topic, partition: the lane.
        cluster_id: Kafka cluster id that the worker is connected to.
        operator_key: raw Ed25519 public key, 32 bytes.
        believe: raises IntegrityError for a seal whose fleet key was not valid.
        secret: the deployment secret, for the anchor's digest; empty where it is
            not known: then the anchor's time alone is compared.
        horizon_ms: how long a spent jti matters, in lane time.
        resumes: gives what the operator ordered for a log, by its id.
        incarnation: of the process that recovers.
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
    resumes: Callable[[bytes], Sequence[ResumeOrder]] = _nothing_ordered
    incarnation: bytes = bytes(16)


class Recovered(msgspec.Struct, frozen=True):
    """What the log says.

    Attributes:
        log_id: of the audit partition.
        head: where the lane stands.
        term: of the last owner; 0 if there was none.
        foreign: audit offsets seen that are no leaves.
        sealed_next: where the last seal left off; an order moves ``head.next`` only.
        resume: the order for this head, to be written as a leaf.
        refused: requests offsets that were ordered to be refused.
        suspicion: what must be tried alone.
    """

    log_id: bytes
    head: LaneHead
    term: int
    foreign: list[int]
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
    genesis = await _read_genesis(reader, expected, begin, end)
    log_id = (
        await _named_log(reader, expected, begin, end)
        if genesis is None
        else genesis[1].log_id
    )
    resumes = () if log_id is None else expected.resumes(log_id)
    log = _Log(reader, expected, [one.order for one in resumes], begin, end)
    standstill = Standstill()
    last = await _last_seal(log, standstill)
    if last is None:
        if genesis is None:
            raise DamagedError(
                Damage.NO_GENESIS,
                log.where,
                "has no genesis: either nobody ran `wasm-executor init` yet, or this "
                "log was deleted, or another cluster answers",
                partition,
            )
        value, record = genesis
        start = record.start_offset
        recovered = Recovered(
            record.log_id,
            LaneHead(ChainHead(1, leaf_hash(value)), start),
            0,
            [],
            start,
        )
    else:
        recovered = await _from_window(log, last, window)
        if genesis is not None and genesis[1].log_id != recovered.log_id:
            raise DamagedError(
                Damage.OTHER_LOG,
                log.where,
                "seals name another log than genesis",
                partition,
            )
    recovered = _ordered(recovered, resumes)
    await cross_check(reader, expected, recovered)
    requests_end = await reader.end_offset(expected.requests_topic, partition)
    suspicion = standstill.suspicion(
        recovered.head.next, requests_end, expected.incarnation
    )
    return msgspec.structs.replace(recovered, suspicion=suspicion)


def _ordered(recovered: Recovered, resumes: Sequence[ResumeOrder]) -> Recovered:
    """Let the newest order for exactly this head move the lane."""
    head = recovered.head
    refused = tuple(r for one in resumes for r in one.order.refused)
    recovered = msgspec.structs.replace(recovered, refused=refused)
    for one in reversed(resumes):
        order = one.order
        if (order.head_seq, order.head) == (head.chain.seq - 1, head.chain.hash):
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


async def _named_log(
    reader: LogReader, expected: Expected, begin: int, end: int
) -> bytes | None:
    """Give the id that the first believed seal names; for a log without its start."""
    parser = SegmentParser(None, None, expected.believe)
    async for records in reader.read(
        expected.audit_topic, expected.partition, begin, end
    ):
        for record in records:
            segment = parser.feed(record.offset, record.value)
            if segment is not None:
                return segment.seal.log_id
    return None


class _Log(msgspec.Struct, frozen=True):
    """One audit partition, as far as it goes, with what was ordered about it."""

    reader: LogReader
    expected: Expected
    orders: Sequence[ResumeOrdered]
    begin: int
    end: int

    @property
    def where(self) -> str:
        return f"{self.expected.audit_topic}-{self.expected.partition}"

    def parser(self, log_id: bytes | None, head: ChainHead | None) -> SegmentParser:
        return SegmentParser(log_id, head, self.expected.believe, self.orders)

    async def parse(
        self, parser: SegmentParser, start: int, take: Callable[[Segment], None]
    ) -> None:
        """Feed [start, end); a chain that breaks comes with its way back."""
        try:
            async for records in self.reader.read(
                self.expected.audit_topic, self.expected.partition, start, self.end
            ):
                for record in records:
                    segment = parser.feed(record.offset, record.value)
                    if segment is not None:
                        take(segment)
        except ChainError as error:
            skipped = span(parser.unsealed[0], self.end)
            back = await self.back_to(parser, skipped)
            raise DamagedError(
                Damage.CHAIN_BROKEN,
                self.where,
                str(error),
                self.expected.partition,
                back,
            ) from error

    async def back_to(
        self, parser: SegmentParser, skipped: tuple[Range, ...]
    ) -> WayBack | None:
        """Go on after the last good seal; what only results remember is lost."""
        seal, head = parser.last, parser.head
        if seal is None or head is None:
            return None
        ahead = await answered_by_results(
            self.reader, self.expected, seal.log_id, head.seq
        )
        next_offset = max(seal.next, ahead)
        lost = span(seal.next, next_offset)
        return WayBack(seal.log_id, head, next_offset, lost, skipped)


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
                raise DamagedError(
                    Damage.OTHER_CLUSTER,
                    where,
                    f"genesis was written for {genesis.requests_topic}-"
                    f"{genesis.partition} on cluster {genesis.cluster_id}, this is "
                    f"{expected.requests_topic}-{expected.partition} on "
                    f"{expected.cluster_id}",
                    expected.partition,
                )
            return value, genesis
    return None


async def _last_seal(log: _Log, standstill: Standstill) -> Seal | None:
    """Find the last believed seal by looking back further and further."""
    back = _FIRST_LOOK_BACK
    while True:
        start = max(log.begin, log.end - back)
        parser = log.parser(None, ChainHead() if start == log.begin == 0 else None)
        await log.parse(parser, start, lambda one: standstill.note(one.leaves))
        if parser.last is not None or start == log.begin:
            return parser.last
        back *= _LOOK_BACK_FACTOR


async def _from_window(log: _Log, last: Seal, window: ReplayWindow) -> Recovered:
    """Re-read from the last seal's window_from; rebuild what the seals carry."""
    expected, begin = log.expected, log.begin
    start = max(begin, last.window_from_offset)
    if expected.horizon_ms > LEAST_HORIZON_MS:
        # The last owner may have worked with a shorter horizon: go by time instead.
        since = last.lane_time - expected.horizon_ms - _CLOCKS_APART_MS
        by_time = await log.reader.offset_for_time(
            expected.audit_topic, expected.partition, since
        )
        start = start if by_time is None else max(begin, min(start, by_time))
    parser = log.parser(last.log_id, None)
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

    await log.parse(parser, start, take)
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
        raise DamagedError(
            Damage.TORN_TRANSACTION,
            log.where,
            f"the records at offsets {torn} continue the chain but no seal ends them: "
            "a torn transaction",
            expected.partition,
            await log.back_to(parser, ranges_of(torn)),
        )
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
        seal.next,
    )  # fmt: skip
