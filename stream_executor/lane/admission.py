"""May this record run? The pure decision, one record at a time, in offset order.

Record bytes and context in, ``Admitted`` or ``Refused`` out. The order of checks is
part of the contract (docs/wire-format.md): malformed token, unknown key, signature,
audience, binding, time, replay, revoked or denied, role, shape, module, policy. The
first that fails names the code. Only the replay window and the lane's clock change
here; both belong to this lane alone.

Not here: fetching, waiting for the control view, running.
"""

from __future__ import annotations

from hashlib import sha256

import msgspec

from stream_executor.audit.digests import (
    BODY_TAG,
    Salter,
    content_digest,
    guest_seed,
)
from stream_executor.auth.deny import DenyList
from stream_executor.auth.keys import KeySet
from stream_executor.auth.policy import Policy, PolicyGrant
from stream_executor.auth.replay import ReplayWindow, SpendOutcome
from stream_executor.auth.token import (
    Place,
    Refusal,
    TokenProfile,
    VerifiedToken,
    authorize,
    verify_token,
)
from stream_executor.lane.damage import resume_with, within
from stream_executor.lane.entries import NO_HEADERS, Admitted, Refused
from stream_executor.model.audit import ContextDigests
from stream_executor.model.codes import CODES, Code
from stream_executor.model.errors import ClockError, IntegrityError, MalformedError
from stream_executor.model.job import InvocationKind, Job, Limits, WasiInput
from stream_executor.model.record import (
    LOG_APPEND_TIME,
    EmptyRun,
    Headers,
    Range,
    Record,
)
from stream_executor.model.request import (
    Bytes,
    Call,
    ExecutionRequest,
    InlineModule,
    Invocation,
    ModuleName,
)
from stream_executor.modules.view import ControlView
from stream_executor.wire.requests import (
    ModuleTooLargeError,
    decode_request,
    request_id_of,
)

MAX_CLOCK_LEAD_MS = 60_000
# Copied from request to result, for tracing and request-reply clients.
CARRIED_HEADERS = frozenset(
    {"traceparent", "tracestate", "correlation-id", "kafka_correlationId"}
)
MAX_CARRIED_BYTES = 1024
REVOKED = "the module was revoked"
DENIED = "the module is denied"


class Ceilings(msgspec.Struct, frozen=True):
    """What every module may use unless an Administrator granted it more.

    Attributes:
        limits, max_module_bytes: for every module.
        hard_limits, hard_module_bytes: for a granted one, whatever the grant says
            (HARD_MAX_* settings).
        output_bytes: most output that is kept; no grant changes it.
    """

    limits: Limits
    max_module_bytes: int
    hard_limits: Limits
    hard_module_bytes: int
    output_bytes: int


class AdmissionContext(msgspec.Struct, frozen=True):
    """Everything outside the record that a decision rests on; replaced as a whole.

    ``digests`` name it in the audit log; a change of any of them becomes a
    ``context`` leaf before the first request that was decided under it.
    """

    keys: KeySet
    profile: TokenProfile
    policy: Policy
    deny: DenyList
    view: ControlView
    ceilings: Ceilings
    digests: ContextDigests


class Verified(msgspec.Struct, frozen=True, gc=False):
    """A request that passed every check but its module is yet to be found."""

    offset: int
    timestamp: int
    lane_time: int
    decided_ms: int
    token: VerifiedToken
    request: ExecutionRequest
    value: bytes
    salt: bytes
    body_digest: bytes
    headers: list[tuple[str, bytes]]


