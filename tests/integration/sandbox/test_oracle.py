"""The fast path against wasmtime's public API: same module, same answer, same fuel."""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING

import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_executor.model.codes import Code
from stream_executor.model.scalars import (
    SCALAR_BYTES,
    ValueType,
    pack_bits,
)
from stream_executor.sandbox.engine import ENGINE_SETTINGS, Engine
from stream_executor.sandbox.guest import Guest
from stream_executor.sandbox.inspect import inspect_module
from stream_executor.sandbox.native import Native
from stream_executor.sandbox.outcome import ENDINGS
from stream_executor.sandbox.probe import compile_module, run_probe
from stream_executor.sandbox.wasi_host import WasiHost
from tests.integration.sandbox import guests

if TYPE_CHECKING:
    from collections.abc import Callable

FUEL = guests.LIMITS.fuel_units

ORACLE = """(module
  (memory (export "memory") 1 4)
  (func (export "i32") (param i32 i32) (result i32)
    (i32.rem_s (local.get 0) (i32.rotl (local.get 1) (local.get 0))))
  (func (export "i64") (param i64 i64) (result i64)
    (i64.div_s (local.get 0) (i64.mul (local.get 1) (local.get 0))))
  (func (export "f32") (param f32 f32) (result f32)
    (f32.div (f32.sqrt (local.get 0)) (local.get 1)))
  (func (export "f64") (param f64 f64) (result f64)
    (f64.min (f64.sub (local.get 0) (local.get 1)) (local.get 1)))
  (func (export "convert") (param f64) (result i32)
    (i32.trunc_f64_s (local.get 0)))
  (func (export "many") (param i32 i64 f32 f64 i32) (result f64 f32 i64 i32)
    local.get 3 local.get 2 local.get 1 (i32.add (local.get 0) (local.get 4)))
  (func (export "load") (param i32) (result i64) (i64.load (local.get 0)))
  (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
  (func (export "loop") (param i32) (result i32) (local i32)
    (loop $l
      (local.set 1 (i32.add (local.get 1) (local.get 0)))
      (br_if $l (i32.lt_u (local.get 1) (i32.const 10000000))))
    (local.get 1)))"""

SIGNATURES = {
    name: function.params
    for name, function in inspect_module(guests.wasm(ORACLE)).functions.items()
}
_CODES = {0: "<i", 1: "<q", 2: "<f", 3: "<d"}


def prepared(text: str) -> Guest:
    """Compile WAT in this process and give the guest of the fast path."""
    native = Native()
    engine = Engine(native, 1 << 20)
    host = WasiHost(engine)
    error, vec = compile_module(native, engine, guests.wasm(text))
    assert (error, vec.data is None) == ("", False)
    assert vec.data is not None
    shape = inspect_module(guests.wasm(text))
    guest = Guest(engine, shape, (vec.data, vec.size), host.linker)
    native.quick.byte_vec_delete(ctypes.addressof(vec))
    guest_host.append(host)  # the linker's thunks live as long as the tests
    return guest


guest_host: list[WasiHost] = []
GUEST = prepared(ORACLE)


def public_engine() -> wasmtime.Engine:
    """Give an engine of the public API with our settings (no pool there)."""
    config = wasmtime.Config()
    config.consume_fuel = True
    config.cranelift_nan_canonicalization = True
    config.wasm_relaxed_simd_deterministic = True
    config.wasm_multi_memory = config.wasm_memory64 = config.wasm_threads = False
    config.max_wasm_stack = 1 << 20
    return wasmtime.Engine(config)


PUBLIC = public_engine()
PUBLIC_MODULE = wasmtime.Module(PUBLIC, guests.wasm(ORACLE))


