"""What a child may say, and what ends it."""

from __future__ import annotations

import msgspec
import pytest

from stream_executor.model.codes import Code, TrapKind
from stream_executor.model.errors import MalformedError
from stream_executor.model.job import Job, Report
from stream_executor.model.scalars import ValueType, pack_bits
from stream_executor.sandbox import protocol
from stream_executor.sandbox.protocol import (
    Compiled,
    FrameBuffer,
    Hello,
    Reply,
    decode_compiled,
    decode_hello,
    frame,
    validate_reply,
)
from tests.integration.sandbox import guests

CALL = guests.call(guests.ADD, "add", guests.i32(1, 2))
BYTES = guests.run_bytes(guests.ECHO, b"", output_bytes=8)
WASI = guests.command(guests.CAT, output_bytes=8)
SUM = Report(output=guests.i32(3), fuel_consumed=4)
EVERY_TYPE = b"".join(pack_bits(kind, 0x0A0A0A0A) for kind in ValueType)
FAILED = Report(code=Code.INTERNAL, message="it failed")
TRAPPED = Report(code=Code.TRAP, trap=TrapKind.UNREACHABLE, message="trap")
EXITED = Report(code=Code.GUEST_EXIT, message="exit", exit_code=7, output=b"out")


def changed(report: Report, **changes: object) -> Report:
    return msgspec.structs.replace(report, **changes)


def check(report: Report, job: Job) -> None:
    validate_reply(Reply(1, 0, [report], True, 0), 1, [job], 0)


@pytest.mark.parametrize(
    ("report", "job"),
    [
        (SUM, CALL),
        (changed(SUM, output=b""), CALL),
        (changed(SUM, output=EVERY_TYPE), CALL),
        (FAILED, CALL),
        (TRAPPED, CALL),
        (Report(output=b"12345678"), BYTES),
        (Report(output=b"1234", stderr=b"5678", exit_code=0), WASI),
        (Report(exit_code=0, stdout_truncated=True, stderr_truncated=True), WASI),
        (EXITED, WASI),
        (changed(TRAPPED, output=b"out", fuel_exact=False), WASI),
    ],
)
def test_what_honest_children_say_is_taken(report: Report, job: Job) -> None:
    check(report, job)


@pytest.mark.parametrize(
    ("report", "job"),
    [
        (changed(SUM, fuel_consumed=CALL.limits.fuel_units + 1), CALL),
        (changed(SUM, fuel_consumed=-1), CALL),
        (changed(SUM, memory_bytes=CALL.limits.memory_bytes + 1), CALL),
        (changed(SUM, duration_us=-1), CALL),
        (changed(SUM, output=b"123"), CALL),
        (changed(SUM, output=b"\x7b" + bytes(8)), CALL),
        (changed(SUM, output=b"\x7f" + b"\1" * 8), CALL),
        (changed(SUM, output=EVERY_TYPE + b"\x7d" + b"\n" * 8), CALL),
        (changed(SUM, output=EVERY_TYPE[:-1]), CALL),
        (changed(SUM, message="hm"), CALL),
        (changed(SUM, trap=TrapKind.UNREACHABLE), CALL),
        (changed(SUM, fuel_exact=False), CALL),
        (changed(SUM, exit_code=0), CALL),
        (changed(SUM, stderr=b"x"), CALL),
        (changed(SUM, stdout_truncated=True), CALL),
        (changed(FAILED, code="no_such"), CALL),
        (changed(FAILED, code=Code.AUTH_REVOKED), CALL),
        (changed(FAILED, code=Code.SANDBOX_CRASHED), CALL),
        (changed(FAILED, message=""), CALL),
        (changed(FAILED, message="a\nb"), CALL),
        (changed(FAILED, message="é"), CALL),
        (changed(FAILED, message="x" * 513), CALL),
        (changed(FAILED, output=b"x"), CALL),
        (changed(FAILED, trap=TrapKind.UNREACHABLE), CALL),
        (changed(FAILED, exit_code=1), CALL),
        (changed(TRAPPED, trap=None), CALL),
        (changed(TRAPPED, trap="odd"), CALL),
        (EXITED, CALL),
        (changed(FAILED, output=b"x"), BYTES),
        (Report(output=b"123456789"), BYTES),
        (Report(output=b"12345", stderr=b"6789", exit_code=0), WASI),
        (Report(), WASI),
        (Report(exit_code=3), WASI),
        (changed(EXITED, exit_code=0), WASI),
        (changed(EXITED, exit_code=2**32), WASI),
        (changed(EXITED, exit_code=None), WASI),
    ],
)
def test_what_no_honest_child_says_is_malformed(report: Report, job: Job) -> None:
    with pytest.raises(MalformedError):
        check(report, job)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(2, 0, [SUM], True, 0),
        Reply(1, 1, [SUM], True, 0),
        Reply(1, 0, [SUM, SUM], True, 0),
        Reply(1, 0, [SUM], True, -1),
    ],
)
def test_reports_come_for_the_oldest_batch_in_order(reply: Reply) -> None:
    with pytest.raises(MalformedError):
        validate_reply(reply, 1, [CALL], 0)


def test_a_frame_that_is_too_long_is_refused_by_its_header() -> None:
    buffer = FrameBuffer(10)
    with pytest.raises(MalformedError, match="11 bytes"):
        list(buffer.feed((11).to_bytes(4, "little")))


@pytest.mark.parametrize(
    "hello",
    [
        Hello(["seccomp", "landlock"], bytes(32)),
        Hello(["seccomp", "seccomp"], bytes(32)),
        Hello(["magic"], bytes(32)),
        Hello([], bytes(31)),
    ],
)
def test_a_hello_is_sorted_known_words_and_our_configuration(hello: Hello) -> None:
    with pytest.raises(MalformedError):
        decode_hello(frame(hello)[4:], bytes(32))


def test_a_hello_of_ours_is_taken() -> None:
    hello = Hello(sorted(protocol.HARDENING), bytes(32))
    assert decode_hello(frame(hello)[4:], bytes(32)) == hello


@pytest.mark.parametrize(
    "compiled",
    [
        Compiled(None, "", 0, b"shape"),
        Compiled(None, "", 101, b"shape"),
        Compiled(None, "", 10, b""),
        Compiled(None, "hm", 10, b"shape"),
        Compiled("invalid_wasm", "no", 10, b""),
        Compiled("invalid_wasm", "", 0, b""),
        Compiled("invalid_wasm", "\x1b", 0, b""),
        Compiled("internal", "no", 0, b""),
    ],
)
def test_a_compile_reply_is_an_artefact_or_a_refusal(compiled: Compiled) -> None:
    with pytest.raises(MalformedError):
        decode_compiled(frame(compiled)[4:], 100)
