"""What crosses the boundary to the sandbox: a job in, a report out.

These are the only values that the process with the keys and the process with the
guest exchange. A report comes from a process that ran hostile code: whoever
receives one validates it (``sandbox.protocol``) before using a single field.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum

import msgspec


class InvocationKind(IntEnum):
    """How a module is entered; the order is the Avro enum's."""

    CALL = 0
    BYTES = 1
    WASI = 2


class Limits(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Effective limits of one execution.

    Attributes:
        fuel_units: fuel given to the guest.
        memory_bytes: linear memory at most.
        deadline_ms: wall-clock milliseconds from the job's start in the child.
    """

    fuel_units: int
    memory_bytes: int
    deadline_ms: int


class WasiInput(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Arguments, environment and read-only files of a WASI command."""

    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    files: tuple[tuple[str, bytes], ...]


class Job(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One execution, complete: a child needs nothing else but the compiled module.

    Attributes:
        module_s256: SHA-256 digest (32 bytes) of the module's bytes.
        kind: how to enter it (an ``InvocationKind`` value).
        function: exported function for CALL; ignored otherwise.
        payload: CALL: packed scalars (``model.scalars``); BYTES: the input; WASI:
            standard input.
        limits: effective limits.
        output_bytes: most bytes of output (BYTES) or of stdout and stderr together
            (WASI) that are kept.
        now_ms: the frozen clock, milliseconds since 1970 UTC (the lane's time).
        seed: 32 bytes that seed a WASI guest's randomness; empty for the others.
        wasi: arguments, environment, files; None unless WASI.
    """

    module_s256: bytes
    kind: int
    function: str
    payload: bytes
    limits: Limits
    output_bytes: int
    now_ms: int
    seed: bytes
    wasi: WasiInput | None = None


class Report(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What one execution gave; the sandbox's whole answer.

    Attributes:
        code: None on success, else a ``Code`` string.
        trap: a ``TrapKind`` string if code is ``trap``, else None.
        message: safe text for the requester, at most 512 characters, no control
            characters; empty on success.
        output: CALL: packed scalars; BYTES: output bytes; WASI: stdout.
        stderr: WASI: standard error.
        stdout_truncated, stderr_truncated: whether the cap cut them.
        exit_code: WASI: exit code, None if the guest trapped.
        fuel_consumed: fuel units.
        fuel_exact: False after an interrupt: fuel is then a lower bound.
        memory_bytes: linear memory size at the end (0 without memory).
        duration_us: microseconds in the sandbox, measured in the child.
    """

    code: str | None = None
    trap: str | None = None
    message: str = ""
    output: bytes = b""
    stderr: bytes = b""
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    exit_code: int | None = None
    fuel_consumed: int = 0
    fuel_exact: bool = True
    memory_bytes: int = 0
    duration_us: int = 0


class ChildEnd(StrEnum):
    """Why a sandbox child ended before its worker did; closed, it labels a metric.

    DEADLINE: its job ran past it. CRASH: anything else, a malformed reply included.
    """

    DEADLINE = "deadline"
    CRASH = "crash"
