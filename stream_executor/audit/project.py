"""One leaf → one flat JSON object: what ``audit.log``, ``tail`` and ``replay`` show.

Two promises to whoever greps: a line has ``"status":"FAILED"`` if and only if a
request did not succeed (the finer word is ``outcome``), and no other line contains
the word ``FAILED`` at all, whatever text a requester chose.

Bytes are lower hex, times are UTC with milliseconds, ranges are ``[start, end]``
half-open. The leaf's own bytes stay the evidence; this is for reading.
Source: docs/wire-format.md, "audit.log"; the user's manual, "Check audit logs".
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from stream_executor.audit.segments import link_of
from stream_executor.model.audit import RequestExecuted, RequestRefused, SchemaDigest
from stream_executor.model.codes import Status
from stream_executor.model.job import InvocationKind, Limits
from stream_executor.model.record import Range
from stream_executor.wire.avro import KINDS
from stream_executor.wire.schemas import HEADER_BYTES

if TYPE_CHECKING:
    from stream_executor.model.audit import AuditLeaf, Principal

JsonObject = dict[str, Any]
_UNSUCCESSFUL = Status.FAILED.value
_LAST_YEAR_MS = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z
_encode = msgspec.json.Encoder().encode


def project(leaf: AuditLeaf, offset: int, partition: int) -> JsonObject:
    """Give a leaf as a flat, JSON-able dict.

    Args:
        leaf: the decoded leaf.
        offset: its audit offset.
        partition: audit partition.
    """
    head: JsonObject = {"time": None, "kind": KINDS[type(leaf)]}
    place = {"partition": partition, "audit_offset": offset, "seq": leaf.seq}
    if isinstance(leaf, RequestExecuted):
        return {**head, "time": utc(leaf.timestamp), **place, **_executed(leaf)}
    if isinstance(leaf, RequestRefused):
        return {**head, "time": utc(leaf.timestamp), **place, **_refused(leaf)}
    plain = {
        name.rstrip("_"): _plain(getattr(leaf, name))
        for name in leaf.__struct_fields__
        if name not in {"seq", "partition", "spent"}
    }
    if "lane_time" in plain:
        head["time"] = utc(plain["lane_time"])
    elif "created_ms" in plain:
        head["time"] = utc(plain["created_ms"])
    return {**head, **place, **plain}


def unknown(value: bytes, offset: int, partition: int) -> JsonObject:
    """Give a leaf whose schema this release does not know; its place is known."""
    seq, _ = link_of(value)
    return {
        "time": None,
        "kind": "unknown",
        "partition": partition,
        "audit_offset": offset,
        "seq": seq,
        "schema": value[:HEADER_BYTES].hex(),
        "value_s256": hashlib.sha256(value).hexdigest(),
    }


def line(projected: JsonObject) -> bytes:
    """Give a projected leaf as one line of JSON, newline included."""
    text = _encode(projected)
    if projected.get("status") != _UNSUCCESSFUL:
        # Only text that somebody chose can hold the word here, so this changes
        # nothing but its spelling inside JSON strings.
        text = text.replace(b"FAILED", rb"\u0046AILED")
    return text + b"\n"


def utc(timestamp_ms: int) -> str:
    """Give milliseconds since 1970 as ``2026-11-23T14:05:00.123Z``."""
    if not 0 <= timestamp_ms <= _LAST_YEAR_MS:
        return f"{timestamp_ms} ms"
    seconds, milliseconds = divmod(timestamp_ms, 1000)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds:03}Z"


def _outcome(leaf: RequestExecuted | RequestRefused) -> JsonObject:
    succeeded = leaf.status == Status.SUCCEEDED
    return {
        "status": leaf.status if succeeded else _UNSUCCESSFUL,
        "outcome": leaf.status,
        "code": leaf.code,
        "request_id": leaf.request_id,
        "request_offset": leaf.offset,
    }


def _executed(leaf: RequestExecuted) -> JsonObject:
    return {
        **_outcome(leaf),
        "count": 1,
        **_who(leaf.principal),
        "module": leaf.module_name,
        "module_s256": leaf.module_s256.hex(),
        "invocation": InvocationKind(leaf.kind).name.lower(),
        "function": leaf.function,
        "trap": leaf.trap,
        "exit_code": leaf.exit_code,
        "fuel_consumed": leaf.fuel_consumed,
        "fuel_exact": leaf.fuel_exact,
        "memory_bytes": leaf.memory_bytes,
        "duration_us": leaf.duration_us,
        "max_fuel": leaf.limits.fuel_units,
        "max_memory_bytes": leaf.limits.memory_bytes,
        "deadline_ms": leaf.limits.deadline_ms,
        "lane_time": leaf.lane_time,
        "decided_ms": leaf.decided_ms,
        "context_seq": leaf.context_seq,
        "body_digest": leaf.body_digest.hex(),
        "input_digest": leaf.input_digest.hex(),
        "output_digest": leaf.output_digest.hex(),
        "result_s256": leaf.result_s256.hex(),
    }


def _refused(leaf: RequestRefused) -> JsonObject:
    return {
        **_outcome(leaf),
        "count": leaf.count,
        **_who(leaf.principal),
        "spent": leaf.spent,
        "lane_time": leaf.lane_time,
        "decided_ms": leaf.decided_ms,
        "context_seq": leaf.context_seq,
        "body_digest": None if leaf.body_digest is None else leaf.body_digest.hex(),
        "result_s256": leaf.result_s256.hex(),
    }


def _who(principal: Principal | None) -> JsonObject:
    if principal is None:
        return {"iss": None, "sub": None, "role": None}
    return {
        "iss": principal.iss,
        "sub": principal.sub,
        "role": principal.role,
        "kid": principal.kid,
        "key_id": principal.key_id,
        "token_s256": principal.token_s256.hex(),
        "jti_hash": principal.jti_hash.hex(),
        "iat": principal.iat,
        "exp": principal.exp,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Range):
        return [value.start, value.end]
    if isinstance(value, SchemaDigest):
        return f"{value.name} {value.s256.hex()}"
    if isinstance(value, Limits):
        return [value.fuel_units, value.memory_bytes, value.deadline_ms]
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
