"""The BYTES conversation: bytes in through ``alloc`` and ``run``, bytes out.

``docs/module-abi.md`` is the contract. All pointers come from a hostile guest: they
are unsigned 32-bit values, and every range is checked in 64 bits against the
memory's size at that moment before a byte is copied.

Not here: instantiation and limits (``guest.Guest.session``).
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from stream_executor.model.codes import Code, TrapKind
from stream_executor.model.job import Job, Report
from stream_executor.model.scalars import ValueType
from stream_executor.sandbox.fast import elapsed_us
from stream_executor.sandbox.inspect import Signature
from stream_executor.sandbox.outcome import Ending, refusal

if TYPE_CHECKING:
    from stream_executor.sandbox.guest import Guest, Run

MEMORY = "memory"
ALLOC, ALLOC_TYPE = "alloc", Signature(bytes([ValueType.I32]), bytes([ValueType.I32]))
RUN = "run"
RUN_TYPE = Signature(bytes([ValueType.I32] * 2), bytes([ValueType.I64]))

_U32 = 2**32 - 1
_BAD_INPUT_PLACE = Ending(
    Code.TRAP,
    TrapKind.MEMORY_OUT_OF_BOUNDS,
    "alloc gave a region outside of memory",
)
_BAD_OUTPUT_PLACE = Ending(
    Code.TRAP,
    TrapKind.MEMORY_OUT_OF_BOUNDS,
    "run gave a region outside of memory",
)


def bytes_runner(guest: Guest) -> Run:
    """Give ``run(job)`` for BYTES jobs on one module."""
    shape = guest.shape
    if (
        shape.memory != MEMORY
        or shape.functions.get(ALLOC) != ALLOC_TYPE
        or shape.functions.get(RUN) != RUN_TYPE
    ):
        refused = refusal(
            Code.FUNCTION_NOT_FOUND,
            "the module does not export memory, alloc (i32) -> i32 and"
            " run (i32, i32) -> i64",
        )
        return lambda _job: guest.refused() or refused
    return guest.session(lambda *arguments: _converse(guest, *arguments))


def _converse(guest: Guest, context: int, job: Job, started: int) -> Report:
    length = len(job.payload)
    error, well = guest.invoke(context, ALLOC, (length,), 1)
    if not well:
        return guest.failed(context, job, started, error)
    place = guest.result_i64() & _U32
    if place + length > guest.memory_bytes(context):
        return guest.report(context, job, started, _BAD_INPUT_PLACE)
    if length:
        ctypes.memmove(guest.memory_at(context) + place, job.payload, length)
    error, well = guest.invoke(context, RUN, (place, length), 1)
    if not well:
        return guest.failed(context, job, started, error)
    packed = guest.result_i64()
    place, length = packed >> 32, packed & _U32
    size = guest.memory_bytes(context)
    if place + length > size:
        return guest.report(context, job, started, _BAD_OUTPUT_PLACE)
    used = job.limits.fuel_units - guest.fuel_left(context)
    if length > job.output_bytes:
        return Report(
            code=Code.OUTPUT_LIMIT,
            message=f"the output has {length} bytes; {job.output_bytes} are allowed",
            fuel_consumed=used,
            memory_bytes=size,
            duration_us=elapsed_us(started),
        )
    output = ctypes.string_at(guest.memory_at(context) + place, length)
    return Report(
        output=output,
        fuel_consumed=used,
        memory_bytes=size,
        duration_us=elapsed_us(started),
    )
