"""Hostile modules: one attack each, and the one end that it must have.

``RUNNING`` attacks while it runs, ``REFUSED`` while it is read, compiled or
instantiated. WAT where it can be written, built byte by byte where it is large or
wrong on purpose. Names are claims about what was tried.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from stream_executor.model.codes import Code
from stream_executor.model.job import InvocationKind, Job, Limits, WasiInput
from tests.integration.sandbox import guests
from tests.integration.sandbox.guests import NO_FUEL_END, NOW_MS, SEED, leb, section

PAGE = 65536
MEMORY = 64 * 2**20
FUEL = Limits(5_000_000, MEMORY, 5_000)
CLOCK = Limits(NO_FUEL_END, MEMORY, 200)
HEADER = b"\0asm\1\0\0\0"
OUTPUT_BYTES = 4096


class Attack(NamedTuple):
    """A module, how it is entered, and the code that it must end with.

    Attributes:
        code: None where the attack comes to nothing and the guest ends well.
    """

    module: str | bytes
    code: Code | None
    kind: InvocationKind = InvocationKind.CALL
    limits: Limits = FUEL
    function: str = "f"
    payload: bytes = b""
    wasi: WasiInput | None = None

    @property
    def binary(self) -> bytes:
        """The module's bytes."""
        module = self.module
        return guests.wasm(module) if isinstance(module, str) else module

    def job(self, s256: bytes) -> Job:
        """Give the job on the module of this digest."""
        wasi = self.wasi
        if self.kind == InvocationKind.WASI and wasi is None:
            wasi = WasiInput((), (), ())
        return Job(
            s256, self.kind, self.function, self.payload, self.limits, OUTPUT_BYTES,
            NOW_MS, SEED, wasi,
        )  # fmt: skip


def call(body: str, code: Code | None, limits: Limits = FUEL) -> Attack:
    """A module whose exported ``f`` is this body, after these other parts."""
    return Attack(f"(module {body})", code, limits=limits)


_TYPES = {
    "fd_write": "i32 i32 i32 i32", "fd_read": "i32 i32 i32 i32",
    "random_get": "i32 i32", "sched_yield": "", "poll_oneoff": "i32 i32 i32 i32",
    "path_open": "i32 i32 i32 i32 i32 i64 i64 i32 i32", "args_get": "i32 i32",
}  # fmt: skip


def command(
    host: str,
    body: str,
    code: Code | None,
    limits: Limits = FUEL,
    wasi: WasiInput | None = None,
) -> Attack:
    """A WASI command that imports ``host`` as ``$host`` and does ``body``."""
    params = f"(param {_TYPES[host]})" if _TYPES[host] else ""
    text = f"""(module
      (import "wasi_snapshot_preview1" "{host}" (func $host {params} (result i32)))
      (memory (export "memory") 64)
      (func $main (export "_start") {body}))"""
    return Attack(text, code, InvocationKind.WASI, limits, "", b"x" * 100, wasi)


def _for_ever(body: str) -> str:
    return f"(loop {body} (br 0))"


def _vectors(count: int, length: int) -> str:
    """Code that writes this many I/O vectors at address 0, by a guest's own loop."""
    return f"""(local $i i32)
      (loop $fill
        (i32.store (i32.mul (local.get $i) (i32.const 8)) (i32.const 1048576))
        (i32.store offset=4 (i32.mul (local.get $i) (i32.const 8)) (i32.const {length}))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br_if $fill (i32.lt_u (local.get $i) (i32.const {count}))))"""


def _flood(fd: int) -> str:
    write = f"(drop (call $host (i32.const {fd}) (i32.const 0) (i32.const 1024)"
    return _vectors(1024, 1024) + _for_ever(write + " (i32.const 65000)))")


def huge_frames() -> str:
    """Recursion whose every frame keeps thousands of values alive."""
    count = 3_000
    names = "".join(f"(local.set {n} (i64.add (local.get 0) (i64.const {n})))"
                    for n in range(1, count))  # fmt: skip
    total = "".join(f"(local.get {n}) i64.add " for n in range(1, count))
    return f"""(func $deep (param i64) (result i64) (local {"i64 " * (count - 1)})
      {names} (call $deep (local.get 1)) {total})
      (func (export "f") (drop (call $deep (i64.const 1))))"""


