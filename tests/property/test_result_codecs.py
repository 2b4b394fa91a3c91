"""Results: our Avro writer against fastavro's, and both encodings there and back."""

from __future__ import annotations

import io

from fastavro import schemaless_writer
from hypothesis import given
from hypothesis import strategies as st

from stream_executor.model.codes import Code, Status
from stream_executor.model.job import InvocationKind
from stream_executor.model.result import ExecutionResult
from stream_executor.model.scalars import ValueType, pack_value, unpack
from stream_executor.wire.results import decode_result, encode_avro, encode_json
from stream_executor.wire.schemas import HEADER_BYTES, header, parsed_schema

LONGS = st.integers(0, 2**63 - 1)
SCALARS = st.one_of(
    st.integers(-(2**31), 2**31 - 1).map(lambda v: pack_value(ValueType.I32, v)),
    st.integers(-(2**63), 2**63 - 1).map(lambda v: pack_value(ValueType.I64, v)),
    st.floats(width=32, allow_nan=False).map(lambda v: pack_value(ValueType.F32, v)),
    st.floats(allow_nan=False).map(lambda v: pack_value(ValueType.F64, v)),
)
SHORT = st.text(max_size=20)


@st.composite
def results(draw: st.DrawFn) -> ExecutionResult:
    code = draw(st.none() | st.sampled_from(list(Code)).map(str))
    kind = draw(st.none() | st.sampled_from(list(InvocationKind)).map(int))
    if code is None and kind is None:
        kind = int(InvocationKind.BYTES)
    wasi = kind == InvocationKind.WASI
    gives = kind is not None and (code is None or wasi)
    output = b""
    if gives:
        call = kind == InvocationKind.CALL
        output = draw(
            st.lists(SCALARS, max_size=4).map(b"".join)
            if call
            else st.binary(max_size=30)
        )
    return ExecutionResult(
        topic=draw(SHORT), partition=draw(st.integers(0, 2**31 - 1)),
        offset=draw(LONGS), count=draw(LONGS), request_id=draw(st.none() | SHORT),
        status=draw(st.sampled_from(list(Status)).map(str)), code=code,
        message="" if code is None else draw(SHORT),
        trap=None if code is None else draw(st.none() | SHORT),
        kind=kind if gives else None, output=output,
        stderr=draw(st.binary(max_size=30)) if wasi else b"",
        stdout_truncated=wasi and draw(st.booleans()),
        stderr_truncated=wasi and draw(st.booleans()),
        exit_code=draw(st.none() | st.integers(0, 2**31 - 1)) if wasi else None,
        fuel_consumed=draw(LONGS), fuel_exact=draw(st.booleans()),
        memory_bytes=draw(LONGS), duration_us=draw(LONGS),
        module_s256=draw(st.none() | st.binary(min_size=32, max_size=32)),
        engine=draw(st.none() | SHORT),
        salt=draw(st.none() | st.binary(min_size=16, max_size=16)),
        log_id=draw(st.binary(min_size=16, max_size=16)), seq=draw(LONGS),
    )  # fmt: skip


def by_fastavro(result: ExecutionResult) -> bytes:
    kind, good = result.kind, result.code is None
    call = kind == InvocationKind.CALL and good
    wasi = kind == InvocationKind.WASI
    same = (
        "request_id", "status", "code", "stdout_truncated", "stderr_truncated",
        "exit_code", "fuel_consumed", "fuel_exact", "memory_bytes", "duration_us",
        "module_s256", "engine", "salt",
    )  # fmt: skip
    plain = {name: getattr(result, name) for name in same}
    plain |= {
        name: {part: getattr(result, part) for part in parts}
        for name, parts in (
            ("source", ("topic", "partition", "offset", "count")),
            ("audit", ("log_id", "partition", "seq")),
            ("error", ("message", "trap")),
        )
    }
    plain["error"] = None if good else plain["error"]
    plain["outputs"] = None
    if call:
        plain["outputs"] = [
            (f"wasm_executor.v1.{t.name}", {"value": v})
            for t, v, _ in unpack(result.output)
        ]
    data = kind == InvocationKind.BYTES and good
    plain["output"] = result.output if data else None
    plain["stdout"] = result.output if wasi else None
    plain["stderr"] = result.stderr if wasi else None
    out = io.BytesIO()
    schemaless_writer(out, parsed_schema("ExecutionResult.v1"), plain)
    return out.getvalue()


@given(results())
def test_our_writer_gives_fastavros_bytes(result: ExecutionResult) -> None:
    value = encode_avro(result)
    assert value[:HEADER_BYTES] == header("ExecutionResult.v1")
    assert value[HEADER_BYTES:] == by_fastavro(result)
    assert decode_result(value) == result


@given(results())
def test_json_there_and_back(result: ExecutionResult) -> None:
    decoded = decode_result(encode_json(result))
    if result.kind is None:  # JSON leaves out what describes no execution
        assert (decoded.code, decoded.offset) == (result.code, result.offset)
    else:
        assert encode_json(decoded) == encode_json(result)
