"""Guests and jobs for the sandbox's tests: WAT texts, builders, byte-made modules."""

from __future__ import annotations

import functools
import hashlib

import wasmtime

from stream_executor.model.job import InvocationKind, Job, Limits, WasiInput
from stream_executor.model.scalars import ValueType, pack_value

LIMITS = Limits(fuel_units=5_000_000, memory_bytes=64 * 2**20, deadline_ms=5_000)
NO_FUEL_END = 10**15
NOW_MS = 1_700_000_000_123
SEED = bytes(range(32))

ADD = """(module
  (func (export "add") (param i32 i32) (result i32)
    (i32.add (local.get 0) (local.get 1)))
  (func (export "mix") (param i64 f32 f64 i32) (result f64 i32 i64 f32)
    local.get 2 local.get 3 local.get 0 local.get 1)
  (func (export "nothing"))
  (func (export "nan") (result f32) (f32.div (f32.const 0) (f32.const 0))))"""

HOSTILE = """(module
  (memory (export "memory") 1)
  (table $t 1 funcref)
  (type $v (func))
  (func (export "spin") (loop (br 0)))
  (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
  (func (export "grow_for_ever") (loop (drop (memory.grow (i32.const 1))) (br 0)))
  (func (export "grow_table") (param i32) (result i32)
    (table.grow $t (ref.null func) (local.get 0)))
  (func (export "unreachable") unreachable)
  (func (export "divide") (result i32) (i32.div_s (i32.const 1) (i32.const 0)))
  (func (export "overflow") (result i32)
    (i32.div_s (i32.const 0x80000000) (i32.const -1)))
  (func (export "convert") (result i32) (i32.trunc_f32_s (f32.const nan)))
  (func (export "load") (result i32) (i32.load (i32.const -1)))
  (func (export "table") (drop (table.get $t (i32.const 100))))
  (func (export "null") (call_indirect $t (type $v) (i32.const 0)))
  (func (export "fill")
    (memory.fill (i32.const 0) (i32.const 1) (i32.const 65536))))"""

SIGNATURE = """(module
  (table 1 funcref) (elem (i32.const 0) $f)
  (type $v (func)) (func $f (result i32) (i32.const 1))
  (func (export "wrong") (call_indirect (type $v) (i32.const 0)))
  (func (export "vector") (param v128))
  (func (export "reference") (result funcref) (ref.null func)))"""

EXCEPTION = '(module (tag $t) (func (export "throw") (throw $t)))'
START_TRAPS = '(module (func $s unreachable) (start $s) (func (export "f")))'
# The same with a memory that reports ask for, and two more ways to trap at birth.
START_TRAPS_WITH_MEMORY = """(module (memory (export "memory") 1)
  (func $s unreachable) (start $s) (func (export "f")) (func (export "_start")))"""
SEGMENT_OUTSIDE = """(module (memory (export "memory") 1)
  (data (i32.const 65535) "ab") (func (export "f")) (func (export "_start")))"""
LARGE_SEGMENT = f"""(module (memory (export "memory") 2)
  (data (i32.const 0) "{"a" * 100_000}")
  (func (export "f")) (func (export "_start")))"""
START_EXITS = """(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $x (param i32)))
  (memory (export "memory") 1)
  (func $s (call $x (i32.const 3))) (start $s) (func (export "_start")))"""
LARGE_MEMORY = '(module (memory (export "memory") 2000) (func (export "f")))'
LARGE_TABLE = '(module (table 100001 funcref) (func (export "f")))'
HIDDEN_MEMORY = '(module (memory 3) (func (export "f")))'
FOREIGN_IMPORT = '(module (import "env" "get" (func)) (func (export "f")))'
REACTOR = """(module (global $ready (mut i32) (i32.const 0))
  (func (export "_initialize") (global.set $ready (i32.const 42)))
  (func (export "get") (result i32) (global.get $ready)))"""

STATE = """(module (memory (export "memory") 1) (global $g (mut i32) (i32.const 0))
  (func (export "count") (result i32)
    (global.set $g (i32.add (global.get $g) (i32.const 1)))
    (i32.store (i32.const 70)
      (i32.add (i32.load (i32.const 70)) (global.get $g)))
    (i32.load (i32.const 70))))"""

ECHO = """(module (memory (export "memory") 2)
  (func (export "alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "run") (param i32 i32) (result i64)
    (i64.or (i64.shl (i64.extend_i32_u (local.get 0)) (i64.const 32))
            (i64.extend_i32_u (local.get 1)))))"""


def bytes_guest(alloc: str, run: str) -> str:
    """Give a BYTES module with these constant answers."""
    return f"""(module (memory (export "memory") 1)
      (func (export "alloc") (param i32) (result i32) (i32.const {alloc}))
      (func (export "run") (param i32 i32) (result i64) (i64.const {run})))"""


_WASI = "wasi_snapshot_preview1"
CAT = f"""(module
  (import "{_WASI}" "fd_read" (func $r (param i32 i32 i32 i32) (result i32)))
  (import "{_WASI}" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
  (import "{_WASI}" "proc_exit" (func $x (param i32)))
  (memory (export "memory") 1)
  (func (export "_start") (local $n i32) (local $sum i32)
    (i32.store (i32.const 0) (i32.const 1024))
    (i32.store (i32.const 4) (i32.const 4096))
    (block $end (loop $more
      (drop (call $r (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (local.set $n (i32.load (i32.const 8)))
      (br_if $end (i32.eqz (local.get $n)))
      (i32.store (i32.const 16) (i32.const 1024))
      (i32.store (i32.const 20) (local.get $n))
      (drop (call $w (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 8)))
      (br $more)))
    (if (i32.eq (i32.load8_u (i32.const 1024)) (i32.const 33))
      (then (call $x (i32.const 200))))))"""

