"""Run a compiled module: a fresh store and instance for every job, in microseconds.

A ``Guest`` prepares everything that does not change from job to job: the module, its
pre-instantiation, one buffer of native structures, and one closure for each called
function. Per job remain ten C calls and one ``Report``.

Addresses are plain integers here, so each closure holds the objects that own them.
One job at a time runs in a process: the buffers are shared by all jobs of a guest.

Not here: limits of the process (``harden``), the BYTES and WASI conversations
(``abi``, ``wasi_host``), batches (``child``).

Cost: about 6 µs for a call without memory. Source: wasmtime C API 50.
"""

from __future__ import annotations

import ctypes
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from stream_executor.model.codes import Code
from stream_executor.model.errors import ConfigError
from stream_executor.model.job import InvocationKind, Job, Report
from stream_executor.model.scalars import SCALAR_BYTES, ValueType
from stream_executor.sandbox.engine import (
    MAX_TABLE_ELEMENTS,
    MAX_TABLES,
    WASM_PAGE_BYTES,
    Engine,
)
from stream_executor.sandbox.native import (
    EXTERN_FUNC,
    KINDS,
    UNION_AT,
    VAL_BYTES,
)
from stream_executor.sandbox.outcome import (
    ENDINGS,
    NOT_INSTANTIATED,
    OUT_OF_MEMORY,
    UNCAUGHT_EXCEPTION,
    UNKNOWN_TRAP,
    Ending,
    quote,
    refusal,
)

if TYPE_CHECKING:
    from stream_executor.sandbox.inspect import ModuleShape, Signature

TICK_MS = 10
"""The epoch advances this often while a batch runs."""

INITIALIZE = "_initialize"
_NO_SCALARS = b""

Run = Callable[[Job], Report]
Invoke = Callable[[int, Job, int], Report]
"""``(context, job, started_ns) -> report``, between instantiation and deletion."""

# Where the native structures of one guest are in its buffer.
_INSTANCE, _TRAP, _FUEL, _TRAP_CODE = 0, 16, 24, 32
_FUNCTION, _MEMORY = 64, 96
_VALUES = 128
_SPARE_VALUES = 8


def elapsed_us(started_ns: int) -> int:
    """Give the microseconds since a ``perf_counter_ns`` reading."""
    return (time.perf_counter_ns() - started_ns) // 1000


class Cell:
    """One buffer of native structures and the addresses in it.

    Args:
        values: how many ``wasmtime_val_t`` it has room for.
    """

    def __init__(self, values: int) -> None:
        self.buffer = ctypes.create_string_buffer(_VALUES + VAL_BYTES * values)
        self.view = memoryview(self.buffer).cast("B")
        base = ctypes.addressof(self.buffer)
        self.instance = base + _INSTANCE
        self.trap_at = base + _TRAP
        self.fuel_at = base + _FUEL
        self.function_at = base + _FUNCTION
        self.memory_at = base + _MEMORY
        self.trap_code_at = base + _TRAP_CODE
        self.values_at = base + _VALUES
        self.trap = ctypes.c_uint64.from_buffer(self.buffer, _TRAP)
        self.fuel = ctypes.c_uint64.from_buffer(self.buffer, _FUEL)
        self.trap_code = ctypes.c_uint8.from_buffer(self.buffer, _TRAP_CODE)
        self.function_kind = ctypes.c_uint8.from_buffer(self.buffer, _FUNCTION)