class Admission:
    """One lane's decisions.

    Args:
        place: topic and partition that tokens must be bound to.
        salter: of this lane's log.
        window: the lane's replay window, rebuilt from its seals.
        lane_time: running maximum of LogAppendTime so far (ms).
        refused: offsets that an operator ordered to be refused unread.
    """

    def __init__(
        self,
        place: Place,
        salter: Salter,
        window: ReplayWindow,
        lane_time: int,
        refused: tuple[Range, ...] = (),
    ) -> None:
        self.place = place
        self.salter = salter
        self.window = window
        self.lane_time = lane_time
        self._refused_by_order = refused

    def verify(
        self, record: Record, context: AdmissionContext, now_ms: int
    ) -> Verified | Refused:
        """Decide everything about one record but its module.

        What is refused of a run may be less than all of it: then decide on the rest.

        Raises:
            IntegrityError: the record's time is not the broker's.
            ClockError: or ahead of us by
                more than ``MAX_CLOCK_LEAD_MS``: the lane halts, nobody is refused.
        """
        offset, timestamp = record.offset, record.timestamp
        if within(self._refused_by_order, offset):
            salt = self.salter.salt(offset)
            digest = content_digest(BODY_TAG, salt, record.value or b"")
            return Refused(
                offset, timestamp, self.lane_time, now_ms, Code.INVALID_REQUEST,
                "an operator ordered this record to be refused", salt, digest,
            )  # fmt: skip
        self._advance(offset, timestamp, record.timestamp_type, now_ms)
        value = record.value or b""
        salt = self.salter.salt(offset)
        digest = content_digest(BODY_TAG, salt, value)
        if not value and (problem := getattr(record, "problem", None)):
            # An offset that was taken by something that is no proper record.
            return Refused(
                offset, timestamp, self.lane_time, now_ms, Code.INVALID_REQUEST,
                problem, salt, digest,
            )  # fmt: skip
        token = verify_token(
            record.headers, value, self.place, self.lane_time, context.keys,
            context.profile,
        )  # fmt: skip
        if isinstance(token, Refusal):
            return self._refused_token(record, token, salt, digest, now_ms)
        code, message, spent = self._authorize(token, context)
        request: ExecutionRequest | None = None
        if code is None:
            try:
                request = decode_request(value)
            except ModuleTooLargeError as error:
                code, message = Code.MODULE_TOO_LARGE, str(error)
            except MalformedError as error:
                code, message = Code.INVALID_REQUEST, str(error)
            else:
                if request.not_after_ms is not None and request.not_after_ms < now_ms:
                    code = Code.NOT_AFTER_PASSED
                    message = f"not_after_ms {request.not_after_ms} has passed"
        headers = carried(record.headers)
        if code is None and request is not None:
            return Verified(
                offset, timestamp, self.lane_time, now_ms, token, request, value,
                salt, digest, headers,
            )  # fmt: skip
        return Refused(
            offset, timestamp, self.lane_time, now_ms, code or Code.INTERNAL, message,
            salt, digest,
            request_id_of(value) if request is None else request.request_id,
            token.principal, spent, len(value), headers,
        )  # fmt: skip

    def place_module(  # noqa: PLR0911 - one return a refusal
        self, verified: Verified, context: AdmissionContext, *, view_confirmed: bool
    ) -> Admitted | Refused | None:
        """Find the module and the limits; the last decision.

        Returns:
            None if the module is unknown and the control view may be behind: ask
            again with ``view_confirmed`` once it has passed the topic's end.
        """
        request, ceilings = verified.request, context.ceilings
        if view_confirmed and (denied := context.deny.decide(verified.token)):
            # While this waited for the view, the view may have learnt of a denial.
            return _refuse(verified, denied, CODES[denied].meaning)
        ref = request.module
        grant: Limits | None = None
        name: str | None = None
        if isinstance(ref, InlineModule):
            s256 = sha256(ref.bytes).digest()
        else:
            published = context.view.resolve(ref)
            if published is None and not view_confirmed:
                return None
            if published is None:
                message = "no such published module"
                return _refuse(verified, Code.MODULE_NOT_FOUND, message)
            s256, grant = published.s256, published.grant
            most_bytes = module_bytes_limit(ceilings, grant)
            if published.size_bytes > most_bytes:
                message = (
                    f"the module has {published.size_bytes} bytes; "
                    f"it may have {most_bytes}"
                )
                return _refuse(verified, Code.MODULE_TOO_LARGE, message)
            name = str(ref) if isinstance(ref, ModuleName) else published.name
        if s256 in context.view.revoked_modules:  # by whatever name, inline too
            return _refuse(verified, Code.MODULE_NOT_FOUND, REVOKED)
        if banned := context.deny.decide_module(s256):
            return _refuse(verified, banned, DENIED)
        function = _function_of(request.invocation)
        allowed = context.policy.decide(verified.token.principal, name, s256, function)
        if not isinstance(allowed, PolicyGrant):
            return _refuse(verified, Code.DENIED_BY_POLICY, "not in the policy")
        limits = effective_limits(granted_limits(ceilings, grant), request, allowed)
        return Admitted(
            verified.offset, verified.timestamp, verified.lane_time,
            verified.decided_ms, request.request_id, verified.token.principal, name,
            job_of(
                request, s256, limits, ceilings.output_bytes, verified.lane_time,
                verified.value,
            ),
            verified.salt, verified.body_digest, 2 * len(verified.value) + 512,
            verified.headers, isinstance(ref, InlineModule),
        )  # fmt: skip

    def _advance(self, offset: int, timestamp: int, kind: int, now_ms: int) -> None:
        if kind != LOG_APPEND_TIME:
            message = (
                f"the record at offset {offset} carries its producer's time, not the "
                "broker's: set message.timestamp.type=LogAppendTime on the topic, then "
                f"{resume_with(self.place.partition)}"
            )
            raise IntegrityError(message)
        if timestamp > now_ms + MAX_CLOCK_LEAD_MS:
            message = (
                f"the record at offset {offset} was appended at {timestamp}, more than "
                f"{MAX_CLOCK_LEAD_MS} ms ahead of this worker's clock {now_ms}: "
                "compare the clocks of broker and worker; the lane goes on by itself"
            )
            raise ClockError(message, timestamp - MAX_CLOCK_LEAD_MS)
        self.lane_time = max(self.lane_time, timestamp)

    def _authorize(
        self, token: VerifiedToken, context: AdmissionContext
    ) -> tuple[Code | None, str, bool]:
        """Replay, revocation, role: in this order. Gives (code, message, spent)."""
        outcome = self.window.spend(token.principal.jti_hash, self.lane_time)
        if outcome is SpendOutcome.REPLAYED:
            return Code.AUTH_REPLAYED, "this jti was already spent", False
        if outcome is SpendOutcome.FULL:
            return Code.RATE_LIMITED, "the replay budget is full", False
        code = context.deny.decide(token) or authorize(token)
        return code, "" if code is None else CODES[code].meaning, True

    def _refused_token(
        self, record: Record, refusal: Refusal, salt: bytes, digest: bytes, now_ms: int
    ) -> Refused:
        if isinstance(record, EmptyRun):
            return self._refused_run(record, refusal, now_ms)
        principal, value = refusal.principal, record.value or b""
        return Refused(
            record.offset, record.timestamp, self.lane_time, now_ms,
            refusal.code, CODES[refusal.code].meaning, salt, digest,
            None if principal is None else request_id_of(value),
            principal, False, len(value),
            carried(record.headers) if principal is not None else NO_HEADERS,
        )  # fmt: skip

    def _refused_run(self, run: EmptyRun, refusal: Refusal, now_ms: int) -> Refused:
        """Refuse a run as one record, up to the first that is refused by order."""
        ordered = (one.start for one in self._refused_by_order)
        end = min([run.end, *(start for start in ordered if start > run.offset)])
        salt = self.salter.salt(end - 1)
        return Refused(
            run.offset, run.timestamp, self.lane_time, now_ms, refusal.code,
            CODES[refusal.code].meaning, salt, content_digest(BODY_TAG, salt, b""),
            count=end - run.offset,
        )  # fmt: skip


