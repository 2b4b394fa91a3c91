"""ExecutionResult: ``model.result`` ⇄ record value bytes.

One encoding a deployment writes (RESULT_ENCODING): JSON, which kcat, user
interfaces and Connect read as it is, or single-object Avro. Readers take both, by
the first byte. Source: docs/wire-format.md.
"""

from __future__ import annotations

import io
from typing import Any

import msgspec
from fastavro import schemaless_reader, schemaless_writer

from stream_executor.model.errors import MalformedError
from stream_executor.model.job import InvocationKind
from stream_executor.model.result import ExecutionResult
from stream_executor.model.scalars import ValueType, pack_value, unpack
from stream_executor.wire.json_values import (
    JsonScalar,
    from_base64,
    pack_scalars,
    to_base64,
    unpack_scalars,
)
from stream_executor.wire.schemas import HEADER_BYTES, header, parsed_schema

_SCHEMA = "ExecutionResult.v1"


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
    """Give the result's single-object Avro form."""
    call = result.kind == InvocationKind.CALL and result.code is None
    data = result.kind == InvocationKind.BYTES and result.code is None
    wasi = result.kind == InvocationKind.WASI
    out = io.BytesIO()
    out.write(header(_SCHEMA))
    schemaless_writer(
        out,
        parsed_schema(_SCHEMA),
        {
            "source": {
                "topic": result.topic,
                "partition": result.partition,
                "offset": result.offset,
                "count": result.count,
            },
            "request_id": result.request_id,
            "status": result.status,
            "code": result.code,
            "error": None
            if result.code is None
            else {"message": result.message, "trap": result.trap},
            "outputs": [
                (f"wasm_executor.v1.{t.name}", {"value": v})
                for t, v, _ in unpack(result.output)
            ]
            if call
            else None,
            "output": result.output if data else None,
            "stdout": result.output if wasi else None,
            "stderr": result.stderr if wasi else None,
            "stdout_truncated": result.stdout_truncated,
            "stderr_truncated": result.stderr_truncated,
            "exit_code": result.exit_code,
            "fuel_consumed": result.fuel_consumed,
            "fuel_exact": result.fuel_exact,
            "memory_bytes": result.memory_bytes,
            "duration_us": result.duration_us,
            "module_s256": result.module_s256,
            "engine": result.engine,
            "salt": result.salt,
            "audit": {
                "log_id": result.log_id,
                "partition": result.partition,
                "seq": result.seq,
            },
        },
    )
    return out.getvalue()


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
