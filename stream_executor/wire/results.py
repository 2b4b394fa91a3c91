"""ExecutionResult: ``model.result`` ⇄ record value bytes.

One encoding a deployment writes (RESULT_ENCODING): JSON, which kcat, user
interfaces and Connect read as it is, or single-object Avro. Readers take both, by
the first byte. Source: docs/wire-format.md.
"""

from __future__ import annotations

import io
from struct import Struct
from typing import Any

import msgspec
from fastavro import schemaless_reader

from stream_executor.model.codes import Status
from stream_executor.model.errors import MalformedError
from stream_executor.model.job import InvocationKind
from stream_executor.model.result import ExecutionResult
from stream_executor.model.scalars import ValueType, pack_value, unpack
from stream_executor.wire.avro import Longs, Strings, varint
from stream_executor.wire.json_values import (
    JsonScalar,
    from_base64,
    pack_scalars,
    to_base64,
    unpack_scalars,
)
from stream_executor.wire.schemas import HEADER_BYTES, header, parsed_schema

_SCHEMA = "ExecutionResult.v1"
_HEADER = header(_SCHEMA)
_LONGS, _NAMES = Longs(), Strings()  # what repeats from result to result
_NULL, _SOME = b"\x00", b"\x02"  # a union's branches; also the end of an array
_BOOLEANS = {False: b"\x00", True: b"\x01"}
_STATUSES: dict[str, bytes] = {status: varint(at) for at, status in enumerate(Status)}
# Branches of the union in `outputs`, in the schema's order.
_SCALARS = {
    ValueType.I32: 0, ValueType.I64: 1, ValueType.F32: 2, ValueType.F64: 3,
}  # fmt: skip
_FLOATS = {ValueType.F32: Struct("<f").pack, ValueType.F64: Struct("<d").pack}


class _Source(msgspec.Struct, gc=False, omit_defaults=True):
    topic: str
    partition: int
    offset: int
    count: int = 1


class _Error(msgspec.Struct, gc=False, omit_defaults=True):
    message: str
    trap: str | None = None


class _Audit(msgspec.Struct, gc=False):
    log_id: str
    partition: int
    seq: int


class _JsonResult(msgspec.Struct, gc=False, omit_defaults=True):
    source: _Source
    status: str
    audit: _Audit
    request_id: str | None = None
    code: str | None = None
    error: _Error | None = None
    outputs: list[dict[str, int | float | str]] | None = None
    output: str | None = None
    stdout: str | None = None
    stderr: str | None = None
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    exit_code: int | None = None
    fuel_consumed: int = 0
    fuel_exact: bool = True
    memory_bytes: int = 0
    duration_us: int = 0
    module_s256: str | None = None
    engine: str | None = None
    salt: str | None = None


_write_json = msgspec.json.Encoder().encode
_read_json = msgspec.json.Decoder(_JsonResult).decode


def encode_json(result: ExecutionResult) -> bytes:
    """Give the result's JSON form: one object, members at their default left out."""
    plain = _JsonResult(
        _Source(result.topic, result.partition, result.offset, result.count),
        result.status,
        _Audit(result.log_id.hex(), result.partition, result.seq),
        result.request_id,
        result.code,
    )
    if result.code is not None:
        plain.error = _Error(result.message, result.trap)
    if result.salt is not None:
        plain.salt = result.salt.hex()
    kind = result.kind
    if kind is None:
        return _write_json(plain)
    if kind == InvocationKind.CALL:
        # A failed call gave nothing, which is not the same as no results.
        if result.code is None:
            plain.outputs = unpack_scalars(result.output)
    elif kind == InvocationKind.BYTES:
        if result.code is None:
            plain.output = to_base64(result.output)
    else:
        plain.stdout = to_base64(result.output)
        plain.stderr = to_base64(result.stderr)
        plain.stdout_truncated = result.stdout_truncated
        plain.stderr_truncated = result.stderr_truncated
        plain.exit_code = result.exit_code
    plain.fuel_consumed = result.fuel_consumed
    plain.fuel_exact = result.fuel_exact
    plain.memory_bytes = result.memory_bytes
    plain.duration_us = result.duration_us
    if result.module_s256 is not None:
        plain.module_s256 = result.module_s256.hex()
    plain.engine = result.engine
    return _write_json(plain)


def encode_avro(result: ExecutionResult) -> bytes:
    """Give the result's single-object Avro form, fields in the schema's order."""
    kind = result.kind
    call = kind == InvocationKind.CALL and result.code is None
    data = kind == InvocationKind.BYTES and result.code is None
    wasi = kind == InvocationKind.WASI
    partition = _LONGS[result.partition]
    return b"".join(
        (
            _HEADER,
            _NAMES[result.topic], partition, varint(result.offset),
            _LONGS[result.count],
            _NULL if result.request_id is None else _SOME + _text(result.request_id),
            _STATUSES[result.status],
            _NULL if result.code is None else _SOME + _NAMES[result.code],
            _NULL if result.code is None else _SOME + _error(result),
            _SOME + _scalars(result.output) if call else _NULL,
            _SOME + _data(result.output) if data else _NULL,
            _SOME + _data(result.output) if wasi else _NULL,
            _SOME + _data(result.stderr) if wasi else _NULL,
            _BOOLEANS[result.stdout_truncated], _BOOLEANS[result.stderr_truncated],
            _NULL if result.exit_code is None else _SOME + _LONGS[result.exit_code],
            _LONGS[result.fuel_consumed], _BOOLEANS[result.fuel_exact],
            _LONGS[result.memory_bytes], _LONGS[result.duration_us],
            _NULL if result.module_s256 is None else _SOME + result.module_s256,
            _NULL if result.engine is None else _SOME + _NAMES[result.engine],
            _NULL if result.salt is None else _SOME + result.salt,
            result.log_id, partition, varint(result.seq),
        )
    )  # fmt: skip


