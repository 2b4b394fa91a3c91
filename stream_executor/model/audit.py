"""The leaves of the audit chain, as values.

One class for each Avro record of ``schemas/``: field names and order are the
schema's (``from`` is spelled ``from_``), which a test holds. What each field means
is said in the schema file; nothing here computes a digest or a signature.

Not here: the records of the control chain (``model.control``).
"""

from __future__ import annotations

import msgspec

from stream_executor.model.job import Limits
from stream_executor.model.record import Range

ZERO32 = bytes(32)
"""A hash where there is none: before the first leaf, or of nothing answered yet."""
ZERO64 = bytes(64)


class Principal(msgspec.Struct, frozen=True, gc=False):
    """Who asked, as a verified token said it."""

    iss: str
    sub: str
    role: str
    kid: str
    key_id: str
    token_s256: bytes
    jti_hash: bytes
    iat: int
    exp: int


class Certificate(msgspec.Struct, frozen=True, gc=False):
    """A fleet key's word for a process key; four flat fields in the records."""

    process_key: bytes
    fleet_key: bytes
    certified_ms: int
    certificate: bytes


class ContextDigests(msgspec.Struct, frozen=True, gc=False):
    """What decisions rest on; flat fields in ``lane.acquired`` and ``context``."""

    control_offset: int
    control_head: bytes
    policy_s256: bytes
    keys_s256: bytes


class Genesis(msgspec.Struct, frozen=True, gc=False):
    """First leaf of an audit partition, signed by the operator."""

    seq: int
    prev: bytes
    log_id: bytes
    cluster_id: str
    requests_topic: str
    results_topic: str
    audit_topic: str
    modules_topic: str
    control_topic: str
    checkpoints_topic: str
    partition: int
    partition_count: int
    start_offset: int
    operator_key: bytes
    notary_key: bytes
    previous_log: bytes | None
    created_ms: int
    signature: bytes = ZERO64


class SchemaDigest(msgspec.Struct, frozen=True, gc=False):
    """One schema file of a release."""

    name: str
    s256: bytes


class LaneAcquired(msgspec.Struct, frozen=True, gc=False):
    """First leaf of a term."""

    seq: int
    prev: bytes
    term: int
    lane_time: int
    next: int
    window: int
    process_key: bytes
    fleet_key: bytes
    certified_ms: int
    certificate: bytes
    incarnation: bytes
    instance: str
    group: str
    release: str
    engine: str
    engine_config_s256: bytes
    limits: Limits
    hardening: list[str]
    schemas: list[SchemaDigest]
    control_offset: int
    control_head: bytes
    policy_s256: bytes
    keys_s256: bytes


class LaneReleased(msgspec.Struct, frozen=True, gc=False):
    """The owner gave the lane up in good order."""

    seq: int
    prev: bytes
    term: int
    next: int
    reason: str


class Context(msgspec.Struct, frozen=True, gc=False):
    """What decisions rest on changed."""

    seq: int
    prev: bytes
    term: int
    control_offset: int
    control_head: bytes
    policy_s256: bytes
    keys_s256: bytes


class AttemptStarted(msgspec.Struct, frozen=True, gc=False):
    """Suspicious mode: one request is about to be tried alone."""

    seq: int
    prev: bytes
    term: int
    offset: int
    attempt: int


class RequestExecuted(msgspec.Struct, frozen=True, gc=False):
    """Terminal event of a request that entered the sandbox."""

    seq: int
    prev: bytes
    offset: int
    timestamp: int
    lane_time: int
    decided_ms: int
    request_id: str
    principal: Principal
    module_s256: bytes
    module_name: str | None
    kind: int
    function: str
    limits: Limits
    context_seq: int
    status: str
    code: str | None
    trap: str | None
    exit_code: int | None
    fuel_consumed: int
    fuel_exact: bool
    memory_bytes: int
    duration_us: int
    body_digest: bytes
    input_digest: bytes
    output_digest: bytes
    result_s256: bytes


class RequestRefused(msgspec.Struct, frozen=True, gc=False):
    """Terminal event of a request that never entered the sandbox."""

    seq: int
    prev: bytes
    offset: int
    count: int
    timestamp: int
    lane_time: int
    decided_ms: int
    request_id: str | None
    principal: Principal | None
    status: str
    code: str
    spent: bool
    context_seq: int
    body_digest: bytes | None
    result_s256: bytes


class Resumed(msgspec.Struct, frozen=True, gc=False):
    """A halted lane goes on by the operator's order, embedded verbatim."""

    seq: int
    prev: bytes
    term: int
    order: bytes


class Seal(msgspec.Struct, frozen=True, gc=False):
    """Last leaf of every transaction; the frozen layout that recovery reads."""

    seq: int
    prev: bytes
    log_id: bytes
    partition: int
    term: int
    from_: int
    next: int
    answered: int
    gaps: list[Range]
    anchor_offset: int
    anchor_timestamp: int
    anchor_digest: bytes
    lane_time: int
    window_from_seq: int
    window_from_offset: int
    spent: bytes
    control_offset: int
    context_seq: int
    succeeded: int
    failed: int
    rejected: int
    expired: int
    quarantined: int
    process_key: bytes
    fleet_key: bytes
    certified_ms: int
    certificate: bytes
    signature: bytes = ZERO64


AuditLeaf = (
    Genesis
    | LaneAcquired
    | LaneReleased
    | Context
    | AttemptStarted
    | RequestExecuted
    | RequestRefused
    | Resumed
    | Seal
)
