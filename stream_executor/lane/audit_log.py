"""One audit partition as a new owner reads it: its beginning, its end, the way back.

Genesis is the operator's word for a log. A believed seal ends each transaction; what
stands behind the last one that should not is damage, and ``back_to`` says how the lane
would go on without it.

Not here: what the last seal says of the lane (``lane.recovery``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from stream_executor.audit.chain import ChainHead, leaf_hash
from stream_executor.audit.findings import ChainError
from stream_executor.audit.segments import SegmentParser, believed_seal
from stream_executor.audit.signing import verify_signed
from stream_executor.lane.crosschecks import (
    answered_by_results,
    log_of_results,
    looking_back,
)
from stream_executor.lane.damage import (
    Damage,
    DamagedError,
    WayBack,
    begin_anew,
    ranges_of,
    span,
    still_ahead,
)
from stream_executor.lane.ports import LogReader
from stream_executor.model.audit import Genesis, Seal
from stream_executor.model.control import ResumeOrdered
from stream_executor.model.errors import IntegrityError, MalformedError
from stream_executor.modules.view import ResumeOrder
from stream_executor.wire.avro import CODECS, class_of

if TYPE_CHECKING:
    from stream_executor.audit.segments import Segment
    from stream_executor.lane.suspicion import Standstill
    from stream_executor.model.record import Range

_FIRST_LOOK_BACK = 256
_MOST_SHOWN = 8


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
        now_ms: this host's clock when it looks.
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
    now_ms: int
    resumes: Callable[[bytes], Sequence[ResumeOrder]] = _nothing_ordered
    incarnation: bytes = bytes(16)


class Root(msgspec.Struct, frozen=True):
    """The operator's genesis: where a log without a seal stands."""

    offset: int
    log_id: bytes
    head: ChainHead
    next: int


class AuditLog(msgspec.Struct, frozen=True):
    """One audit partition, as far as it goes, with what was ordered about it.

    Attributes:
        reader, expected: where it is read, and what it must be.
        log_id: which log it is.
        root: its genesis; None if its start is no longer kept.
        orders: what the operator ordered for it.
        begin, end: audit offsets, uncommitted included.
    """

    reader: LogReader
    expected: Expected
    log_id: bytes
    root: Root | None
    orders: Sequence[ResumeOrdered]
    begin: int
    end: int

    @property
    def where(self) -> str:
        """Topic and partition."""
        return f"{self.expected.audit_topic}-{self.expected.partition}"

    def parser(self, head: ChainHead | None) -> SegmentParser:
        """Give a parser for this log alone."""
        return SegmentParser(self.log_id, head, self.expected.believe, self.orders)

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
            raise DamagedError(
                Damage.CHAIN_BROKEN,
                self.where,
                str(error),
                self.expected.partition,
                await self.back_to(parser, self.behind(parser)),
            ) from error

    def behind(self, parser: SegmentParser) -> tuple[Range, ...]:
        """Give everything behind the last good seal, or behind genesis."""
        first = 0 if self.root is None else self.root.offset + 1
        return span(max(parser.unsealed[0], first), self.end)

    async def back_to(
        self, parser: SegmentParser, skipped: tuple[Range, ...]
    ) -> WayBack | None:
        """Go on after the last good seal; what only results remember is lost.

        Before the first seal that is genesis, if it was parsed.
        """
        seal, head, root = parser.last, parser.head, self.root
        if seal is not None and head is not None:
            start = seal.next
        elif root is not None and parser.unsealed[0] <= root.offset:
            head, start = root.head, root.next
        else:
            return None
        ahead = await answered_by_results(
            self.reader, self.expected, self.log_id, head.seq
        )
        next_offset = max(start, ahead)
        refused = self.orders[-1].refused if self.orders else ()
        return WayBack(
            self.log_id, head, next_offset, span(start, next_offset), skipped,
            still_ahead(refused, next_offset),
        )  # fmt: skip

    async def to_last_seal(self, standstill: Standstill) -> SegmentParser:
        """Find the last believed seal by looking back further and further."""
        parser = self.parser(None)
        for start in looking_back(self.begin, self.end, _FIRST_LOOK_BACK):
            whole = start == self.begin and (start == 0 or self.root is not None)
            parser = self.parser(ChainHead() if whole else None)
            await self.parse(parser, start, lambda one: standstill.note(one.leaves))
            if parser.last is not None:
                break
        return parser

    async def hold_end(self, parser: SegmentParser) -> None:
        """Hold what stands behind the last seal, or behind genesis.

        Raises:
            DamagedError: somebody wrote there who should not have.
        """
        partition = self.expected.partition
        if strays := parser.strays():
            raise DamagedError(
                Damage.OTHER_LOG,
                self.where,
                f"the seals at offsets {_few(strays)} name another log: records of "
                "another lane or of an earlier log stand behind this one's",
                partition,
                await self.back_to(parser, self.behind(parser)),
            )
        first = -1 if self.root is None else self.root.offset
        if torn := [offset for offset in parser.torn() if offset != first]:
            raise DamagedError(
                Damage.TORN_TRANSACTION,
                self.where,
                f"the records at offsets {_few(torn)} continue the chain but no seal "
                "ends them: a torn transaction",
                partition,
                await self.back_to(parser, ranges_of(torn)),
            )


async def read_root(
    reader: LogReader, expected: Expected, begin: int, end: int
) -> Root | None:
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
                    remedy="set KAFKA_BOOTSTRAP_SERVERS to the cluster that genesis "
                    "names, or move here for good: with new topics, "
                    + begin_anew(expected.partition, genesis.log_id),
                )
            return Root(
                record.offset, genesis.log_id, ChainHead(1, leaf_hash(value)),
                genesis.start_offset,
            )  # fmt: skip
    return None


async def named_log(
    reader: LogReader, expected: Expected, begin: int, end: int
) -> bytes | None:
    """Give the id that a log without its start goes by; None if no seal is left.

    It is the id that results cite, if a seal here does, too: the first seal may be a
    stray that an order skipped, when its log still began before it.
    """
    cited, first = await log_of_results(reader, expected), None
    async for records in reader.read(
        expected.audit_topic, expected.partition, begin, end
    ):
        for record in records:
            seal = believed_seal(record.value or b"", expected.believe)
            if seal is None or seal.partition != expected.partition:
                continue
            first = first or seal.log_id
            if cited in (None, seal.log_id):
                return seal.log_id
    return first


async def no_genesis(reader: LogReader, expected: Expected, end: int) -> DamagedError:
    """Say which log results name, if any, and how another one is begun after it."""
    topic, partition = expected.results_topic, expected.partition
    named = await log_of_results(reader, expected)
    finding = (
        "has no genesis: `wasm-executor init` never ran, or another cluster answers"
    )
    remedy = (
        "`wasm-executor init` if it never did; else set KAFKA_BOOTSTRAP_SERVERS to the "
        "cluster where it was written"
    )
    if named is not None:
        finding = (
            f"has no genesis, but {topic}-{partition} names log {named.hex()}: the "
            "log was deleted, or another cluster answers"
        )
    elif end:
        named = bytes(16)
        finding = f"ends at {end} and has no genesis: the log was deleted"
    if named is not None:
        remedy = f"bring the audit log back, or {begin_anew(partition, named)}"
    return DamagedError(
        Damage.NO_GENESIS,
        f"{expected.audit_topic}-{partition}",
        finding,
        partition,
        remedy=f"{remedy}, then restart",
    )


def _few(offsets: Sequence[int]) -> str:
    shown = ", ".join(map(str, offsets[:_MOST_SHOWN]))
    more = len(offsets) - _MOST_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
