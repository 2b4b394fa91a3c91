"""What guests may do, what stops them, and what their end is called.

What endless guests end with is in ``hostile``, with every other attack.
"""

from __future__ import annotations

import hashlib
import math
import struct
from typing import TYPE_CHECKING

import pytest

from stream_executor.model.codes import Code, TrapKind
from stream_executor.model.scalars import ValueType, pack_bits, pack_value, unpack
from tests.integration.sandbox import guests
from tests.integration.sandbox.guests import (
    call,
    command,
    i32,
    limits,
    run_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stream_executor.model.job import Job, Report
    from stream_executor.sandbox.local import LocalSandbox

    Run = Callable[[Job], Awaitable[Report]]

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGE = 65536


async def test_a_call_gives_packed_results_exact_fuel_and_no_message(run: Run) -> None:
    report = await run(call(guests.ADD, "add", i32(2, -3)))
    assert report.code is None
    assert report.output == i32(-1)
    assert (report.fuel_consumed, report.fuel_exact) == (4, True)
    assert (report.message, report.trap, report.memory_bytes) == ("", None, 0)


async def test_every_scalar_type_keeps_its_bits_both_ways(run: Run) -> None:
    payload_nan = pack_bits(ValueType.F32, 0x7FA1B2C3)
    wide = pack_value(ValueType.I64, -(2**63))
    double = pack_value(ValueType.F64, -0.0)
    small = pack_value(ValueType.I32, -1)
    job = call(guests.ADD, "mix", wide + payload_nan + double + small)
    report = await run(job)
    assert report.output == double + small + wide + payload_nan


async def test_a_computed_nan_is_canonical(run: Run) -> None:
    report = await run(call(guests.ADD, "nan"))
    ((_, value, bits),) = unpack(report.output)
    assert math.isnan(value)
    assert bits == 0x7FC00000


@pytest.mark.parametrize(
    "args",
    [
        b"",
        i32(1),
        i32(1, 2, 3),
        pack_value(ValueType.I64, 1) + i32(1),
        i32(1, 2)[:-1],
        i32(1, 2) + b"x",
    ],
)
async def test_arguments_that_do_not_fit_never_reach_the_guest(
    run: Run, args: bytes
) -> None:
    report = await run(call(guests.ADD, "add", args))
    assert report.code == Code.BAD_ARGUMENTS
    assert report.message == "'add' takes (i32, i32)"


async def test_an_unknown_function_is_named_in_safe_text(run: Run) -> None:
    report = await run(call(guests.ADD, "a\x1b[31m\r\n" + "é" * 400))
    assert report.code == Code.FUNCTION_NOT_FOUND
    assert report.message.isprintable()
    assert len(report.message) < 512


@pytest.mark.parametrize("function", ["vector", "reference"])
async def test_types_that_a_call_cannot_carry_are_refused_not_inspected(
    run: Run, function: str
) -> None:
    """A v128 parameter ends a process that asks wasmtime for its type."""
    report = await run(call(guests.SIGNATURE, function))
    assert report.code == Code.BAD_ARGUMENTS


@pytest.mark.parametrize(
    ("module", "function", "kind"),
    [
        (guests.HOSTILE, "unreachable", TrapKind.UNREACHABLE),
        (guests.HOSTILE, "divide", TrapKind.INTEGER_DIVIDE_BY_ZERO),
        (guests.HOSTILE, "overflow", TrapKind.INTEGER_OVERFLOW),
        (guests.HOSTILE, "convert", TrapKind.BAD_CONVERSION),
        (guests.HOSTILE, "load", TrapKind.MEMORY_OUT_OF_BOUNDS),
        (guests.HOSTILE, "table", TrapKind.TABLE_OUT_OF_BOUNDS),
        (guests.HOSTILE, "null", TrapKind.INDIRECT_CALL_TO_NULL),
        (guests.SIGNATURE, "wrong", TrapKind.BAD_SIGNATURE),
        (guests.EXCEPTION, "throw", TrapKind.UNCAUGHT_EXCEPTION),
        (guests.START_TRAPS, "f", TrapKind.UNREACHABLE),
    ],
)
async def test_a_trap_is_named_by_its_kind(
    run: Run, module: str, function: str, kind: TrapKind
) -> None:
    report = await run(call(module, function))
    assert (report.code, report.trap) == (Code.TRAP, kind)
    assert not report.fuel_exact


@pytest.mark.threat("T-17")
async def test_memory_grows_up_to_its_limit_and_not_beyond(run: Run) -> None:
    bound = limits(memory=10 * PAGE)
    report = await run(call(guests.HOSTILE, "grow", i32(9), bound))
    assert (report.output, report.memory_bytes) == (i32(1), 10 * PAGE)
    report = await run(call(guests.HOSTILE, "grow", i32(10), bound))
    assert (report.output, report.memory_bytes) == (i32(-1), PAGE)
    report = await run(call(guests.HOSTILE, "grow_for_ever", b"", bound))
    assert (report.code, report.memory_bytes) == (Code.FUEL_EXHAUSTED, 10 * PAGE)


@pytest.mark.threat("T-17")
async def test_a_table_does_not_grow_beyond_its_limit(run: Run) -> None:
    assert (await run(call(guests.HOSTILE, "grow_table", i32(10**8)))).output == i32(-1)


@pytest.mark.parametrize("module", [guests.LARGE_MEMORY, guests.LARGE_TABLE])
async def test_a_minimum_above_the_limit_is_refused_before_instantiation(
    run: Run, module: str
) -> None:
    report = await run(call(module, "f"))
    assert (report.code, report.fuel_consumed) == (Code.MEMORY_LIMIT, 0)


async def test_a_granted_module_may_have_more_memory(run: Run) -> None:
    report = await run(call(guests.LARGE_MEMORY, "f", limits=limits(memory=2**27)))
    assert (report.code, report.memory_bytes) == (None, 2000 * PAGE)


async def test_memory_that_is_not_exported_is_reported_by_its_minimum(run: Run) -> None:
    assert (await run(call(guests.HIDDEN_MEMORY, "f"))).memory_bytes == 3 * PAGE


async def test_an_import_is_unknown_to_calls_and_foreign_to_wasi(run: Run) -> None:
    report = await run(call(guests.FOREIGN_IMPORT, "f"))
    assert report.code == Code.UNKNOWN_IMPORT
    assert "'get' from 'env'" in report.message
    assert (await run(call(guests.CAT, "_start"))).code == Code.UNKNOWN_IMPORT


async def test_a_reactor_is_initialized_before_its_function(run: Run) -> None:
    assert (await run(call(guests.REACTOR, "get"))).output == i32(42)


async def test_nothing_of_one_job_is_left_for_the_next(sandbox: LocalSandbox) -> None:
    reports = await sandbox.run([call(guests.STATE, "count")] * 300)
    assert {(report.output, report.fuel_consumed) for report in reports} == {
        (i32(1), reports[0].fuel_consumed)
    }


# -- BYTES -----------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 65_000])
async def test_bytes_go_in_and_come_out(run: Run, size: int) -> None:
    data = hashlib.shake_128(b"x").digest(size)
    report = await run(run_bytes(guests.ECHO, data))
    assert (report.code, report.output) == (None, data)
    assert report.memory_bytes == 2 * PAGE


async def test_output_beyond_the_cap_is_refused_whole(run: Run) -> None:
    report = await run(run_bytes(guests.ECHO, bytes(101), output_bytes=100))
    assert (report.code, report.output) == (Code.OUTPUT_LIMIT, b"")


@pytest.mark.parametrize(
    ("alloc", "answer"),
    [
        ("65535", "0"),
        ("-1", "0"),
        ("0", f"{(65535 << 32) | 2}"),
        ("0", f"{(0xFFFFFFFF << 32) | 0xFFFFFFFF}"),
        ("0", f"{(1 << 32) | 0xFFFFFFFF}"),
    ],
)
async def test_regions_outside_of_memory_are_traps(
    sandbox: LocalSandbox, run: Run, alloc: str, answer: str
) -> None:
    text = guests.bytes_guest(alloc, answer)
    sandbox.add(guests.wasm(text))
    report = await run(run_bytes(text, b"abc"))
    assert (report.code, report.trap) == (Code.TRAP, TrapKind.MEMORY_OUT_OF_BOUNDS)
    assert report.output == b""


async def test_a_module_without_the_abi_is_told_what_is_missing(run: Run) -> None:
    report = await run(run_bytes(guests.ADD, b""))
    assert report.code == Code.FUNCTION_NOT_FOUND
    assert "alloc" in report.message


# -- WASI ------------------------------------------------------------------------


async def test_a_command_reads_stdin_and_writes_stdout(run: Run) -> None:
    data = b"0123456789" * 5000
    report = await run(command(guests.CAT, data))
    assert (report.code, report.exit_code) == (None, 0)
    assert (report.output, report.stderr) == (data, b"")


async def test_exit_codes_from_126_on_are_exit_codes(run: Run) -> None:
    report = await run(command(guests.CAT, b"!"))
    assert (report.code, report.exit_code) == (Code.GUEST_EXIT, 200)
    assert report.output == b"!"
    assert report.fuel_exact


async def test_clock_and_chance_come_from_the_job(run: Run) -> None:
    first, second = [await run(command(guests.CHANCE)) for _ in range(2)]
    assert first.output == second.output
    assert first.fuel_consumed == second.fuel_consumed
    realtime, monotonic = struct.unpack("<QQ", first.output[32:])
    assert realtime == guests.NOW_MS * 1_000_000 + 1_000
    assert monotonic == 2_000
    assert len(set(first.output[:32])) > 16


@pytest.mark.threat("T-17")
async def test_a_flood_is_cut_and_paid_for(run: Run) -> None:
    report = await run(command(guests.FLOOD, output_bytes=1000))
    assert report.code == Code.FUEL_EXHAUSTED
    assert (len(report.output), report.stderr) == (1000, b"")
    assert report.stdout_truncated
    assert report.stderr_truncated
    assert report.exit_code is None


async def test_sleeping_for_an_hour_takes_no_time(run: Run) -> None:
    report = await run(command(guests.SLEEP, limits=limits(deadline_ms=1_000)))
    assert (report.code, report.exit_code) == (None, 0)


@pytest.mark.threat("T-16")
async def test_bad_pointers_are_fault_and_too_many_vectors_invalid(run: Run) -> None:
    report = await run(command(guests.BAD_POINTERS))
    assert report.exit_code == 21 + 21 + 28 + 21


async def test_a_foreign_import_is_named_to_a_command(
    sandbox: LocalSandbox, run: Run
) -> None:
    text = """(module (import "wasi_snapshot_preview1" "sched_yield"
      (func (result i32))) (import "env" "get" (func)) (func (export "_start")))"""
    sandbox.add(guests.wasm(text))
    report = await run(command(text))
    assert report.code == Code.UNKNOWN_IMPORT
    assert "'get' from 'env'" in report.message


async def test_a_wasi_function_of_another_type_is_unknown(
    sandbox: LocalSandbox, run: Run
) -> None:
    text = """(module (import "wasi_snapshot_preview1" "sched_yield" (func))
      (func (export "_start")))"""
    sandbox.add(guests.wasm(text))
    assert (await run(command(text))).code == Code.UNKNOWN_IMPORT


async def test_a_module_that_is_no_command_is_told_so(run: Run) -> None:
    assert (await run(command(guests.ADD))).code == Code.FUNCTION_NOT_FOUND


@pytest.mark.parametrize("kind", ["call", "command"])
@pytest.mark.parametrize(
    ("module", "fuel", "code"),
    [
        (guests.START_TRAPS_WITH_MEMORY, 1000, Code.TRAP),
        (guests.SEGMENT_OUTSIDE, 1000, Code.TRAP),
        (guests.LARGE_SEGMENT, 1000, Code.FUEL_EXHAUSTED),
        (guests.LARGE_SEGMENT, 1_000_000, None),
    ],
)
async def test_a_trap_before_there_is_an_instance_is_a_report(
    run: Run, module: str, fuel: int, code: Code | None, kind: str
) -> None:
    """The engine ends a process that asks an earlier guest's instance anything."""
    few = limits(fuel=fuel)
    job = (
        command(module, limits=few)
        if kind == "command"
        else call(module, "f", limits=few)
    )
    await run(command(guests.CAT, b"x"))  # leaves an instance behind
    report = await run(job)
    assert report.code == code
    assert (report.memory_bytes == 0) == (code is not None)


async def test_a_start_function_may_end_a_command(run: Run) -> None:
    report = await run(command(guests.START_EXITS))
    assert (report.code, report.exit_code) == (Code.GUEST_EXIT, 3)
