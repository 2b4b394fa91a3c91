"""Synthetic audit logs with real keys, honest or lying, for tests.

A ``LogBuilder`` writes what an honest lane writes; every leaf and seal field can be
overridden, so a test tells one lie and nothing else. ``records`` are what the audit
topic then holds: tests flip, drop, swap and splice them as they like.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stream_executor.audit.chain import ChainHead
from stream_executor.audit.coverage import count_of
from stream_executor.audit.digests import BODY_TAG, Salter, content_digest
from stream_executor.audit.signing import certify, public_bytes, signed
from stream_executor.audit.verify import PartitionVerifier, Place
from stream_executor.model.audit import (
    ZERO32,
    AttemptStarted,
    Context,
    Genesis,
    LaneAcquired,
    LaneReleased,
    Principal,
    RequestExecuted,
    RequestRefused,
    Resumed,
    SchemaDigest,
    Seal,
)
from stream_executor.model.control import KeyPurpose
from stream_executor.model.errors import IntegrityError
from stream_executor.model.job import Limits
from stream_executor.model.record import PlainRecord, Range, Record
from stream_executor.model.request import ModuleName
from stream_executor.model.result import ExecutionResult
from stream_executor.modules.orders import Orders
from stream_executor.modules.view import Applied, ControlView
from stream_executor.wire.avro import encode
from stream_executor.wire.results import encode_json

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from stream_executor.audit.in_force import ControlHistory
    from stream_executor.audit.report import PartitionReport

LIMITS = Limits(5_000_000, 64 << 20, 5_000)
BASE_MS = 1_750_000_000_000
_ADD = ModuleName("add", "1")


SECRET = sha256(b"deployment secret").digest()


def body_of(offset: int) -> bytes:
    """Give the request's value at an offset."""
    return b"body %d" % offset


def key_of(name: str) -> Ed25519PrivateKey:
    """Give the same key for the same name, always."""
    return Ed25519PrivateKey.from_private_bytes(sha256(name.encode()).digest())


OPERATOR = key_of("operator")
FLEET = key_of("fleet")
OTHER_FLEET = key_of("another fleet")
NOTARY = key_of("notary")
ADMINISTRATOR = key_of("administrator")
OPERATOR_PUBLIC = public_bytes(OPERATOR)


class Control:
    """A control topic, its view, and who may say what."""

    def __init__(self) -> None:
        self.view = ControlView(OPERATOR_PUBLIC)
        self.values: list[bytes] = []
        self.add(self.operator.genesis("test", "cluster-1", "wasm/cluster-1"))
        for purpose, key, name in (
            (KeyPurpose.FLEET, FLEET, "fleet"),
            (KeyPurpose.NOTARY, NOTARY, "notary"),
            (KeyPurpose.ADMINISTRATOR, ADMINISTRATOR, "first"),
        ):
            self.add(self.operator.enrol(purpose, public_bytes(key), name))

    @property
    def operator(self) -> Orders:
        return Orders(self.view, OPERATOR, BASE_MS)

    @property
    def administrator(self) -> Orders:
        return Orders(self.view, ADMINISTRATOR, BASE_MS)

    def add(self, value: bytes) -> None:
        """Append a record that must be accepted."""
        assert isinstance(self.append(value), Applied)

    def append(self, value: bytes) -> object:
        """Append whatever record; give the view's verdict."""
        self.values.append(value)
        return self.view.apply(len(self.values) - 1, BASE_MS, value)


def principal(jti: str) -> Principal:
    """Give a verified Agent."""
    return Principal(
        "https://issuer", "agent-7", "Agent", "k1", "thumbprint", sha256(b"t").digest(),
        sha256(jti.encode()).digest()[:16], 1_750_000_000, 1_750_000_120,
    )  # fmt: skip


