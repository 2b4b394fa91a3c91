"""The fast path: one buffer of native structures, one closure for each function.

Per job remain ten C calls and one ``Report``: addresses are prepared integers, kinds
are written once, values are copied as bytes between packed scalars and native values.
Such addresses keep nothing alive, so each closure holds the objects that own them.
One job at a time runs in a process: buffers are shared by all jobs of a guest.

Not here: module, store and limits (``guest``).

Cost: about 6 µs for a call without memory. Source: wasmtime C API 50.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from stream_executor.model.codes import Code
from stream_executor.model.job import Job, Report
from stream_executor.model.scalars import SCALAR_BYTES, ValueType
from stream_executor.sandbox.native import KINDS, UNION_AT, VAL_BYTES
from stream_executor.sandbox.outcome import quote, refusal

if TYPE_CHECKING:
    from stream_executor.sandbox.guest import Guest
    from stream_executor.sandbox.inspect import Signature

Invoke = Callable[[int, Job, int], Report]
"""``(context, job, started_ns) -> report``, between instantiation and deletion."""

_MAX_NAMED_TYPES = 20

# Where the native structures of one guest are in its buffer.
_INSTANCE, _TRAP, _FUEL, _TRAP_CODE = 0, 16, 24, 32
_FUNCTION, _MEMORY = 64, 96
VALUES_AT = 128


def elapsed_us(started_ns: int) -> int:
    """Give the microseconds since a ``perf_counter_ns`` reading."""
    return (time.perf_counter_ns() - started_ns) // 1000


class Cell:
    """One buffer of native structures and the addresses in it.

    Args:
        values: how many ``wasmtime_val_t`` it has room for, from ``VALUES_AT`` on.
    """

    def __init__(self, values: int) -> None:
        self.buffer = ctypes.create_string_buffer(VALUES_AT + VAL_BYTES * values)
        self.view = memoryview(self.buffer).cast("B")
        base = ctypes.addressof(self.buffer)
        self.instance = base + _INSTANCE
        self.trap_at = base + _TRAP
        self.fuel_at = base + _FUEL
        self.function_at = base + _FUNCTION
        self.memory_at = base + _MEMORY
        self.trap_code_at = base + _TRAP_CODE
        self.values_at = base + VALUES_AT
        self.trap = ctypes.c_uint64.from_buffer(self.buffer, _TRAP)
        self.fuel = ctypes.c_uint64.from_buffer(self.buffer, _FUEL)
        self.trap_code = ctypes.c_uint8.from_buffer(self.buffer, _TRAP_CODE)
        self.function_kind = ctypes.c_uint8.from_buffer(self.buffer, _FUNCTION)


class FastCall:
    """Writes arguments, calls, reads results: the middle of a CALL job."""

    def __init__(self, guest: Guest, name: str, signature: Signature) -> None:
        self._guest, self._signature = guest, signature
        count = max(len(signature.params), 1) + len(signature.results)
        self._values = ctypes.create_string_buffer(VAL_BYTES * count)
        self._view = memoryview(self._values).cast("B")
        self._encoded = name.encode()
        self._name = ctypes.create_string_buffer(self._encoded)
        for at, code in enumerate(signature.params):
            # The engine only reads arguments, so kinds stay as they are.
            self._view[at * VAL_BYTES] = KINDS[code]

    def prepare(self) -> Invoke:
        """Give the closure; everything that does not change is bound here."""
        guest, signature = self._guest, self._signature
        quick, cell, view = guest.native.quick, guest.cell, self._view
        export_get, get_fuel = quick.instance_export_get, quick.context_get_fuel
        call = guest.native.guest.func_call
        instance, function_at = cell.instance, cell.function_at
        function = function_at + UNION_AT
        trap_at, trap, fuel_at, fuel = cell.trap_at, cell.trap, cell.fuel_at, cell.fuel
        name, length = ctypes.addressof(self._name), len(self._encoded)
        params, results = signature.params, len(signature.results)
        count, size = len(params), len(params) * SCALAR_BYTES
        args_at = ctypes.addressof(self._values)
        results_at = args_at + VAL_BYTES * max(count, 1)
        moves = [
            (
                slice(i * VAL_BYTES + UNION_AT, i * VAL_BYTES + UNION_AT + 8),
                slice(i * SCALAR_BYTES + 1, (i + 1) * SCALAR_BYTES),
            )
            for i in range(count)
        ]
        read = result_reader(view, signature.results, results_at - args_at)
        memory_bytes, failed = guest.memory_bytes, guest.failed
        clock = time.perf_counter_ns
        wrong = refusal(
            Code.BAD_ARGUMENTS,
            f"{quote(self._encoded.decode())} takes {describe(params)}",
        )

        # The default keeps alive what the addresses above point to.
        def invoke(
            context: int, job: Job, started: int, _keep: object = self
        ) -> Report:
            payload = job.payload
            if payload[::SCALAR_BYTES] != params or len(payload) != size:
                return wrong
            for to, of in moves:
                view[to] = payload[of]
            export_get(context, instance, name, length, function_at)
            error = call(
                context, function, args_at, count, results_at, results, trap_at
            )
            if error is not None or trap.value:
                return failed(context, job, started, error)
            get_fuel(context, fuel_at)
            return Report(
                None,
                None,
                "",
                read(),
                b"",
                False,
                False,
                None,
                job.limits.fuel_units - fuel.value,
                True,
                memory_bytes(context),
                (clock() - started) // 1000,
            )

        return invoke


def result_reader(view: memoryview, types: bytes, at: int) -> Callable[[], bytes]:
    """Give a function that packs the results that lie in ``view`` from ``at`` on."""
    parts = []
    for index, code in enumerate(types):
        start = at + index * VAL_BYTES + UNION_AT
        wide = code in (ValueType.I64, ValueType.F64)
        # The union's upper half is left from earlier calls for 32-bit values.
        place = slice(start, start + (8 if wide else 4))
        parts.append((bytes([code]), place, b"" if wide else bytes(4)))
    if len(parts) == 1:
        ((prefix, place, suffix),) = parts
        return lambda: prefix + view[place] + suffix
    return lambda: b"".join([p + view[s] + z for p, s, z in parts])


def describe(types: bytes) -> str:
    """Name a parameter list for a message, such as ``(i32, i64)``."""
    names = [ValueType(code).name.lower() for code in types[:_MAX_NAMED_TYPES]]
    more = ", ..." if len(types) > len(names) else ""
    return f"({', '.join(names)}{more})"
