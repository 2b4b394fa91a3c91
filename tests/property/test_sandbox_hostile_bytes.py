"""Parsers of hostile bytes are total: a value, or ``MalformedError``, nothing else."""

from __future__ import annotations

import contextlib

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stream_executor.model.codes import Code, TrapKind
from stream_executor.model.errors import MalformedError
from stream_executor.model.job import Report
from stream_executor.sandbox import protocol
from stream_executor.sandbox.inspect import MAGIC, ModuleShape, inspect_module
from stream_executor.sandbox.protocol import (
    Reply,
    decode_compiled,
    decode_hello,
    decode_reply,
    frame,
    validate_reply,
)
from tests.integration.sandbox import guests

MODULES = [
    guests.wasm(text)
    for text in (guests.ADD, guests.HOSTILE, guests.CAT, guests.SIGNATURE, guests.ECHO)
]
JOBS = [
    guests.call(guests.ADD, "add", guests.i32(1, 2)),
    guests.run_bytes(guests.ECHO, b"abc", output_bytes=8),
    guests.command(guests.CAT, b"abc", output_bytes=8),
]
_SECTIONS = st.integers(0, 14).flatmap(
    lambda n: st.binary(max_size=60).map(lambda b: bytes([n, len(b)]) + b)
)


@given(st.binary(max_size=200) | st.lists(_SECTIONS, max_size=6).map(b"".join))
@settings(max_examples=400)
def test_any_bytes_behind_the_magic_are_a_shape_or_malformed(data: bytes) -> None:
    with contextlib.suppress(MalformedError):
        assert isinstance(inspect_module(MAGIC + data), ModuleShape)


@given(
    st.sampled_from(MODULES),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4),
    st.integers(0, 10**6),
)
@settings(max_examples=400)
def test_a_damaged_module_is_a_shape_or_malformed(
    module: bytes, changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(module)
    for at, value in changes:
        data[at % len(data)] = value
    with contextlib.suppress(MalformedError):
        inspect_module(bytes(data[: 8 + cut % len(data)]))


@given(st.binary(max_size=300))
@example(b"\x95\x01\x00\x90\xc3\xcf\xff\xff\xff\xff\xff\xff\xff\xff")
@settings(max_examples=400)
def test_any_bytes_are_a_message_or_malformed(data: bytes) -> None:
    for decode in (
        decode_reply,
        lambda body: decode_hello(body, bytes(32)),
        lambda body: decode_compiled(body, 1000),
    ):
        with contextlib.suppress(MalformedError):
            decode(data)


_TEXT = st.none() | st.sampled_from([*Code, *TrapKind]) | st.text(max_size=5)
_NUMBER = st.integers(-2, 2) | st.integers(-(2**63), 2**64 - 1)
REPORTS = st.builds(
    Report,
    code=_TEXT,
    trap=_TEXT,
    message=st.text(max_size=600),
    output=st.binary(max_size=20),
    stderr=st.binary(max_size=20),
    stdout_truncated=st.booleans(),
    stderr_truncated=st.booleans(),
    exit_code=st.none() | _NUMBER,
    fuel_consumed=_NUMBER,
    fuel_exact=st.booleans(),
    memory_bytes=_NUMBER,
    duration_us=_NUMBER,
)


@given(st.lists(REPORTS, max_size=4), _NUMBER, _NUMBER, st.booleans(), _NUMBER)
@settings(max_examples=600)
def test_what_validation_lets_through_is_within_the_jobs_limits(
    reports: list[Report],
    number: int,
    first: int,
    done: bool,  # noqa: FBT001 - hypothesis gives it
    cpu_ns: int,
) -> None:
    reply = Reply(number, first, reports, done, cpu_ns)
    try:
        validate_reply(reply, 1, JOBS, 0)
    except MalformedError:
        return
    assert len(reports) <= len(JOBS)
    for report, job in zip(reports, JOBS, strict=False):
        assert 0 <= report.fuel_consumed <= job.limits.fuel_units
        assert 0 <= report.memory_bytes <= job.limits.memory_bytes
        assert report.code is None or report.code in protocol.REPORT_CODES
        assert report.message.isascii()
        assert len(report.output) + len(report.stderr) <= max(job.output_bytes, 9)


@given(st.lists(st.binary(max_size=40), max_size=8), st.data())
def test_frames_survive_any_cutting_of_the_stream(
    bodies: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(frame(body) for body in bodies)
    buffer, found = protocol.FrameBuffer(100), []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        found += list(buffer.feed(stream[:cut]))
        stream = stream[cut:]
    assert [msgspec.msgpack.decode(body) for body in found] == bodies
    assert len(buffer) == 0