@dataclass
class LogBuilder:
    """Writes one audit partition, transaction by transaction."""

    control: Control = field(default_factory=Control)
    partition: int = 0
    name: str = "log"
    fleet: Ed25519PrivateKey = FLEET
    start_offset: int = 0
    records: list[bytes] = field(default_factory=list)
    chain: ChainHead = field(default_factory=ChainHead)
    next: int = 0
    term: int = 0
    context_seq: int = 0
    lane_time: int = 0
    anchor: tuple[int, int, bytes] = (-1, 0, ZERO32)
    events: list[RequestExecuted | RequestRefused] = field(default_factory=list)
    results: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.log_id = sha256(self.name.encode()).digest()[:16]
        self.salter = Salter(SECRET, self.log_id)
        self.next = self.start_offset
        self.process = key_of(f"{self.name} process")
        self.control_offset = self.control.view.next_offset
        self.leaf(
            signed(
                Genesis(
                    0, ZERO32, self.log_id, "cluster-1", "wasm.requests",
                    "wasm.results", "wasm.audit", "wasm.modules", "wasm.control",
                    "wasm.checkpoints", self.partition, 4, self.start_offset,
                    OPERATOR_PUBLIC, public_bytes(NOTARY), None, BASE_MS,
                ),
                OPERATOR,
            )
        )  # fmt: skip

    # Leaves.

    def leaf(self, value: bytes) -> bytes:
        """Append a leaf."""
        self.records.append(value)
        self.chain = self.chain.extended(value)
        return value

    def say(self, leaf: msgspec.Struct) -> int:
        """Append an unsigned leaf, its seq and prev set here; give its seq."""
        seq = self.chain.seq
        placed = msgspec.structs.replace(leaf, seq=seq, prev=self.chain.hash)
        self.leaf(encode(placed))
        return seq

    def acquire(self, **lie: Any) -> None:
        """Begin a term in a transaction of its own."""
        self.open_transaction()
        self.acquire_leaf(**lie)
        self.seal()

    def acquire_leaf(self, **lie: Any) -> None:
        self.term += 1
        self.control_offset = self.control.view.next_offset
        certificate = certify(public_bytes(self.process), self.fleet, BASE_MS)
        acquired = LaneAcquired(
            0, b"", self.term, self.lane_time, self.next, 64,
            certificate.process_key, certificate.fleet_key, certificate.certified_ms,
            certificate.certificate, bytes(16), "host-0", "group", "0.1.0", "engine",
            ZERO32, LIMITS, ["seccomp"], [SchemaDigest("Seal.v1", ZERO32)],
            self.control_offset, self.control.view.head_at(self.control_offset),
            ZERO32, ZERO32,
        )  # fmt: skip
        self.context_seq = self.say(msgspec.structs.replace(acquired, **lie))

    def context(self, **lie: Any) -> None:
        self.control_offset = self.control.view.next_offset
        leaf = Context(
            0, b"", self.term, self.control_offset,
            self.control.view.head_at(self.control_offset), ZERO32, ZERO32,
        )  # fmt: skip
        self.context_seq = self.say(msgspec.structs.replace(leaf, **lie))

    def release(self) -> None:
        """End the term in a transaction of its own."""
        self.open_transaction()
        self.say(LaneReleased(0, b"", self.term, self.next, "drain"))
        self.seal()

    def attempt(self) -> None:
        """Announce one attempt in a transaction of its own."""
        self.open_transaction()
        self.attempt_leaf()
        self.seal()

    def attempt_leaf(self) -> None:
        self.say(AttemptStarted(0, b"", self.term, self.next, 1))

    def resume(self, value: bytes, next_offset: int) -> None:
        """Go on by an order, in a transaction of its own."""
        self.open_transaction()
        self.say(Resumed(0, b"", self.term, value))
        self.next = self.first = next_offset
        self.seal()

    def executed(self, **lie: Any) -> None:
        """Answer the next offset: it ran."""
        offset, timestamp = self.next, self._tick()
        result = self._result(offset, 1, lie.get("code"))
        event = RequestExecuted(
            0, b"", offset, timestamp, self.lane_time, timestamp + 5, f"r-{offset}",
            principal(f"{self.name}-{offset}"), sha256(b"wasm").digest(), "add@1", 0,
            "add", LIMITS, self.context_seq, "SUCCEEDED", None, None, None, 42, True,
            65536, 120, self._body_digest(offset), ZERO32, ZERO32,
            sha256(result).digest(),
        )  # fmt: skip
        self._answer(event, 1, result, lie)

    def failed(self, code: str = "fuel_exhausted", **lie: Any) -> None:
        """Answer the next offset: it ran and failed."""
        self.executed(status="FAILED", code=code, **lie)

    def refused(self, code: str = "auth_missing", count: int = 1, **lie: Any) -> None:
        """Answer the next offsets: refused, without any valid token."""
        offset, timestamp = self.next, self._tick()
        self.lane_time = timestamp + 2 * (count - 1)
        result = self._result(offset, count, code)
        event = RequestRefused(
            0, b"", offset, count, timestamp, self.lane_time, timestamp + 5, None,
            None, "REJECTED", code, False, self.context_seq,
            self._body_digest(offset) if count == 1 else None,
            sha256(result).digest(),
        )  # fmt: skip
        self._answer(event, count, result, lie)

    def gap(self, count: int) -> None:
        """Attest that the next offsets hold no record."""
        self.gaps.append(Range(self.next, self.next + count))
        self.next += count

    def skip(self, count: int = 1) -> None:
        """Leave the next offsets unanswered: the lie."""
        self.next += count

    def _result(self, offset: int, count: int, code: str | None) -> bytes:
        return encode_json(
            ExecutionResult(
                "wasm.requests", self.partition, offset, count, None,
                "SUCCEEDED" if code is None else "FAILED", code, "", None, None, b"",
                b"", False, False, None, 0, True, 0, 0, None, None,
                self.salter.salt(offset) if count == 1 else None, self.log_id,
                self.chain.seq,
            )
        )  # fmt: skip

    def _body_digest(self, offset: int) -> bytes:
        return content_digest(BODY_TAG, self.salter.salt(offset), body_of(offset))

    def _tick(self) -> int:
        timestamp = BASE_MS + 10 * self.next
        self.lane_time = max(self.lane_time, timestamp)
        return timestamp

    def _answer(
        self,
        event: RequestExecuted | RequestRefused,
        count: int,
        result: bytes,
        lie: dict[str, Any],
    ) -> None:
        event = msgspec.structs.replace(
            event, seq=self.chain.seq, prev=self.chain.hash, **lie
        )
        self.leaf(encode(event))
        self.next = event.offset + count
        self.sealing.append(event)
        self.events.append(event)
        self.results.append(result)
        last = event.offset + count - 1
        self.anchor = (
            last,
            event.timestamp,
            event.body_digest or sha256(b"last").digest(),
        )

    # Transactions.

    def open_transaction(self) -> None:
        self.first = self.next
        self.gaps: list[Range] = []
        self.sealing: list[RequestExecuted | RequestRefused] = []

    def transaction(self, executed: int = 3, **lie: Any) -> None:
        """Answer some requests in one transaction."""
        self.open_transaction()
        for _ in range(executed):
            self.executed()
        self.seal(**lie)

    def seal(
        self,
        *,
        process: Ed25519PrivateKey | None = None,
        fleet: Ed25519PrivateKey | None = None,
        **lie: Any,
    ) -> bytes:
        """End the transaction."""
        process = process or self.process
        certificate = certify(public_bytes(process), fleet or self.fleet, BASE_MS)
        counts = dict.fromkeys(
            ("SUCCEEDED", "FAILED", "REJECTED", "EXPIRED", "QUARANTINED"), 0
        )
        spent = []
        for event in self.sealing:
            counts[event.status] += count_of(event)
            silent = isinstance(event, RequestRefused) and not event.spent
            if event.principal and not silent:
                spent.append(event.principal.jti_hash)
        seal = Seal(
            self.chain.seq, self.chain.hash, self.log_id, self.partition, self.term,
            self.first, self.next, sum(counts.values()), self.gaps, *self.anchor,
            lane_time=self.lane_time, window_from_seq=self.chain.seq,
            window_from_offset=0, spent=b"".join(spent),
            control_offset=self.control_offset, context_seq=self.context_seq,
            succeeded=counts["SUCCEEDED"], failed=counts["FAILED"],
            rejected=counts["REJECTED"], expired=counts["EXPIRED"],
            quarantined=counts["QUARANTINED"], process_key=certificate.process_key,
            fleet_key=certificate.fleet_key, certified_ms=certificate.certified_ms,
            certificate=certificate.certificate,
        )  # fmt: skip
        value = signed(msgspec.structs.replace(seal, **lie), process)
        return self.leaf(value)

    # Reading.

    def verify(
        self, records: list[bytes] | None = None, **more: Any
    ) -> PartitionReport:
        """Verify these records, or what was written."""
        chosen = self.records if records is None else records
        return verify(chosen, self.control.view, self.partition, **more)

    def requests(self) -> list[PlainRecord | None]:
        """Give the requests topic that this log answers, None in its gaps."""
        slots: list[PlainRecord | None] = [None] * self.next
        for event in self.events:
            for offset in range(event.offset, event.offset + count_of(event)):
                slots[offset] = PlainRecord(offset, event.timestamp, body_of(offset))
        return slots