def granted_limits(ceilings: Ceilings, grant: Limits | None) -> Limits:
    """Give the ceilings as a grant raises them: never lower, never above the hard."""
    if grant is None:
        return ceilings.limits
    return Limits(
        *(
            max(usual, min(granted, hard))
            for usual, granted, hard in zip(
                msgspec.structs.astuple(ceilings.limits),
                msgspec.structs.astuple(grant),
                msgspec.structs.astuple(ceilings.hard_limits),
                strict=True,
            )
        )
    )


def module_bytes_limit(ceilings: Ceilings, grant: Limits | None) -> int:
    """Give how many bytes a published module may have; any grant lifts the ceiling."""
    return ceilings.max_module_bytes if grant is None else ceilings.hard_module_bytes


def effective_limits(
    ceiling: Limits, request: ExecutionRequest, policy: PolicyGrant
) -> Limits:
    """Give the lowest of ceiling, request and policy, each limit for itself."""
    asked, allowed = request.limits, policy.limits
    if asked is None and allowed is None:
        return ceiling
    return Limits(
        *(
            min(
                limit
                for limit in (
                    getattr(ceiling, name),
                    None if asked is None else getattr(asked, name),
                    None if allowed is None else getattr(allowed, name),
                )
                if limit is not None
            )
            for name in ("fuel_units", "memory_bytes", "deadline_ms")
        )
    )