class Guest:
    """One module, compiled and ready to run any number of jobs, one at a time.

    Args:
        engine: with the configuration that the artefact was compiled under.
        shape: of the same module.
        artefact: address and length of the serialized module; may go away after.
        linker: native linker to resolve imports with.

    Raises:
        ConfigError: the engine refuses the artefact (it comes from another build).
    """

    def __init__(
        self, engine: Engine, shape: ModuleShape, artefact: tuple[int, int], linker: int
    ) -> None:
        self.engine = engine
        self.native = engine.native
        self.shape = shape
        self.cell = Cell(_SPARE_VALUES)
        self._pre: int | None = None
        self._module: int | None = None
        self._names: dict[str, tuple[ctypes.Array[ctypes.c_char], int]] = {}
        self._calls: dict[str, Run] = {}
        quick = self.native.quick
        slot = ctypes.c_void_p()
        error = quick.module_deserialize(
            engine.address, *artefact, ctypes.addressof(slot)
        )
        if error is not None:
            message = self.native.take_error(error)
            raise ConfigError(f"an artefact is refused: {message}")
        self._module = slot.value
        slot = ctypes.c_void_p()
        error = quick.linker_instantiate_pre(
            linker, self._module, ctypes.addressof(slot)
        )
        # Imports that the linker lacks, or of another type: the jobs are told.
        self.linked = error is None
        self.native.take_error(error)
        self._pre = slot.value
        self.memory_bytes = self._memory_reader()

    def close(self) -> None:
        """Free the compiled module; idempotent. No job may run on it afterwards."""
        quick = self.native.quick
        self._calls.clear()  # the closures hold this object
        if self._pre is not None:
            quick.instance_pre_delete(self._pre)
        if self._module is not None:
            quick.module_delete(self._module)
        self._pre = self._module = None

    def call(self, job: Job) -> Report:
        """Run a CALL job: the export ``job.function`` on packed scalars."""
        run = self._calls.get(job.function)
        if run is None:
            signature = self.shape.functions.get(job.function)
            if signature is None:
                return refusal(
                    Code.FUNCTION_NOT_FOUND,
                    f"the module exports no function {quote(job.function)}",
                )
            run = self._calls[job.function] = self._prepare(job.function, signature)
        return run(job)

    def refused(self, *, wasi: bool = False) -> Report | None:
        """Give the refusal of every job on this module, None if it can run."""
        imports = self.shape.imports
        if imports and not (wasi and self.shape.only_wasi and self.linked):
            first = next((i for i in imports if not wasi or i.name), imports[0])
            return refusal(
                Code.UNKNOWN_IMPORT,
                f"the module imports {quote(first.name)} from {quote(first.module)}"
                " or more that this kind of invocation does not offer",
            )
        if self.shape.tables > MAX_TABLES or (
            self.shape.table_elements > MAX_TABLE_ELEMENTS
        ):
            return refusal(Code.MEMORY_LIMIT, "the module's tables are too large")
        return None

    def session(self, invoke: Invoke, *, wasi: bool = False) -> Run:
        """Give ``run(job)``: store, limits, instance, ``invoke``, and their end.

        Fuel and deadline are set before instantiation, where start functions run.
        Whatever ``invoke`` does, the store is deleted.
        """
        refused = self.refused(wasi=wasi)
        if refused is not None:
            return lambda _job: refused
        invoke = self._with_initializer(invoke) if not wasi else invoke
        quick, cell = self.native.quick, self.cell
        store_new, store_delete = quick.store_new, quick.store_delete
        context_of, limiter = quick.store_context, quick.store_limiter
        set_fuel = quick.context_set_fuel
        set_deadline = quick.context_set_epoch_deadline
        binding = self.native.guest if self.shape.start else quick
        instantiate = binding.instance_pre_instantiate
        engine, pre = self.engine.address, self._pre
        instance, trap_at, trap = cell.instance, cell.trap_at, cell.trap
        minimum = self.shape.memory_pages * WASM_PAGE_BYTES
        failed, clock = self.failed, time.perf_counter_ns

        def run(job: Job) -> Report:
            started = clock()
            limits = job.limits
            memory = limits.memory_bytes
            if minimum > memory:
                return refusal(Code.MEMORY_LIMIT, OUT_OF_MEMORY.message)
            store = store_new(engine, None, None)
            try:
                context: int = context_of(store)  # type: ignore[assignment]
                limiter(store, memory, MAX_TABLE_ELEMENTS, 1, MAX_TABLES, 1)
                set_fuel(context, limits.fuel_units)
                set_deadline(context, limits.deadline_ms // TICK_MS + 2)
                error = instantiate(pre, context, instance, trap_at)
                if error is None and not trap.value:
                    return invoke(context, job, started)
                if error is not None:
                    return failed(context, job, started, error, NOT_INSTANTIATED)
                return failed(context, job, started, None)
            finally:
                store_delete(store)

        return run

    def export(self, context: int, name: str) -> int | None:
        """Give the address of an exported function's handle, None if missing.

        The handle is overwritten by the next look-up.
        """
        if name not in self._names:
            encoded = name.encode()
            self._names[name] = (ctypes.create_string_buffer(encoded), len(encoded))
        buffer, length = self._names[name]
        cell = self.cell
        found = self.native.quick.instance_export_get(
            context, cell.instance, ctypes.addressof(buffer), length, cell.function_at
        )
        if not found or cell.function_kind.value != EXTERN_FUNC:
            return None
        return cell.function_at + UNION_AT

    def invoke(
        self, context: int, name: str, arguments: tuple[int, ...], results: int
    ) -> tuple[int | None, bool]:
        """Call an export with integers; the slow, general way for ``abi`` and WASI.

        Arguments are given as (already packed) 64-bit values with the kinds of the
        export's own signature. Results start at ``cell.values_at``.

        Returns:
            The engine's error or None, and whether all went well.
        """
        cell, at = self.cell, 0
        params = self.shape.functions[name].params
        for code, value in zip(params, arguments, strict=True):
            struct.pack_into("<B7xq", cell.buffer, _VALUES + at, KINDS[code], value)
            at += VAL_BYTES
        function = self.export(context, name)
        error = self.native.guest.func_call(
            context,
            function,
            cell.values_at,
            len(arguments),
            cell.values_at,
            results,
            cell.trap_at,
        )
        return error, error is None and not cell.trap.value

    def result_i64(self) -> int:
        """Give the first result of ``invoke`` as unsigned 64 bits."""
        return int.from_bytes(
            self.cell.view[_VALUES + UNION_AT : _VALUES + UNION_AT + 8], "little"
        )

    def memory_at(self, context: int) -> int:
        """Give the address of the exported memory; ``memory_bytes`` came before.

        Valid until the guest runs again: growing may move it.
        """
        at = self.cell.memory_at + UNION_AT
        return self.native.quick.memory_data(context, at) or 0

    def fuel_left(self, context: int) -> int:
        """Give the store's remaining fuel."""
        self.native.quick.context_get_fuel(context, self.cell.fuel_at)
        return self.cell.fuel.value

    def failed(
        self,
        context: int,
        job: Job,
        started: int,
        error: int | None,
        ending: Ending | None = None,
    ) -> Report:
        """Consume an error or trap and give its report.

        Args:
            error: a ``wasmtime_error_t`` or None; the trap is taken from the cell.
            ending: what to report; None takes it from the trap's code.
        """
        found = self.take_ending(context, error)
        return self.report(context, job, started, ending or found)

    def take_ending(self, context: int, error: int | None) -> Ending:
        """Consume the error and trap that a call left; give what they mean."""
        quick, cell = self.native.quick, self.cell
        ending = UNKNOWN_TRAP
        if error is not None:
            # With matching signatures the one error that is no trap is the heap of
            # exceptions at its limit.
            quick.error_delete(error)
            ending = OUT_OF_MEMORY
        trap = cell.trap.value
        if trap:
            if quick.trap_code(trap, cell.trap_code_at):
                ending = ENDINGS.get(cell.trap_code.value, UNKNOWN_TRAP)
            elif quick.context_has_exception(context):
                ending = UNCAUGHT_EXCEPTION
            quick.trap_delete(trap)
            cell.trap.value = 0
        return ending

    def report(self, context: int, job: Job, started: int, ending: Ending) -> Report:
        """Give the report of a guest that did not end well."""
        limit = job.limits.fuel_units
        used = limit - self.fuel_left(context)
        return Report(
            code=ending.code,
            trap=ending.trap,
            message=ending.message,
            fuel_consumed=min(max(used, 0), limit),
            fuel_exact=ending.exact,
            memory_bytes=min(self.memory_bytes(context), job.limits.memory_bytes)
            if ending is not NOT_INSTANTIATED
            else 0,
            duration_us=elapsed_us(started),
        )

    def _memory_reader(self) -> Callable[[int], int]:
        """Give ``memory_bytes(context)`` of the current instance.

        A memory that is not exported cannot be read from outside: its minimum is
        given, a lower bound.
        """
        shape, cell, quick = self.shape, self.cell, self.native.quick
        if shape.memory is None:
            minimum = shape.memory_pages * WASM_PAGE_BYTES
            return lambda _context: minimum
        encoded = shape.memory.encode()
        buffer = ctypes.create_string_buffer(encoded)
        name, length = ctypes.addressof(buffer), len(encoded)
        get, size = quick.instance_export_get, quick.memory_data_size
        instance, at = cell.instance, cell.memory_at
        memory = at + UNION_AT

        def memory_bytes(context: int, _keep: object = buffer) -> int:
            if not get(context, instance, name, length, at):
                return 0
            return size(context, memory) or 0

        return memory_bytes

    def _with_initializer(self, invoke: Invoke) -> Invoke:
        """Call a reactor's ``_initialize`` first, as its ABI demands."""
        signature = self.shape.functions.get(INITIALIZE)
        if signature is None or signature.params or signature.results:
            return invoke

        def initialized(context: int, job: Job, started: int) -> Report:
            if job.kind == InvocationKind.CALL and job.function == INITIALIZE:
                return invoke(context, job, started)
            error, well = self.invoke(context, INITIALIZE, (), 0)
            if not well:
                return self.failed(context, job, started, error)
            return invoke(context, job, started)

        return initialized

    def _prepare(self, name: str, signature: Signature) -> Run:
        """Give the closure that runs CALL jobs on one function."""
        if not signature.callable:
            refused = refusal(
                Code.BAD_ARGUMENTS,
                f"{quote(name)} takes or gives types that a call cannot carry",
            )
            return lambda _job: refused
        guest_call = _GuestCall(self, name, signature)
        return self.session(guest_call.prepare())


class _GuestCall:
    """Writes arguments, calls, reads results: the middle of a CALL job."""

    def __init__(self, guest: Guest, name: str, signature: Signature) -> None:
        self.guest, self.signature = guest, signature
        count = max(len(signature.params), 1) + len(signature.results)
        self.values = ctypes.create_string_buffer(VAL_BYTES * count)
        self.encoded = name.encode()
        self.name = ctypes.create_string_buffer(self.encoded)
        for at, code in enumerate(signature.params):
            # Arguments are only read by the engine: kinds are written once.
            self.values[at * VAL_BYTES] = KINDS[code]

    def prepare(self) -> Invoke:
        guest, signature = self.guest, self.signature
        quick, cell = guest.native.quick, guest.cell
        export_get, get_fuel = quick.instance_export_get, quick.context_get_fuel
        call = guest.native.guest.func_call
        instance, function_at = cell.instance, cell.function_at
        function = function_at + UNION_AT
        trap_at, trap, fuel_at, fuel = cell.trap_at, cell.trap, cell.fuel_at, cell.fuel
        name, length = ctypes.addressof(self.name), len(self.encoded)
        params, results = signature.params, len(signature.results)
        count, size = len(params), len(params) * SCALAR_BYTES
        args_at = ctypes.addressof(self.values)
        results_at = args_at + VAL_BYTES * max(count, 1)
        view = memoryview(self.values).cast("B")
        moves = [
            (
                slice(i * VAL_BYTES + UNION_AT, i * VAL_BYTES + UNION_AT + 8),
                slice(i * SCALAR_BYTES + 1, (i + 1) * SCALAR_BYTES),
            )
            for i in range(count)
        ]
        read = _result_reader(view, signature.results, results_at - args_at)
        memory_bytes, failed = guest.memory_bytes, guest.failed
        clock = time.perf_counter_ns
        wrong = refusal(
            Code.BAD_ARGUMENTS,
            f"{quote(self.encoded.decode())} takes {describe(params)}",
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


def _result_reader(view: memoryview, types: bytes, at: int) -> Callable[[], bytes]:
    """Give a function that packs the results that lie in ``view`` from ``at`` on."""
    if not types:
        return lambda: _NO_SCALARS
    parts = []
    for index, code in enumerate(types):
        start = at + index * VAL_BYTES + UNION_AT
        wide = code in (ValueType.I64, ValueType.F64)
        # The union's upper half is left from earlier calls for 32-bit values.
        parts.append(
            (
                bytes([code]),
                slice(start, start + (8 if wide else 4)),
                b"" if wide else bytes(4),
            )
        )
    if len(parts) == 1:
        ((prefix, place, suffix),) = parts
        return lambda: prefix + view[place] + suffix
    return lambda: b"".join([p + view[s] + z for p, s, z in parts])


def describe(types: bytes) -> str:
    """Name a parameter list for a message, such as ``(i32, i64)``."""
    names = [ValueType(code).name.lower() for code in types[:20]]
    more = ", ..." if len(types) > len(names) else ""
    return f"({', '.join(names)}{more})"