EXCEPTIONS = """(tag $t (param exnref))
  (tag $first)
  (table $kept 100000 exnref)
  (func (export "f") (local $i i32) (local $e exnref)
    (loop $more
      (local.set $e (block $caught (result exnref)
        (try_table (catch_all_ref $caught)
          (if (i32.eqz (local.get $i))
            (then (throw $first))
            (else (throw $t (local.get $e)))))
        unreachable))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br $more)))"""

_TABLES = "".join(f"(table $t{n} 1 funcref)" for n in range(8))
_GROW_TABLES = "".join(
    f"(drop (table.grow $t{n} (ref.null func) (i32.const 50000)))" for n in range(8)
)

RUNNING: dict[str, Attack] = {
    "endless_loop": call(f'(func (export "f") {_for_ever("")})', Code.FUEL_EXHAUSTED),
    "endless_loop_in_the_start_function": call(
        f'(func $s {_for_ever("")}) (start $s) (func (export "f"))',
        Code.FUEL_EXHAUSTED,
    ),
    "endless_loop_with_fuel_without_end": call(
        f'(func (export "f") {_for_ever("")})', Code.TIMEOUT, CLOCK
    ),
    "endless_start_function_with_fuel_without_end": call(
        f'(func $s {_for_ever("")}) (start $s) (func (export "f"))', Code.TIMEOUT, CLOCK
    ),
    # With an exported memory: its size is asked for where there is no instance yet.
    "endless_start_function_with_an_exported_memory": call(
        f'(memory (export "memory") 1) (func $s {_for_ever("")}) (start $s)'
        ' (func (export "f"))',
        Code.FUEL_EXHAUSTED,
    ),
    "recursion_in_the_start_function": call(
        '(memory (export "memory") 1) (func $s (call $s)) (start $s)'
        ' (func (export "f"))',
        Code.STACK_OVERFLOW,
    ),
    "data_larger_than_an_exported_memory": call(
        '(memory (export "memory") 1) (data (i32.const 65535) "ab")'
        ' (func (export "f"))',
        Code.TRAP,
    ),
    "endless_tail_calls": call(
        '(func $t (export "f") (return_call $t))', Code.FUEL_EXHAUSTED
    ),
    "bulk_operations_past_the_clock": call(
        '(memory 1024) (func (export "f") '
        + _for_ever(
            "(memory.fill (i32.const 0) (i32.const 1) (i32.const 67108864))"
        )
        + ")",
        Code.TIMEOUT,
        CLOCK,
    ),
    "bulk_operations_with_little_fuel": call(
        '(memory 1024) (func (export "f") '
        + _for_ever(
            "(memory.fill (i32.const 0) (i32.const 1) (i32.const 67108864))"
        )
        + ")",
        Code.FUEL_EXHAUSTED,
    ),
    "memory_grown_and_touched_to_the_limit": call(
        """(memory (export "memory") 1) (func (export "f") (local $at i32)
          (loop $more
            (local.set $at (memory.grow (i32.const 16)))
            (if (i32.ne (local.get $at) (i32.const -1)) (then
              (memory.fill (i32.mul (local.get $at) (i32.const 65536))
                (i32.const 7) (i32.const 1048576))))
            (br $more)))""",
        Code.TIMEOUT,
        CLOCK,
    ),
    "tables_grown_to_the_limit": call(
        f'{_TABLES} (func (export "f") {_for_ever(_GROW_TABLES)})', Code.TIMEOUT, CLOCK
    ),
    "recursion": call(
        '(func $deep (export "f") (call $deep))', Code.STACK_OVERFLOW
    ),
    "recursion_through_a_table": call(
        """(type $v (func)) (table 1 funcref) (elem (i32.const 0) $deep)
        (func $deep (export "f") (call_indirect (type $v) (i32.const 0)))""",
        Code.STACK_OVERFLOW,
    ),
    "recursion_with_huge_frames": call(
        huge_frames(), Code.STACK_OVERFLOW, Limits(NO_FUEL_END, MEMORY, 5_000)
    ),
    "recursion_through_host_calls": command(
        "sched_yield", "(drop (call $host)) (call $main)", Code.STACK_OVERFLOW,
        Limits(NO_FUEL_END, MEMORY, 5_000),
    ),
    "exceptions_held_for_ever": call(EXCEPTIONS, Code.MEMORY_LIMIT,
                                     Limits(NO_FUEL_END, MEMORY, 5_000)),
    "host_calls_for_ever": command(
        "sched_yield", _for_ever("(drop (call $host))"), Code.FUEL_EXHAUSTED
    ),
    "host_calls_for_ever_with_fuel_without_end": command(
        "sched_yield", _for_ever("(drop (call $host))"), Code.TIMEOUT, CLOCK
    ),
    "stdout_flood": command("fd_write", _flood(1), Code.FUEL_EXHAUSTED),
    "stderr_flood": command("fd_write", _flood(2), Code.FUEL_EXHAUSTED),
    "stdout_flood_with_fuel_without_end": command(
        "fd_write", _flood(1), Code.TIMEOUT, CLOCK
    ),
    "randomness_by_the_megabyte": command(
        "random_get",
        _for_ever("(drop (call $host (i32.const 0) (i32.const 1048576)))"),
        Code.TIMEOUT, CLOCK,
    ),
    "a_million_subscriptions": command(
        "poll_oneoff",
        "(drop (call $host (i32.const 0) (i32.const 0) (i32.const 1000000)"
        " (i32.const 8)))",
        None,
    ),
    "descriptors_without_end": command(
        "path_open",
        "(i32.store8 (i32.const 0) (i32.const 97))"
        + _for_ever(
            "(drop (call $host (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 1)"
            " (i32.const 0) (i64.const -1) (i64.const -1) (i32.const 0)"
            " (i32.const 64)))"
        ),
        Code.FUEL_EXHAUSTED,
        wasi=WasiInput((), (), (("/a", b"x"),)),
    ),
    "arguments_written_over_and_over": command(
        "args_get",
        _for_ever("(drop (call $host (i32.const 0) (i32.const 4096)))"),
        Code.FUEL_EXHAUSTED,
        wasi=WasiInput(tuple("x" * 4_000 for _ in range(200)), (), ()),
    ),
    "alloc_points_outside": Attack(
        guests.bytes_guest("-1", "0"), Code.TRAP, InvocationKind.BYTES, payload=b"abc"
    ),
    "output_of_four_gigabytes": Attack(
        guests.bytes_guest("0", str(0xFFFFFFFF)), Code.TRAP, InvocationKind.BYTES
    ),
    "output_above_the_cap": Attack(
        guests.bytes_guest("0", "60000"), Code.OUTPUT_LIMIT, InvocationKind.BYTES
    ),
    "function_named_like_a_timeout": Attack(
        '(module (func (export "wasm trap: interrupt") unreachable))',
        Code.TRAP, function="wasm trap: interrupt",
    ),
    "function_named_like_exhausted_fuel": Attack(
        '(module (func $all_fuel_consumed_by_WebAssembly '
        '(export "all fuel consumed by WebAssembly\\1b[2J\\0a") unreachable))',
        Code.TRAP, function="all fuel consumed by WebAssembly\x1b[2J\n",
    ),
}  # fmt: skip
"""Attacks by a running guest. None of them may cost its process."""


