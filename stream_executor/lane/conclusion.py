"""What a finished stretch of a lane becomes: results, leaves, a seal. Pure.

Same head, entries and reports: same bytes. A refusal takes the same way through the
audit as a run. The shell publishes what ``conclude`` gives and decides nothing.

Order inside one transaction: for each entry its result, then its event; a context
change before the first event decided under it; the seal last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

from stream_executor.audit.chain import leaf_hash
from stream_executor.audit.digests import INPUT_TAG, OUTPUT_TAG, content_digest
from stream_executor.audit.signing import signed
from stream_executor.lane.entries import (
    NO_HEADERS,
    Admitted,
    Attempt,
    ContextChange,
    Entry,
    Gap,
    Refused,
)
from stream_executor.lane.head import LaneHead, SpentSeal
from stream_executor.model.audit import (
    AttemptStarted,
    Certificate,
    Context,
    LaneAcquired,
    LaneReleased,
    RequestExecuted,
    RequestRefused,
    Resumed,
    Seal,
)
from stream_executor.model.codes import CODES, Code, Status
from stream_executor.model.job import InvocationKind, Job, Report
from stream_executor.model.record import OutRecord, Range
from stream_executor.model.result import ExecutionResult
from stream_executor.wire.avro import CODECS, encode

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

STATUS_OF: dict[str | None, str] = {
    None: Status.SUCCEEDED.value,
    **{code.value: entry.status.value for code, entry in CODES.items()},
}
# Adjacent refusals of one of these codes, without any valid token, share an answer.
SHARED_PREFIX = "auth_"
SUCCEEDED = "succeeded"
_encode_executed = CODECS[RequestExecuted].encode
_encode_refused = CODECS[RequestRefused].encode


class LaneIdentity(msgspec.Struct, frozen=True):
    """What stays the same for a lane while one worker owns it.

    Attributes:
        topic, partition: the requests partition.
        log_id: of the audit partition.
        term: this ownership.
        certificate: of the process key.
        engine: native engine identity.
        encode_result: the deployment's result encoding.
        max_result_bytes: most bytes of one encoded result.
        horizon_ms: how long a spent jti matters, in lane time.
    """

    topic: str
    partition: int
    log_id: bytes
    term: int
    certificate: Certificate
    engine: str
    encode_result: Callable[[ExecutionResult], bytes]
    max_result_bytes: int
    horizon_ms: int


class Tally(msgspec.Struct):
    """What a transaction adds to the counters, once it is committed.

    ``timestamps`` are the answered records' LogAppendTimes (ms), for latency;
    ``last_failed`` gives for each code the last record's offset and request id.
    """

    by_code: dict[str, int] = msgspec.field(default_factory=dict)
    last_failed: dict[str, tuple[int, str | None]] = msgspec.field(default_factory=dict)
    executed: int = 0
    executed_failed: int = 0
    authenticated: int = 0
    auth_failed: int = 0
    fuel_units: int = 0
    durations_us: list[int] = msgspec.field(default_factory=list)
    timestamps: list[int] = msgspec.field(default_factory=list)


class Transaction(msgspec.Struct, frozen=True):
    """The effects of one commit, as values.

    Attributes:
        results: values and headers for the results topic.
        audit: leaves for the audit topic; the last one is the seal.
        head: the lane's head once this is committed.
        tally: what to count once this is committed.
    """

    results: list[OutRecord]
    audit: list[bytes]
    head: LaneHead
    tally: Tally


def conclude(
    identity: LaneIdentity,
    key: Ed25519PrivateKey,
    head: LaneHead,
    entries: Sequence[Entry],
    reports: Sequence[Report],
    opening: LaneAcquired | None = None,
    closing: str | None = None,
    resumed: bytes | None = None,
) -> Transaction:
    """Turn the finished prefix into one transaction.

    Args:
        identity: the lane's constants.
        key: the process key that signs the seal.
        head: where the lane stands.
        entries: the prefix, in offset order.
        reports: one for each entry.
        opening: the lane.acquired leaf that begins a term (its seq and prev are set
            here).
        closing: reason of a lane.released leaf that ends the term.
        resumed: the operator's order that ``head`` rests on, to be written down.

    Cost: O(entries); one Ed25519 signature.
    """
    writer = _Writer(identity, head)
    if opening is not None:
        context_seq = writer.seq
        writer.leaf(
            encode(msgspec.structs.replace(opening, seq=writer.seq, prev=writer.prev))
        )
        writer.context_seq = context_seq
        writer.control_offset = opening.control_offset
    if resumed is not None:
        writer.leaf(encode(Resumed(writer.seq, writer.prev, identity.term, resumed)))
    at, count = 0, len(entries)
    while at < count:
        entry, end = entries[at], at + 1
        if isinstance(entry, Admitted):
            writer.executed(entry, reports[at])
        elif isinstance(entry, Refused):
            end = _shared_until(entries, at, entry)
            last = entries[end - 1]
            assert isinstance(last, Refused)  # noqa: S101 - what shares an answer
            writer.refused(entry, last)
        elif isinstance(entry, Gap):
            writer.gap(entry)
        elif isinstance(entry, Attempt):
            writer.leaf(
                encode(
                    AttemptStarted(
                        writer.seq,
                        writer.prev,
                        identity.term,
                        entry.offset,
                        entry.number,
                    )
                )
            )
        else:
            writer.context(entry)
        at = end
    if closing is not None:
        writer.leaf(
            encode(
                LaneReleased(
                    writer.seq, writer.prev, identity.term, writer.next, closing
                )
            )
        )
    return writer.sealed(key)


def input_of(job: Job) -> bytes:
    """Give the content that ``input_digest`` covers.

    The payload of a call or bytes invocation; for a command its arguments,
    environment, files and standard input, each as u32be length and bytes, each list
    preceded by its u32be count.
    """
    if job.wasi is None:
        return job.payload
    parts: list[bytes] = []
    pairs = [p for pair in job.wasi.env for p in pair]
    texts = (job.wasi.args, tuple(pairs))
    for group in texts:
        parts.append(len(group).to_bytes(4, "big"))
        parts += [_sized(text.encode()) for text in group]
    parts.append(len(job.wasi.files).to_bytes(4, "big"))
    for path, content in job.wasi.files:
        parts += [_sized(path.encode()), _sized(content)]
    parts.append(_sized(job.payload))
    return b"".join(parts)


def output_of(kind: int, report: Report) -> bytes:
    """Give the content that ``output_digest`` covers; reproducible, so no times.

    The output of a call or bytes invocation; for a command stdout and stderr, each
    as u32be length and bytes, then the exit code as i32be (-1 without one).
    """
    if kind != InvocationKind.WASI:
        return report.output
    code = -1 if report.exit_code is None else report.exit_code & 0x7FFFFFFF
    return (
        _sized(report.output)
        + _sized(report.stderr)
        + code.to_bytes(4, "big", signed=True)
    )


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _shared_until(entries: Sequence[Entry], at: int, first: Refused) -> int:
    """Give the end of the run of refusals that share the answer of ``first``."""
    end, expected = at + 1, first.offset + first.count
    if first.principal is not None or not first.code.startswith(SHARED_PREFIX):
        return end
    while end < len(entries):
        entry = entries[end]
        if (
            not isinstance(entry, Refused)
            or entry.principal is not None
            or entry.code != first.code
            or entry.offset != expected
        ):
            break
        end, expected = end + 1, expected + entry.count
    return end


class _Writer:
    """Builds one transaction leaf by leaf."""

    def __init__(self, identity: LaneIdentity, head: LaneHead) -> None:
        self.identity = identity
        self.before = head
        self.seq, self.prev = head.chain.seq, head.chain.hash
        self.next = head.next
        self.answered = 0
        self.gaps: list[Range] = []
        self.context_seq, self.control_offset = head.context_seq, head.control_offset
        self.anchor = (head.anchor_offset, head.anchor_timestamp, head.anchor_digest)
        self.lane_time = head.lane_time
        self.spent: list[bytes] = []
        self.statuses: dict[str, int] = dict.fromkeys(Status, 0)
        self.results: list[OutRecord] = []
        self.audit: list[bytes] = []
        self.tally = Tally()

    def leaf(self, value: bytes) -> None:
        self.audit.append(value)
        self.prev = leaf_hash(value)
        self.seq += 1

    def executed(self, entry: Admitted, report: Report) -> None:
        identity, job = self.identity, entry.job
        result = self._result(entry, report)
        value = identity.encode_result(result)
        if len(value) > identity.max_result_bytes:
            report = msgspec.structs.replace(
                report, code=Code.OUTPUT_LIMIT.value, trap=None, output=b"", stderr=b"",
                message=f"the result would have {len(value)} bytes, "
                f"{identity.max_result_bytes} are allowed",
            )  # fmt: skip
            value = identity.encode_result(self._result(entry, report))
        self.results.append(OutRecord(value, entry.headers))
        code = report.code
        status = STATUS_OF[code]
        salt = entry.salt
        self.leaf(
            _encode_executed(
                RequestExecuted(
                    self.seq, self.prev, entry.offset, entry.timestamp,
                    entry.lane_time, entry.decided_ms, entry.request_id,
                    entry.principal, job.module_s256, entry.module_name, job.kind,
                    job.function, job.limits, self.context_seq, status, code,
                    report.trap, report.exit_code, report.fuel_consumed,
                    report.fuel_exact, report.memory_bytes, report.duration_us,
                    entry.body_digest,
                    content_digest(INPUT_TAG, salt, input_of(job)),
                    content_digest(OUTPUT_TAG, salt, output_of(job.kind, report)),
                    sha256(value).digest(),
                )
            )
        )  # fmt: skip
        self.spent.append(entry.principal.jti_hash)
        self._answered(entry, 1, status, entry.offset)
        tally = self.tally
        tally.executed += 1
        tally.authenticated += 1
        tally.fuel_units += report.fuel_consumed
        tally.durations_us.append(report.duration_us)
        if code is not None:
            tally.executed_failed += 1
        self._count(code, 1, entry)

    def refused(self, first: Refused, last: Refused) -> None:
        identity = self.identity
        count = last.offset + last.count - first.offset
        status = STATUS_OF[first.code]
        alone = count == 1
        result = ExecutionResult(
            topic=identity.topic, partition=identity.partition, offset=first.offset,
            count=count, request_id=first.request_id, status=status, code=first.code,
            message=safe_message(first.message), trap=None, kind=None, output=b"",
            stderr=b"", stdout_truncated=False, stderr_truncated=False,
            exit_code=None, fuel_consumed=0, fuel_exact=True, memory_bytes=0,
            duration_us=0, module_s256=None, engine=None,
            salt=first.salt if alone else None, log_id=identity.log_id, seq=self.seq,
        )  # fmt: skip
        value = identity.encode_result(result)
        self.results.append(OutRecord(value, first.headers if alone else NO_HEADERS))
        self.leaf(
            _encode_refused(
                RequestRefused(
                    self.seq, self.prev, first.offset, count, first.timestamp,
                    last.lane_time, first.decided_ms, first.request_id,
                    first.principal, status, first.code, first.spent,
                    self.context_seq, first.body_digest if alone else None,
                    sha256(value).digest(),
                )
            )
        )  # fmt: skip
        if first.spent and first.principal is not None:
            self.spent.append(first.principal.jti_hash)
            self.tally.authenticated += 1
        elif first.code.startswith(SHARED_PREFIX):
            self.tally.auth_failed += count
        self._answered(last, count, status, last.offset + last.count - 1)
        self._count(first.code, count, last)

    def gap(self, gap: Gap) -> None:
        if self.gaps and self.gaps[-1].end == gap.start:
            self.gaps[-1] = Range(self.gaps[-1].start, gap.end)
        else:
            self.gaps.append(Range(gap.start, gap.end))
        self.next = gap.end

    def context(self, change: ContextChange) -> None:
        digests = change.digests
        seq = self.seq
        self.leaf(
            encode(
                Context(
                    seq, self.prev, self.identity.term, digests.control_offset,
                    digests.control_head, digests.policy_s256, digests.keys_s256,
                )
            )
        )  # fmt: skip
        self.context_seq, self.control_offset = seq, digests.control_offset

    def sealed(self, key: Ed25519PrivateKey) -> Transaction:
        identity, before = self.identity, self.before
        spent = b"".join(self.spent)
        # Seals whose hashes can no longer matter drop out; this one may be the first.
        # They are in the order of lane time, so those that drop out come first.
        known, at = before.spent_seals, 0
        while at < len(known) and not known[at].matters_at(
            self.lane_time, identity.horizon_ms
        ):
            at += 1
        window = list(known[at:])
        if window:
            from_seq, from_offset = window[0].seq, window[0].audit_offset
        else:
            from_seq, from_offset = self.seq, before.audit_offset
        certificate, statuses = identity.certificate, self.statuses
        seal = Seal(
            self.seq, self.prev, identity.log_id, identity.partition, identity.term,
            before.next, self.next, self.answered, self.gaps, *self.anchor,
            self.lane_time, from_seq, from_offset, spent, self.control_offset,
            self.context_seq, statuses[Status.SUCCEEDED], statuses[Status.FAILED],
            statuses[Status.REJECTED], statuses[Status.EXPIRED],
            statuses[Status.QUARANTINED], certificate.process_key,
            certificate.fleet_key, certificate.certified_ms, certificate.certificate,
        )  # fmt: skip
        value = signed(seal, key)
        seq = self.seq
        self.leaf(value)
        if spent:
            # Its own offset is known when the broker has acknowledged it; what is
            # known now, the transaction before, is a hint at or before it.
            window.append(SpentSeal(seq, before.audit_offset, self.lane_time))
        head = before.moved(
            self.seq, self.prev, self.next, self.anchor, self.lane_time,
            self.control_offset, self.context_seq, tuple(window),
        )  # fmt: skip
        return Transaction(self.results, self.audit, head, self.tally)

    def _answered(
        self, entry: Admitted | Refused, count: int, status: str, last_offset: int
    ) -> None:
        self.next = last_offset + 1
        self.answered += count
        self.anchor = (last_offset, entry.timestamp, entry.body_digest)
        self.lane_time = entry.lane_time
        self.tally.timestamps.append(entry.timestamp)
        self.statuses[status] += count

    def _count(self, code: str | None, count: int, entry: Admitted | Refused) -> None:
        by_code = self.tally.by_code
        name = code or SUCCEEDED
        by_code[name] = by_code.get(name, 0) + count
        if code is not None:
            self.tally.last_failed[code] = (self.next - 1, entry.request_id)

    def _result(self, entry: Admitted, report: Report) -> ExecutionResult:
        identity = self.identity
        place = ResultPlace(
            identity.topic, identity.partition, entry.offset, entry.request_id,
            entry.salt, identity.log_id, self.seq, identity.engine,
        )  # fmt: skip
        return result_of(place, entry.job, report)


class ResultPlace(msgspec.Struct, frozen=True, gc=False):
    """Where a result belongs: the request's coordinates and its audit event's."""

    topic: str
    partition: int
    offset: int
    request_id: str
    salt: bytes | None
    log_id: bytes
    seq: int
    engine: str | None


def result_of(place: ResultPlace, job: Job, report: Report) -> ExecutionResult:
    """Give the result of a job that entered the sandbox."""
    return ExecutionResult(
        place.topic, place.partition, place.offset, 1, place.request_id,
        STATUS_OF[report.code], report.code, report.message, report.trap, job.kind,
        report.output, report.stderr, report.stdout_truncated,
        report.stderr_truncated, report.exit_code, report.fuel_consumed,
        report.fuel_exact, report.memory_bytes, report.duration_us, job.module_s256,
        place.engine, place.salt, place.log_id, place.seq,
    )  # fmt: skip


def safe_message(text: str) -> str:
    """Give text for a requester: printable, at most 512 characters."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)[
        :512
    ]