def job_of(
    request: ExecutionRequest,
    module_s256: bytes,
    limits: Limits,
    output_bytes: int,
    now_ms: int,
    body: bytes,
) -> Job:
    """Give the sandbox's job for a request; the same for a re-execution.

    Args:
        request: what was asked.
        module_s256: digest of the module that it means.
        limits: effective limits.
        output_bytes: most output that is kept.
        now_ms: the guest's frozen clock (the lane's time).
        body: the record's exact value, which seeds a WASI guest's randomness.
    """
    invocation = request.invocation
    wasi, seed = None, b""  # only WASI offers randomness
    if isinstance(invocation, Call):
        kind, payload = InvocationKind.CALL, invocation.args
    elif isinstance(invocation, Bytes):
        kind, payload = InvocationKind.BYTES, invocation.input
    else:
        kind, payload = InvocationKind.WASI, invocation.stdin
        wasi = WasiInput(invocation.args, invocation.env, invocation.files)
        seed = guest_seed(module_s256, body)
    return Job(
        module_s256, kind, _function_of(invocation), payload, limits, output_bytes,
        now_ms, seed, wasi,
    )  # fmt: skip


def carried(headers: Headers) -> list[tuple[str, bytes]]:
    """Give the headers that go on to the result, at most 1 KiB of them."""
    if len(headers) == 1:  # only the token, which is the common case
        return NO_HEADERS
    kept, size = [], 0
    for name, value in headers:
        if name in CARRIED_HEADERS and value is not None:
            size += len(name) + len(value)
            if size > MAX_CARRIED_BYTES:
                break
            kept.append((name, value))
    return kept


def _function_of(invocation: Invocation) -> str:
    if isinstance(invocation, Call):
        return invocation.function
    return "run" if isinstance(invocation, Bytes) else "_start"


def _refuse(verified: Verified, code: Code, message: str) -> Refused:
    return Refused(
        verified.offset, verified.timestamp, verified.lane_time, verified.decided_ms,
        code, message, verified.salt, verified.body_digest,
        verified.request.request_id, verified.token.principal, True,
        len(verified.value), verified.headers,
    )  # fmt: skip


def quarantined(verified: Verified) -> Refused:
    """Refuse for good what workers died over; its sandbox is never entered again."""
    return _refuse(verified, Code.QUARANTINED, CODES[Code.QUARANTINED].meaning)