def _body(code: bytes, locals_: bytes = b"\0") -> bytes:
    body = locals_ + code + b"\x0b"
    return leb(len(body)) + body


def _module(bodies: list[bytes], *more: tuple[int, bytes], types: bytes = b"") -> bytes:
    """A module of functions ``() -> ()``; the first is exported as ``f``."""
    parts = [
        (1, types or b"\x01\x60\0\0"),
        (3, leb(len(bodies)) + b"\0" * len(bodies)),
        (7, b"\x01\x01f\0\0"),
        (10, leb(len(bodies)) + b"".join(bodies)),
        *more,
    ]
    order = {12: 9.5}  # the data count section stands before the code
    parts.sort(key=lambda part: order.get(part[0], part[0]))
    return HEADER + b"".join(section(number, content) for number, content in parts)


def tiny_functions(count: int) -> bytes:
    """Many empty functions: each costs the compiler 6 KB."""
    return _module([b"\x02\0\x0b"] * count)


def deep_nesting(depth: int) -> bytes:
    """Loops within loops."""
    return _module([_body(b"\x03\x40" * depth + b"\x0b" * depth)])


def many_calls(count: int) -> bytes:
    """One function of indirect calls: each is inlined checks and a call."""
    code = b"\x41\0\x11\0\0" * count
    return _module([_body(code)], (4, b"\x01\x70\0\x01"))


def branch_tables(tables: int, targets: int) -> bytes:
    """Branch tables that all lead out of many blocks."""
    depth = 100
    one = b"\x41\0\x0e" + leb(targets) + bytes(n % depth for n in range(targets))
    code = b"\x02\x40" * depth + (b"\x02\x40" + one + b"\0" + b"\x0b") * tables
    return _module([_body(code + b"\x0b" * depth)])


