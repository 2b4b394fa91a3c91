"""Prove that the fast path works before the first job: one module, one known sum.

A native library whose layouts or meanings moved must not start, whatever it would
do to real jobs. The module is compiled here, in microseconds and without threads.

Not here: the comparison with the public API over many modules (tests).
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from stream_executor.model.errors import ConfigError
from stream_executor.model.job import InvocationKind, Job, Limits
from stream_executor.model.scalars import ValueType, pack_value
from stream_executor.sandbox.guest import Guest
from stream_executor.sandbox.inspect import inspect_module
from stream_executor.sandbox.native import ByteVec, Native

if TYPE_CHECKING:
    from stream_executor.sandbox.engine import Engine

# (module (memory (export "memory") 1)
#   (func (export "add") (param i32 i64) (result i64)
#     (i64.add (i64.extend_i32_s (local.get 0)) (local.get 1)))
#   (func (export "spin") (loop (br 0))))
PROBE_MODULE = bytes.fromhex(
    "0061736d01000000010a0260027f7e017e6000000303020001050301000107170306"
    "6d656d6f72790200036164640000047370696e00010a120208002000ac20017c0b07"
    "0003400c000b0b"
)
_LIMITS = Limits(fuel_units=10_000, memory_bytes=65_536, deadline_ms=1_000)
_MEMORY_BYTES = 65_536
_ADD_FUEL = 5


def compile_module(native: Native, engine: Engine, data: bytes) -> tuple[str, ByteVec]:
    """Compile in this process; for the probe, the compile child, and tests.

    Returns:
        The engine's error text ("" if all went well) and the serialized module,
        which the caller frees with ``byte_vec_delete``.
    """
    buffer = ctypes.create_string_buffer(data, len(data))
    slot, vec = ctypes.c_void_p(), ByteVec()
    error = native.guest.module_new(
        engine.address, ctypes.addressof(buffer), len(data), ctypes.addressof(slot)
    )
    if error is None:
        error = native.quick.module_serialize(slot.value, ctypes.addressof(vec))
        native.quick.module_delete(slot.value)
    return native.take_error(error), vec


def run_probe(engine: Engine, linker: int) -> None:
    """Run the probe.

    Raises:
        ConfigError: the native library does not behave as this package expects.
    """
    native = engine.native
    text, vec = compile_module(native, engine, PROBE_MODULE)
    if text or vec.data is None:
        raise ConfigError(f"the native wasmtime does not compile: {text}")
    shape = inspect_module(PROBE_MODULE)
    guest = Guest(engine, shape, (vec.data, vec.size), linker)
    native.quick.byte_vec_delete(ctypes.addressof(vec))
    args = pack_value(ValueType.I32, -2) + pack_value(ValueType.I64, 2**40)
    for function, payload, output, code, fuel in (
        ("add", args, pack_value(ValueType.I64, 2**40 - 2), None, _ADD_FUEL),
        ("spin", b"", b"", "fuel_exhausted", _LIMITS.fuel_units),
    ):
        job = Job(bytes(32), InvocationKind.CALL, function, payload, _LIMITS, 0, 0, b"")
        report = guest.call(job)
        got = (report.code, report.output, report.fuel_consumed, report.memory_bytes)
        if got != (code, output, fuel, _MEMORY_BYTES) or not report.fuel_exact:
            raise ConfigError(f"the native wasmtime fails its probe: {got!r}")
    guest.close()
