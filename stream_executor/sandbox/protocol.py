"""Frames between the process with the keys and the processes with the guests.

A frame is four bytes of little-endian length and one msgpack value of a fixed type;
nothing is ever unpickled. Lengths are capped in both directions. File descriptors
(compiled modules) travel as SCM_RIGHTS with the first byte of their frame.

Everything that comes from a child is hostile: ``decode_reply`` and
``validate_reply`` are the only way in, raise only ``MalformedError``, and whoever
gets that kills the child. They are pure.

Not here: sockets and processes (``process``, ``pool``).
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

import msgspec

from stream_executor.model.codes import Code, TrapKind
from stream_executor.model.errors import MalformedError
from stream_executor.model.job import InvocationKind, Job, Report

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HEADER_BYTES = 4
MAX_ORDER_BYTES = 256 * 1024 * 1024  # parent to child: one job with its files
MAX_OUTPUT_BYTES = 8 * 1024 * 1024  # of one job, whatever its own cap says
MAX_SHAPE_BYTES = 4 * 1024 * 1024
MAX_REPLY_BYTES = MAX_OUTPUT_BYTES + 2 * 1024 * 1024
MAX_BATCH_JOBS = 256
MAX_MESSAGE_CHARS = 512

# Where things are in the page that parent and child share. The parent treats what
# the child wrote as a hint: see ``pool``.
PAGE_BYTES = 4096
STARTED_AT = 0  # u64, child: number of the job that it started last
STOP_AT = 64  # u64, parent: number of the first job that the child must not start
NEVER = 2**64 - 1

HARDENING = ("landlock", "no-new-privs", "pdeathsig", "rlimits", "seccomp", "user")
"""Everything that ``harden`` can apply; what a hello may report."""


class ChildConfig(msgspec.Struct, frozen=True, array_like=True):
    """The first frame that a child gets: all it ever learns of its surroundings."""

    max_stack_bytes: int
    data_bytes: int
    parent_pid: int
    uid: int | None
    gid: int | None
    require_hardening: bool
    cpu_s: int | None = None
    file_bytes: int = 0


class Hello(msgspec.Struct, frozen=True, array_like=True):
    """The first frame from a child, sent once it is locked down and its probe ran."""

    hardening: list[str]
    engine_config_s256: bytes


class Announce(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A compiled module; its artefact's descriptor comes with the frame."""

    s256: bytes
    shape: bytes
    size: int