def many_types(count: int) -> bytes:
    """Types without end."""
    return _module([b"\x02\0\x0b"], types=leb(count) + b"\x60\0\0" * count)


def many_locals(count: int) -> bytes:
    """One function that declares locals by the million in six bytes."""
    return _module([_body(b"", b"\x01" + leb(count) + b"\x7e")])


def large_data(size: int, memory_pages: int) -> bytes:
    """One active segment of this size."""
    segment = b"\x01\0\x41\0\x0b" + leb(size) + bytes(size)
    return _module([b"\x02\0\x0b"], (5, b"\x01\0" + leb(memory_pages)), (11, segment))


def many_segments(count: int) -> bytes:
    """Empty passive segments without end."""
    data = leb(count) + b"\x01\0" * count
    return _module([b"\x02\0\x0b"], (5, b"\x01\0\x01"), (12, leb(count)), (11, data))


@functools.cache
def refused() -> dict[str, Attack]:
    """Attacks on whoever reads, compiles or instantiates a module."""

    def attack(module: str | bytes, code: Code | None) -> Attack:
        return Attack(module, code)

    add = guests.wasm(guests.ADD)
    ninth = "".join("(table 1 funcref)" for _ in range(9))
    return {
        "memory_minimum_above_the_limit": attack(
            '(module (memory 2000) (func (export "f")))', Code.MEMORY_LIMIT
        ),
        "memory_minimum_of_four_gigabytes": attack(
            '(module (memory 65536) (func (export "f")))', Code.MEMORY_LIMIT
        ),
        "a_ninth_table": attack(
            f'(module {ninth} (func (export "f")))', Code.MEMORY_LIMIT
        ),
        "a_huge_table": attack(
            '(module (table 100000000 funcref) (func (export "f")))', Code.MEMORY_LIMIT
        ),
        "a_second_memory": attack(
            '(module (memory 1) (memory 1) (func (export "f")))', Code.INVALID_WASM
        ),
        "a_shared_memory": attack(
            '(module (memory 1 1 shared) (func (export "f")))', Code.INVALID_WASM
        ),
        "an_import_named_like_another_error": attack(
            '(module (import "wasm trap" "interrupt\\0a\\1b[2J" (func))'
            ' (func (export "f")))',
            Code.UNKNOWN_IMPORT,
        ),
        "loops_times_locals": attack(guests.compile_bomb(3_000), Code.COMPILE_LIMIT),
        "a_million_tiny_functions": attack(tiny_functions(999_999), Code.COMPILE_LIMIT),
        "nesting_without_end": attack(deep_nesting(1_000_000), Code.COMPILE_LIMIT),
        "one_huge_function_of_calls": attack(many_calls(400_000), Code.COMPILE_LIMIT),
        "branch_tables": attack(branch_tables(300, 20_000), Code.COMPILE_LIMIT),
        "types_without_end": attack(many_types(600_000), Code.INVALID_WASM),
        "locals_without_end": attack(many_locals(4_000_000_000), Code.INVALID_WASM),
        "segments_without_end": attack(many_segments(1_000_000), Code.INVALID_WASM),
        "data_larger_than_memory": attack(large_data(2**20, 1), Code.TRAP),
        "four_megabytes_of_data": attack(large_data(2**22, 128), None),
        "more_data_to_copy_than_fuel": attack(
            large_data(2**23, 128), Code.FUEL_EXHAUSTED
        ),
        "exports_without_end": attack(guests.many_exports(20_001), Code.INVALID_WASM),
        "a_module_above_the_size": attack(
            large_data(10 * 2**20 + 1, 256), Code.COMPILE_LIMIT
        ),
        "text_instead_of_a_module": attack(
            b'(module (func (export "f")))', Code.INVALID_WASM
        ),
        "a_component": attack(b"\0asm\x0d\0\1\0", Code.INVALID_WASM),
        "cut_in_the_middle": attack(add[: len(add) // 2], Code.INVALID_WASM),
        "cut_by_one_byte": attack(add[:-1], Code.INVALID_WASM),
        "one_byte_too_many": attack(add + b"\1", Code.INVALID_WASM),
        "a_section_longer_than_the_module": attack(
            HEADER + b"\x01\xff\xff\xff\xff\x0f", Code.INVALID_WASM
        ),
        "an_unknown_instruction": attack(
            add.replace(b"\x6a", b"\xff"), Code.INVALID_WASM
        ),
    }