def by_public_api(function: str, args: bytes) -> tuple[bool, bytes, int]:
    """Call through the public API; give (ended well, packed results, fuel)."""
    store = wasmtime.Store(PUBLIC)
    store.set_limits(memory_size=guests.LIMITS.memory_bytes)
    store.set_fuel(FUEL)
    instance = wasmtime.Instance(store, PUBLIC_MODULE, [])
    target = instance.exports(store)[function]
    assert isinstance(target, wasmtime.Func)
    values = []
    for at in range(0, len(args), SCALAR_BYTES):
        bits = int.from_bytes(args[at + 1 : at + 9], "little")
        kind = ValueType(args[at])
        if kind in (ValueType.I32, ValueType.I64):
            width = 32 if kind == ValueType.I32 else 64
            signed = bits - (1 << width) if bits >> (width - 1) else bits
            name = kind.name.lower()
            make: Callable[[int], wasmtime.Val] = getattr(wasmtime.Val, name)
            values.append(make(signed))
        else:
            code, size = ("<f", 4) if kind == ValueType.F32 else ("<d", 8)
            (value,) = struct.unpack(code, bits.to_bytes(size, "little"))
            values.append(getattr(wasmtime.Val, kind.name.lower())(value))
    try:
        got = target(store, *values)
    except wasmtime.Trap:
        return False, b"", 0
    results = inspect_module(guests.wasm(ORACLE)).functions[function].results
    listed = got if isinstance(got, list) else [got]
    packed = b"".join(
        pack_bits(
            ValueType(code),
            int.from_bytes(
                struct.pack(_CODES[list(ValueType).index(ValueType(code))], value),
                "little",
            ),
        )
        for code, value in zip(results, listed, strict=True)
    )
    return True, packed, FUEL - store.get_fuel()


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, bytes]:
    """Give a function and arguments of its types; floats without NaN payloads."""
    name = draw(st.sampled_from(sorted(SIGNATURES)))
    packed = b""
    for code in SIGNATURES[name]:
        kind = ValueType(code)
        if kind in (ValueType.F32, ValueType.F64):
            single = kind == ValueType.F32
            value = draw(st.floats(width=32 if single else 64, allow_nan=False))
            bits = struct.pack("<f" if single else "<d", value)
            packed += pack_bits(kind, int.from_bytes(bits, "little"))
        else:
            width = 32 if kind == ValueType.I32 else 64
            edges = st.sampled_from([0, 1, 2, 2**width - 1, 2 ** (width - 1), 65528])
            number = draw(edges | st.integers(0, 2**width - 1))
            packed += pack_bits(kind, number)
    return name, packed


@given(calls())
@settings(max_examples=300)
def test_the_fast_path_answers_as_the_public_api_does(made: tuple[str, bytes]) -> None:
    function, args = made
    well, output, fuel = by_public_api(function, args)
    report = GUEST.call(guests.call(ORACLE, function, args))
    assert (report.code is None) == well
    assert report.output == output
    if well:
        assert (report.fuel_consumed, report.fuel_exact) == (fuel, True)


def test_our_settings_are_those_that_the_oracle_mirrors() -> None:
    """A new setting needs a look at ``public_engine`` too."""
    assert len(ENGINE_SETTINGS) == 15


def test_every_trap_code_of_the_engine_has_an_ending_or_is_unknown() -> None:
    """The public API's enumeration is the native one."""
    known = {code.value for code in wasmtime.TrapCode}
    assert set(ENDINGS) - known <= {49}
    assert ENDINGS[wasmtime.TrapCode.OUT_OF_FUEL.value].code == Code.FUEL_EXHAUSTED
    assert ENDINGS[wasmtime.TrapCode.INTERRUPT.value].code == Code.TIMEOUT
    assert ENDINGS[wasmtime.TrapCode.STACK_OVERFLOW.value].code == Code.STACK_OVERFLOW


def test_a_native_library_that_answers_otherwise_fails_the_probe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from stream_executor.model.errors import ConfigError  # noqa: PLC0415
    from stream_executor.sandbox import probe  # noqa: PLC0415

    native = Native()
    engine = Engine(native, 1 << 20)
    host = WasiHost(engine)
    run_probe(engine, host.linker)
    monkeypatch.setattr(probe, "_ADD_FUEL", 6)
    with pytest.raises(ConfigError, match="fails its probe"):
        run_probe(engine, host.linker)


def test_many_failed_runs_leave_nothing_behind() -> None:
    """Errors and traps are freed: memory does not grow over 20,000 of them."""
    job = guests.call(ORACLE, "load", guests.i32(-1))
    for _ in range(2_000):
        GUEST.call(job)
    before = _resident_kib()
    for _ in range(20_000):
        GUEST.call(job)
    assert _resident_kib() - before < 4_096


def _resident_kib() -> int:
    with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123
        line = next(line for line in status if line.startswith("VmRSS"))
    return int(line.split()[1])
