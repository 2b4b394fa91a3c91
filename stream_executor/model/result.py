"""What a requester gets back: the ExecutionResult as a value."""

from __future__ import annotations

import msgspec


class ExecutionResult(msgspec.Struct, frozen=True, gc=False):
    """The one terminal answer to one request record, or to a range of records.

    Attributes:
        topic, partition, offset: the request record; its identity.
        count: records covered; above 1 only where no record had a valid token.
        request_id: the requester's id once the token's binding to the body held.
        status, code: outcome; ``code`` is None on success.
        message, trap: safe text and kind of trap on failure.
        kind: ``InvocationKind`` value that says how to read ``output``; None if the
            request never entered the sandbox.
        output: CALL: packed scalars; BYTES: output; WASI: stdout.
        stderr, stdout_truncated, stderr_truncated, exit_code: WASI.
        fuel_consumed (units), fuel_exact, memory_bytes, duration_us: what it cost.
        module_s256, engine: what ran; None if nothing did.
        salt: opens this request's content digests; None for a range.
        log_id, seq: the audit event (same partition number).
    """

    topic: str
    partition: int
    offset: int
    count: int
    request_id: str | None
    status: str
    code: str | None
    message: str
    trap: str | None
    kind: int | None
    output: bytes
    stderr: bytes
    stdout_truncated: bool
    stderr_truncated: bool
    exit_code: int | None
    fuel_consumed: int
    fuel_exact: bool
    memory_bytes: int
    duration_us: int
    module_s256: bytes | None
    engine: str | None
    salt: bytes | None
    log_id: bytes
    seq: int