class Forget(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Drop a module that was announced."""

    s256: bytes


class Batch(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Jobs of one issuer; ``number`` is the first one's, and rises without gaps."""

    number: int
    jobs: list[Job]


Order = Announce | Forget | Batch


class Reply(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Reports of the batch ``number``, from its job ``first`` on.

    ``done`` ends the batch; jobs without a report were stopped by ``STOP_AT``.
    ``cpu_ns`` is the child's CPU time since its start.
    """

    number: int
    first: int
    reports: list[Report]
    done: bool
    cpu_ns: int


class CompileOrder(msgspec.Struct, frozen=True, array_like=True):
    """Compile one module; descriptors: the module, and an empty one to write to."""

    size: int


class Compiled(msgspec.Struct, frozen=True, array_like=True):
    """What compiling gave: a refusal, or an artefact of ``size`` bytes."""

    code: str | None
    message: str
    size: int
    shape: bytes


# A job cannot make a child say anything else; other codes are decided elsewhere.
REPORT_CODES = frozenset(
    {
        Code.FUNCTION_NOT_FOUND,
        Code.BAD_ARGUMENTS,
        Code.UNKNOWN_IMPORT,
        Code.FUEL_EXHAUSTED,
        Code.TIMEOUT,
        Code.MEMORY_LIMIT,
        Code.STACK_OVERFLOW,
        Code.OUTPUT_LIMIT,
        Code.TRAP,
        Code.GUEST_EXIT,
        Code.INTERNAL,
    }
)
COMPILE_CODES = frozenset({Code.INVALID_WASM, Code.COMPILE_LIMIT, Code.MEMORY_LIMIT})
_TRAPS = frozenset(TrapKind)
_CALL, _WASI = int(InvocationKind.CALL), int(InvocationKind.WASI)
_MAX_U32 = 2**32 - 1
_MAX_DURATION_US = 2**53
# Scalars of i32 and f32, then of i64 and f64. Possessive: a mismatch goes back nowhere.
_SCALARS = re.compile(
    rb"(?:[\x7f\x7d]....\0\0\0\0|[\x7e\x7c]........)*+", re.DOTALL
).fullmatch

_encode = msgspec.msgpack.Encoder().encode
_decode_hello = msgspec.msgpack.Decoder(Hello).decode
_decode_reply = msgspec.msgpack.Decoder(Reply).decode
_decode_compiled = msgspec.msgpack.Decoder(Compiled).decode
decode_order = msgspec.msgpack.Decoder(Order).decode
decode_config = msgspec.msgpack.Decoder(ChildConfig).decode
decode_compile_order = msgspec.msgpack.Decoder(CompileOrder).decode
_pack_length = struct.Struct("<I").pack
_unpack_length = struct.Struct("<I").unpack_from


def frame(value: object) -> bytes:
    """Give the frame of a value."""
    body = _encode(value)
    return _pack_length(len(body)) + body


class FrameBuffer:
    """Cut a byte stream into frame bodies; holds at most one frame plus one read.

    Args:
        max_bytes: a longer frame is malformed; it is refused by its header.
    """

    def __init__(self, max_bytes: int) -> None:
        self._data = bytearray()
        self._max_bytes = max_bytes

    def __len__(self) -> int:
        return len(self._data)

    def feed(self, data: bytes | memoryview) -> Iterator[bytes]:
        """Take what was read; give each complete body.

        Raises:
            MalformedError: a header announces more than ``max_bytes``.
        """
        buffer = self._data
        buffer += data
        at = 0
        try:
            while len(buffer) - at >= HEADER_BYTES:
                (length,) = _unpack_length(buffer, at)
                if length > self._max_bytes:
                    raise MalformedError(f"a frame of {length} bytes is too long")
                end = at + HEADER_BYTES + length
                if len(buffer) < end:
                    return
                body = bytes(memoryview(buffer)[at + HEADER_BYTES : end])
                at = end
                yield body
        finally:
            del buffer[:at]


def decode_hello(body: bytes, engine_config_s256: bytes) -> Hello:
    """Decode and validate a child's first frame.

    Raises:
        MalformedError: another form, unknown words, or another engine configuration.
    """
    try:
        hello = _decode_hello(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedError("a hello does not decode") from error
    known = hello.hardening == sorted(set(hello.hardening) & set(HARDENING))
    if not known or hello.engine_config_s256 != engine_config_s256:
        raise MalformedError("a hello says what no child of ours says")
    return hello


def decode_compiled(body: bytes, max_artefact_bytes: int) -> Compiled:
    """Decode and validate the answer of a compile child.

    Raises:
        MalformedError: another form, or values that contradict each other.
    """
    try:
        compiled = _decode_compiled(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedError("a compile reply does not decode") from error
    refused = compiled.code is not None
    if refused and compiled.code not in COMPILE_CODES:
        raise MalformedError("a compile reply has an unknown code")
    if refused != (compiled.size == 0) or refused != (not compiled.shape):
        raise MalformedError("a compile reply contradicts itself")
    if compiled.size not in range(max_artefact_bytes + 1):
        raise MalformedError(f"an artefact of {compiled.size} bytes")
    if refused != bool(compiled.message) or not safe_text(compiled.message):
        raise MalformedError("a compile reply has an unsafe message")
    return compiled


def decode_reply(body: bytes) -> Reply:
    """Decode a reply's form; its content still needs ``validate_reply``.

    Raises:
        MalformedError: the bytes are not a reply.
    """
    try:
        return _decode_reply(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedError("a reply does not decode") from error


def validate_reply(reply: Reply, number: int, jobs: Sequence[Job], first: int) -> Reply:
    """Give back a reply that is true to the protocol and to its jobs' limits.

    Args:
        reply: from ``decode_reply``.
        number: of the oldest batch that the child has not finished.
        jobs: that batch's jobs.
        first: how many of them it has reported already.

    Raises:
        MalformedError: another batch, a report out of order or too many, an unknown
            word, an unsafe message, a value beyond its job's limits.

    Cost: about 0.5 µs a report; no copies.
    """
    if reply.number != number or reply.first != first:
        raise MalformedError(
            f"reply {reply.number}.{reply.first}, not {number}.{first}"
        )
    if not 0 <= reply.cpu_ns < 2**63:
        raise MalformedError(f"{reply.cpu_ns} ns of CPU time")
    if len(reply.reports) > len(jobs) - first:
        raise MalformedError(f"{len(reply.reports)} reports for {len(jobs)} jobs")
    index = first
    for report in reply.reports:
        job = jobs[index]
        limits = job.limits
        if not 0 <= report.fuel_consumed <= limits.fuel_units:
            raise MalformedError(f"{report.fuel_consumed} of {limits.fuel_units} fuel")
        if not 0 <= report.memory_bytes <= limits.memory_bytes:
            raise MalformedError(f"{report.memory_bytes} bytes of memory")
        if not 0 <= report.duration_us < _MAX_DURATION_US:
            raise MalformedError(f"{report.duration_us} µs")
        if report.code is None:
            _validate_success(report, job)
        else:
            _validate_failure(report, job)
        if job.kind != _WASI and (
            report.stderr or report.stdout_truncated or report.stderr_truncated
        ):
            raise MalformedError("the marks of a WASI command on another invocation")
        index += 1
    return reply


def _validate_success(report: Report, job: Job) -> None:
    if report.trap is not None or report.message or not report.fuel_exact:
        raise MalformedError("a success with the marks of a failure")
    if report.exit_code != (0 if job.kind == _WASI else None):
        raise MalformedError("a success with another exit code")
    if job.kind == _CALL:
        if _SCALARS(report.output) is None:
            raise MalformedError(f"{len(report.output)} bytes are no scalars")
    else:
        _validate_sizes(report, job)


def _validate_sizes(report: Report, job: Job) -> None:
    if len(report.output) + len(report.stderr) > job.output_bytes:
        raise MalformedError(f"{len(report.output)} bytes of output")


def _validate_failure(report: Report, job: Job) -> None:
    if report.code not in REPORT_CODES:
        raise MalformedError("a report has an unknown code")
    if (report.code == Code.TRAP) != (report.trap in _TRAPS):
        raise MalformedError("a report's trap does not fit its code")
    if report.trap is not None and report.code != Code.TRAP:
        raise MalformedError("a report has a trap that its code excludes")
    if not report.message or not safe_text(report.message):
        raise MalformedError("a report has no message or an unsafe one")
    if report.output and job.kind != _WASI:
        raise MalformedError("a failed invocation with output")
    _validate_sizes(report, job)
    exited = report.code == Code.GUEST_EXIT
    if exited != (report.exit_code is not None) or (exited and job.kind != _WASI):
        raise MalformedError("an exit code that the code excludes")
    if report.exit_code is not None and not 0 < report.exit_code <= _MAX_U32:
        raise MalformedError(f"exit code {report.exit_code}")


def safe_text(text: str) -> bool:
    """Whether a message can go into logs and results as it is."""
    return len(text) <= MAX_MESSAGE_CHARS and text.isascii() and text.isprintable()