CHANCE = f"""(module
  (import "{_WASI}" "random_get" (func $r (param i32 i32) (result i32)))
  (import "{_WASI}" "clock_time_get" (func $c (param i32 i64 i32) (result i32)))
  (import "{_WASI}" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (drop (call $r (i32.const 100) (i32.const 32)))
    (drop (call $c (i32.const 0) (i64.const 0) (i32.const 132)))
    (drop (call $c (i32.const 1) (i64.const 0) (i32.const 140)))
    (i32.store (i32.const 0) (i32.const 100))
    (i32.store (i32.const 4) (i32.const 48))
    (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""

FLOOD = f"""(module
  (import "{_WASI}" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 0))
    (i32.store (i32.const 4) (i32.const 65536))
    (loop
      (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
      (drop (call $w (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
      (br 0))))"""

SLEEP = f"""(module
  (import "{_WASI}" "poll_oneoff" (func $p (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i64.store (i32.const 24) (i64.const 3600000000000))
    (drop (call $p (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))))"""

BAD_POINTERS = f"""(module
  (import "{_WASI}" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
  (import "{_WASI}" "random_get" (func $r (param i32 i32) (result i32)))
  (import "{_WASI}" "proc_exit" (func $x (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const -1))
    (i32.store (i32.const 4) (i32.const -1))
    (call $x (i32.add
      (i32.add
        (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))
        (call $w (i32.const 1) (i32.const -8) (i32.const 1) (i32.const 8)))
      (i32.add
        (call $w (i32.const 1) (i32.const 0) (i32.const -1) (i32.const 8))
        (call $r (i32.const 65535) (i32.const 2)))))))"""


@functools.cache
def wasm(text: str) -> bytes:
    """Translate WAT."""
    return bytes(wasmtime.wat2wasm(text))


@functools.cache
def digest(text: str) -> bytes:
    """Give the digest that jobs name a WAT module by."""
    return hashlib.sha256(wasm(text)).digest()


def i32(*values: int) -> bytes:
    """Pack i32 arguments."""
    return b"".join(pack_value(ValueType.I32, value) for value in values)


def limits(
    fuel: int = LIMITS.fuel_units,
    memory: int = LIMITS.memory_bytes,
    deadline_ms: int = LIMITS.deadline_ms,
) -> Limits:
    """Give limits that differ from the ordinary ones."""
    return Limits(fuel, memory, deadline_ms)


def call(
    module: str | bytes, function: str, args: bytes = b"", limits: Limits = LIMITS
) -> Job:
    """Give a CALL job; the module is WAT, or a digest."""
    s256 = module if isinstance(module, bytes) else digest(module)
    return Job(s256, InvocationKind.CALL, function, args, limits, 1024, NOW_MS, SEED)


def run_bytes(
    module: str | bytes,
    data: bytes,
    limits: Limits = LIMITS,
    output_bytes: int = 65536,
) -> Job:
    """Give a BYTES job."""
    s256 = module if isinstance(module, bytes) else digest(module)
    kind = InvocationKind.BYTES
    return Job(s256, kind, "", data, limits, output_bytes, NOW_MS, SEED)


def command(
    module: str | bytes,
    stdin: bytes = b"",
    limits: Limits = LIMITS,
    output_bytes: int = 65536,
    wasi: WasiInput | None = None,
) -> Job:
    """Give a WASI job."""
    s256 = module if isinstance(module, bytes) else digest(module)
    given = wasi or WasiInput((), (), ())
    kind = InvocationKind.WASI
    return Job(s256, kind, "", stdin, limits, output_bytes, NOW_MS, SEED, given)


def leb(value: int) -> bytes:
    """Encode an unsigned LEB128."""
    out = bytearray()
    while True:
        byte, value = value & 0x7F, value >> 7
        out.append(byte | (0x80 if value else 0))
        if not value:
            return bytes(out)


def section(number: int, content: bytes) -> bytes:
    """Give a section of a module."""
    return bytes([number]) + leb(len(content)) + content


def compile_bomb(size: int) -> bytes:
    """Give nested loops times locals: 16 KB ask the compiler for 16 s and 2 GB."""
    body = leb(1) + leb(size) + b"\x7e"  # one group of i64 locals
    body += b"\x03\x40" * size
    for index in range(size):
        body += b"\x20" + leb(index) + b"\x42\x01\x7c\x21" + leb(index)
    for depth in range(size):
        body += b"\x41\x01\x0d" + leb(min(depth, 1)) + b"\x0b"
    body += b"\x0b"
    return (
        b"\0asm\1\0\0\0"
        + section(1, b"\x01\x60\0\0")
        + section(3, b"\x01\0")
        + section(7, b"\x01\x01f\0\0")
        + section(10, b"\x01" + leb(len(body)) + body)
    )


def many_exports(count: int) -> bytes:
    """Give a module that exports one function under many names."""
    names = b"".join(b"\x06" + b"%06d" % n + b"\0\0" for n in range(count))
    return (
        b"\0asm\1\0\0\0"
        + section(1, b"\x01\x60\0\0")
        + section(3, b"\x01\0")
        + section(7, leb(count) + names)
        + section(10, b"\x01\x02\0\x0b")
    )