class MemoryTopics:
    """Topics in memory, for whatever reads through the services' ports."""

    def __init__(self, *logs: LogBuilder) -> None:
        self.logs: dict[tuple[str, int], list[PlainRecord | None]] = {}
        self.begins: dict[tuple[str, int], int] = {}
        self.partitions = len(logs)
        for log in logs:
            self.put("wasm.control", 0, log.control.values)
            self.put("wasm.audit", log.partition, log.records)
            self.put("wasm.results", log.partition, log.results)
            self.logs["wasm.requests", log.partition] = log.requests()

    def put(self, topic: str, partition: int, values: Sequence[bytes]) -> None:
        """Let a partition hold these values from offset 0."""
        self.logs[topic, partition] = [
            PlainRecord(offset, BASE_MS + offset, value)
            for offset, value in enumerate(values)
        ]

    async def partition_count(self, _topic: str) -> int:
        return self.partitions

    async def begin_offset(self, topic: str, partition: int) -> int:
        return self.begins.get((topic, partition), 0)

    async def end_offset(self, topic: str, partition: int) -> int:
        return len(self.logs[topic, partition])

    async def offset_for_time(
        self, topic: str, partition: int, timestamp_ms: int
    ) -> int | None:
        for record in self.logs[topic, partition]:
            if record is not None and record.timestamp >= timestamp_ms:
                return record.offset
        return None

    async def read(
        self, topic: str, partition: int, start: int, end: int
    ) -> AsyncIterator[Sequence[Record]]:
        for at in range(max(start, self.begins.get((topic, partition), 0)), end, 4):
            slots = self.logs[topic, partition][at : min(at + 4, end)]
            yield [record for record in slots if record is not None]

    async def prove_gap(
        self, topic: str, partition: int, start: int, end: int
    ) -> list[Range]:
        for record in self.logs[topic, partition][start:end]:
            if record is not None:
                message = f"offset {record.offset} holds a committed record"
                raise IntegrityError(message)
        return [Range(start, end)]


def verify(
    records: list[bytes], control: ControlHistory, partition: int = 0, **more: Any
) -> PartitionReport:
    """Verify an audit partition's values, whose offsets are their indices."""
    place = Place(
        OPERATOR_PUBLIC, partition, "cluster-1", "wasm.requests", "wasm.results",
        "wasm.audit",
    )  # fmt: skip
    verifier = PartitionVerifier(place, control, **more)
    for offset, value in enumerate(records):
        verifier.feed(offset, value)
    return verifier.finish()


def honest_log(**more: Any) -> LogBuilder:
    """Give a log that has everything once: terms, contexts, gaps, ranges, codes."""
    log = LogBuilder(**more)
    log.acquire()
    log.transaction(3)
    log.open_transaction()
    log.executed()
    log.gap(2)
    log.failed("trap", trap="unreachable")
    log.refused(count=5)
    log.refused("invalid_request")
    log.seal()
    log.control.add(
        log.control.administrator.publish(_ADD, sha256(b"wasm").digest(), 4, 0)
    )
    log.open_transaction()
    log.executed()
    log.context()
    log.executed()
    log.gap(1)
    log.seal()
    log.attempt()
    log.release()
    log.process = key_of("the next process")
    log.acquire()
    log.transaction(2)
    return log