def _data(data: bytes) -> bytes:
    return _LONGS[len(data)] + data


def _text(text: str) -> bytes:
    return _data(text.encode())


def _error(result: ExecutionResult) -> bytes:
    trap = _NULL if result.trap is None else _SOME + _text(result.trap)
    return _text(result.message) + trap


def _scalars(output: bytes) -> bytes:
    """Give one block of the union of scalar records, and the end."""
    items = [
        _LONGS[_SCALARS[kind]]
        + (_FLOATS[kind](value) if kind in _FLOATS else varint(int(value)))
        for kind, value, _ in unpack(output)
    ]
    return _LONGS[len(items)] + b"".join(items) + _NULL if items else _NULL


def decode_result(value: bytes) -> ExecutionResult:
    """Decode a result record's value of either encoding.

    Raises:
        MalformedError: it is no result.
    """
    if value[:HEADER_BYTES] == header(_SCHEMA):
        return _from_avro(value)
    try:
        return _from_json(_read_json(value))
    except (msgspec.DecodeError, ValueError) as error:
        message = "not an ExecutionResult"
        raise MalformedError(message) from error


def _from_json(plain: _JsonResult) -> ExecutionResult:
    kind, output = _kind_and_output(plain)
    error = plain.error or _Error("")
    return ExecutionResult(
        topic=plain.source.topic,
        partition=plain.source.partition,
        offset=plain.source.offset,
        count=plain.source.count,
        request_id=plain.request_id,
        status=plain.status,
        code=plain.code,
        message=error.message,
        trap=error.trap,
        kind=kind,
        output=output,
        stderr=from_base64(plain.stderr or ""),
        stdout_truncated=plain.stdout_truncated,
        stderr_truncated=plain.stderr_truncated,
        exit_code=plain.exit_code,
        fuel_consumed=plain.fuel_consumed,
        fuel_exact=plain.fuel_exact,
        memory_bytes=plain.memory_bytes,
        duration_us=plain.duration_us,
        module_s256=None
        if plain.module_s256 is None
        else bytes.fromhex(plain.module_s256),
        engine=plain.engine,
        salt=None if plain.salt is None else bytes.fromhex(plain.salt),
        log_id=bytes.fromhex(plain.audit.log_id),
        seq=plain.audit.seq,
    )


def _kind_and_output(plain: _JsonResult) -> tuple[int | None, bytes]:
    scalars: list[JsonScalar] | None = plain.outputs
    if scalars is not None:
        return InvocationKind.CALL, pack_scalars(scalars)
    if plain.output is not None:
        return InvocationKind.BYTES, from_base64(plain.output)
    if plain.stdout is not None:
        return InvocationKind.WASI, from_base64(plain.stdout)
    return None, b""


def _from_avro(value: bytes) -> ExecutionResult:
    body = io.BytesIO(value[HEADER_BYTES:])
    try:
        plain: Any = schemaless_reader(
            body, parsed_schema(_SCHEMA), return_record_name=True
        )
        if body.read(1):
            message = "bytes follow the result's end"
            raise MalformedError(message)  # noqa: TRY301 - one way out of the parse
        error = plain["error"]
        error = error[1] if isinstance(error, tuple) else error or {}
        kind, output = None, b""
        if plain["outputs"] is not None:
            kind = InvocationKind.CALL
            output = b"".join(
                pack_value(ValueType[tag.rpartition(".")[2]], scalar["value"])
                for tag, scalar in plain["outputs"]
            )
        elif plain["output"] is not None:
            kind, output = InvocationKind.BYTES, plain["output"]
        elif plain["stdout"] is not None:
            kind, output = InvocationKind.WASI, plain["stdout"]
        source, audit = plain["source"], plain["audit"]
        same = (
            "request_id", "status", "code", "stdout_truncated", "stderr_truncated",
            "exit_code", "fuel_consumed", "fuel_exact", "memory_bytes",
            "duration_us", "module_s256", "engine", "salt",
        )  # fmt: skip
        return ExecutionResult(
            topic=source["topic"],
            partition=source["partition"],
            offset=source["offset"],
            count=source["count"],
            message=error.get("message", ""),
            trap=error.get("trap"),
            kind=kind,
            output=output,
            stderr=plain["stderr"] or b"",
            log_id=audit["log_id"],
            seq=audit["seq"],
            **{name: plain[name] for name in same},
        )
    except MalformedError:
        raise
    except Exception as error:  # fastavro raises whatever its parts raise
        message = f"not a decodable {_SCHEMA} value"
        raise MalformedError(message) from error
