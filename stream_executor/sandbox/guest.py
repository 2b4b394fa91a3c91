"""A compiled module, ready to run: a fresh store and instance for every job.

Limits, fuel and deadline are set before instantiation, where start functions run.
Whatever a job does, its store is deleted before its report is given; nothing of one
job is left for the next.

Not here: calling a function fast (``fast``), the conversations of the other kinds
(``abi``, ``wasi_host``), limits of the process (``harden``).

Source: wasmtime C API 50.
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
from stream_executor.sandbox.engine import (
    MAX_TABLE_ELEMENTS,
    MAX_TABLES,
    WASM_PAGE_BYTES,
    Engine,
)
from stream_executor.sandbox.fast import VALUES_AT, Cell, FastCall, Invoke, elapsed_us
from stream_executor.sandbox.inspect import WASI_MODULE
from stream_executor.sandbox.native import EXTERN_FUNC, KINDS, UNION_AT, VAL_BYTES
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
    from collections.abc import Collection

    from stream_executor.sandbox.inspect import ModuleShape, Signature

TICK_MS = 10
"""The epoch advances this often while a batch runs."""

INITIALIZE = "_initialize"
_SPARE_VALUES = 8

Run = Callable[[Job], Report]
Stillborn = Callable[[int, Job, int, int | None], Report]
"""``(context, job, started_ns, error) -> report``; a trap is in the cell."""


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

    def refused(self, offered: Collection[str] = ()) -> Report | None:
        """Give the refusal of every job on this module, None if it can run.

        Args:
            offered: names of the WASI functions that this kind of invocation has.
        """
        shape = self.shape
        for wanted in shape.imports:
            if wanted.module != WASI_MODULE or wanted.name not in offered:
                name, module = quote(wanted.name), quote(wanted.module)
                message = f"nothing offers the module's import {name} from {module}"
                return refusal(Code.UNKNOWN_IMPORT, message)
        if not self.linked:
            message = "the module imports something of WASI with another type"
            return refusal(Code.UNKNOWN_IMPORT, message)
        if shape.tables > MAX_TABLES or shape.table_elements > MAX_TABLE_ELEMENTS:
            return refusal(Code.MEMORY_LIMIT, "the module's tables are too large")
        return None

    def session(
        self,
        invoke: Invoke,
        offered: Collection[str] = (),
        stillborn: Stillborn | None = None,
    ) -> Run:
        """Give ``run(job)``: store, limits, instance, ``invoke``, and their end.

        Fuel and deadline are set before instantiation, where start functions run and
        segments are copied. Whatever ``invoke`` does, the store is deleted.

        Args:
            invoke: what to do with the instance.
            offered: names of the WASI functions that this kind of invocation has.
            stillborn: reports what ended before there was an instance, and consumes
                it; by trap and error alone if None.
        """
        refused = self.refused(offered)
        if refused is not None:
            return lambda _job: refused
        invoke = invoke if offered else self._with_initializer(invoke)
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
        ended, clock = stillborn or self._stillborn, time.perf_counter_ns

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
                return ended(context, job, started, error)
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
            struct.pack_into("<B7xq", cell.buffer, VALUES_AT + at, KINDS[code], value)
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
            self.cell.view[VALUES_AT + UNION_AT : VALUES_AT + UNION_AT + 8], "little"
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

    def failed(self, context: int, job: Job, started: int, error: int | None) -> Report:
        """Consume the error or trap of a call and give its report.

        ``error`` is a ``wasmtime_error_t`` or None; the trap is taken from the cell.
        """
        return self.report(context, job, started, self.take_ending(context, error))

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

    def _stillborn(
        self, context: int, job: Job, started: int, error: int | None
    ) -> Report:
        ending = self.take_ending(context, error)
        if error is not None:
            ending = NOT_INSTANTIATED
        return self.report(context, job, started, ending, instance=False)

    def report(
        self,
        context: int,
        job: Job,
        started: int,
        ending: Ending,
        *,
        instance: bool = True,
    ) -> Report:
        """Give the report of a guest that did not end well.

        Without ``instance`` there is none yet: the cell still holds an earlier store's,
        and asking that for its memory ends the process.
        """
        limit = job.limits.fuel_units
        used = limit - self.fuel_left(context)
        return Report(
            code=ending.code,
            trap=ending.trap,
            message=ending.message,
            fuel_consumed=min(max(used, 0), limit),
            fuel_exact=ending.exact,
            memory_bytes=min(self.memory_bytes(context), job.limits.memory_bytes)
            if instance
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
        return self.session(FastCall(self, name, signature).prepare())
