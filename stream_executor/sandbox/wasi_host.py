"""Connect ``wasi.WasiProcess`` to the engine: host functions, memory, fuel.

One native linker with all functions of preview 1; a module without imports uses the
same. Host functions run on the guest's thread with the GIL, never raise into the
engine, and carry no data in what they stop a guest with: exit code and reason are
kept here, per job. A failure of ours stops the guest and is ``internal``.

Not here: what the functions do (``wasi``), instantiation (``guest``).
"""

from __future__ import annotations

import ctypes
import struct
import sys
from typing import TYPE_CHECKING

from stream_executor.model.codes import Code
from stream_executor.model.errors import ConfigError
from stream_executor.model.job import Job, Report
from stream_executor.sandbox.fast import elapsed_us
from stream_executor.sandbox.inspect import WASI_MODULE, Signature
from stream_executor.sandbox.native import (
    EXTERN_BYTES,
    EXTERN_MEMORY,
    HOST_FUNCTION,
    RAW_VAL_BYTES,
    UNION_AT,
    ByteVec,
)
from stream_executor.sandbox.outcome import (
    HOST_FAILED,
    NOT_INSTANTIATED,
    OUT_OF_FUEL,
    Ending,
    refusal,
)
from stream_executor.sandbox.wasi import WasiProcess, answer
from stream_executor.sandbox.wasi_types import (
    CALLS,
    Errno,
    GuestExit,
    OutOfFuel,
    WasiError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream_executor.sandbox.engine import Engine
    from stream_executor.sandbox.guest import Guest, Run
    from stream_executor.sandbox.wasi_files import FileTree

START = "_start"
_START_TYPE = Signature(b"", b"")
_MEMORY_NAME = b"memory"
_I32, _I64 = 0, 1
_STOP_TEXT = b"stopped"
_U32 = struct.Struct("<I")


class HostMemory:
    """The running guest's memory and fuel, through the C API.

    ``bind`` is called with the caller of each host call; the memory's address is
    asked for at every access, because the guest may have grown it.
    """

    def __init__(self, engine: Engine) -> None:
        quick = engine.native.quick
        self._data, self._size = quick.memory_data, quick.memory_data_size
        self._get_fuel, self._set_fuel = quick.context_get_fuel, quick.context_set_fuel
        self._context_of, self._export = quick.caller_context, quick.caller_export_get
        self._extern = ctypes.create_string_buffer(EXTERN_BYTES)
        self._extern_at = ctypes.addressof(self._extern)
        self._memory = self._extern_at + UNION_AT
        self._fuel = ctypes.c_uint64()
        self._fuel_at = ctypes.addressof(self._fuel)
        self._name = ctypes.create_string_buffer(_MEMORY_NAME)
        self._name_at = ctypes.addressof(self._name)
        self._context = 0
        self._bound = False

    def reset(self) -> None:
        """Forget the last guest."""
        self._bound, self._context = False, 0

    def bind(self, caller: int) -> None:
        """Take the caller's context, and once a guest its exported memory."""
        self._context = self._context_of(caller) or 0
        if not self._bound:
            found = self._export(
                caller, self._name_at, len(_MEMORY_NAME), self._extern_at
            )
            self._bound = bool(found) and self._extern.raw[0] == EXTERN_MEMORY

    def _place(self, at: int, length: int) -> int:
        if not self._bound:
            raise WasiError(Errno.INVAL)
        if at + length > (self._size(self._context, self._memory) or 0):
            raise WasiError(Errno.FAULT)
        return (self._data(self._context, self._memory) or 0) + at

    def read(self, at: int, length: int) -> bytes:
        """Copy bytes out of the guest."""
        return ctypes.string_at(self._place(at, length), length)

    def write(self, at: int, data: bytes) -> None:
        """Copy bytes into the guest."""
        place = self._place(at, len(data))
        ctypes.memmove(place, data, len(data))

    def charge(self, units: int) -> None:
        """Take fuel; an unpayable call leaves none."""
        self._get_fuel(self._context, self._fuel_at)
        left = self._fuel.value - units
        self._set_fuel(self._context, max(left, 0))
        if left < 0:
            raise OutOfFuel


class WasiHost:
    """The native linker with WASI in it, and the process that runs now.

    Attributes:
        linker: address of the ``wasmtime_linker_t``.

    Raises:
        ConfigError: the engine does not take the functions.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._native = engine.native
        self._quick = engine.native.quick
        linker = self._quick.linker_new(engine.address)
        if linker is None:
            raise ConfigError("the native wasmtime gives no linker")
        self.linker: int = linker
        self._memory = HostMemory(engine)
        self._process: WasiProcess | None = None
        self._stopped: Ending | None = None
        self._exited = False
        self._stop_text = ctypes.create_string_buffer(_STOP_TEXT)
        self._keep: list[object] = []  # thunks that native code points to
        for name, params in CALLS.items():
            self._define(name, params)

    def runner(self, guest: Guest, bundle: FileTree | None = None) -> Run:
        """Give ``run(job)`` for WASI jobs on one module and its own files."""
        if guest.shape.functions.get(START) != _START_TYPE:
            missing = refusal(
                Code.FUNCTION_NOT_FOUND,
                "the module exports no function _start () -> ()",
            )
            return lambda _job: guest.refused(CALLS) or missing
        refused = guest.refused(CALLS)
        if refused is not None:
            return lambda _job: refused

        def invoke(context: int, job: Job, started: int) -> Report:
            error, well = guest.invoke(context, START, (), 0)
            return self._report(guest, context, job, started, error, well=well)

        def stillborn(
            context: int, job: Job, started: int, error: int | None
        ) -> Report:
            # What stops a start function here reaches us as an error, not as a trap.
            if error is not None and not (self._exited or self._stopped):
                self._stopped = NOT_INSTANTIATED
            return self._report(
                guest, context, job, started, error, well=False, instance=False
            )

        session = guest.session(invoke, CALLS, stillborn)

        def run(job: Job) -> Report:
            try:
                self._process = WasiProcess(job, self._memory, bundle)
            except ValueError as error:
                return refusal(Code.BAD_ARGUMENTS, str(error))
            self._memory.reset()
            self._stopped, self._exited = None, False
            try:
                return session(job)
            finally:
                self._process = None

        return run

    def _report(
        self,
        guest: Guest,
        context: int,
        job: Job,
        started: int,
        error: int | None,
        *,
        well: bool,
        instance: bool = True,
    ) -> Report:
        process = self._process
        if process is None:
            raise RuntimeError("a WASI guest ended without a process")
        ending = None if well else guest.take_ending(context, error)
        exit_code = process.exit_code if self._exited else 0
        if ending is not None and not self._exited:
            found = self._stopped or ending
            base = guest.report(context, job, started, found, instance=instance)
            exit_code = None
        else:
            base = Report(
                code=Code.GUEST_EXIT if exit_code else None,
                message=f"the guest exited with {exit_code}" if exit_code else "",
                fuel_consumed=job.limits.fuel_units - guest.fuel_left(context),
                memory_bytes=guest.memory_bytes(context) if instance else 0,
                duration_us=elapsed_us(started),
            )
        return Report(
            code=base.code,
            trap=base.trap,
            message=base.message,
            output=bytes(process.stdout),
            stderr=bytes(process.stderr),
            stdout_truncated=process.stdout_truncated,
            stderr_truncated=process.stderr_truncated,
            exit_code=exit_code,
            fuel_consumed=base.fuel_consumed,
            fuel_exact=base.fuel_exact,
            memory_bytes=base.memory_bytes,
            duration_us=base.duration_us,
        )

    def _define(self, name: str, params: str) -> None:
        thunk = HOST_FUNCTION(self._thunk(name, params))
        self._keep.append(thunk)
        module, function = WASI_MODULE.encode(), name.encode()
        names = (
            ctypes.create_string_buffer(module),
            ctypes.create_string_buffer(function),
        )
        kinds = [_I64 if p == "I" else _I32 for p in params]
        signature = self._function_type(kinds, [] if name == "proc_exit" else [_I32])
        error = self._quick.linker_define_func_unchecked(
            self.linker,
            ctypes.addressof(names[0]),
            len(module),
            ctypes.addressof(names[1]),
            len(function),
            signature,
            ctypes.cast(thunk, ctypes.c_void_p).value,
            None,
            None,
        )
        self._quick.functype_delete(signature)
        if error is not None:
            raise ConfigError(f"WASI {name}: {self._native.take_error(error)}")

    def _function_type(self, params: list[int], results: list[int]) -> int | None:
        vectors = []
        for kinds in (params, results):
            types = (ctypes.c_void_p * max(len(kinds), 1))(
                *(self._quick.valtype_new(kind) for kind in kinds)
            )
            vector = ByteVec()  # every wasm_*_vec_t has this layout
            self._quick.valtype_vec_new(
                ctypes.addressof(vector), len(kinds), ctypes.addressof(types)
            )
            vectors.append(vector)
        return self._quick.functype_new(
            ctypes.addressof(vectors[0]), ctypes.addressof(vectors[1])
        )

    def _thunk(
        self, name: str, params: str
    ) -> Callable[[int | None, int, int, int], int | None]:
        """Give the native entry of one function; slots are 16 bytes, results first."""
        unpack = struct.Struct(
            "<" + "".join("Q8x" if p == "I" else "I12x" for p in params)
        ).unpack
        length = RAW_VAL_BYTES * len(params)
        string_at, memmove = ctypes.string_at, ctypes.memmove

        def call(_env: int | None, caller: int, slots: int, _count: int) -> int | None:
            try:
                process = self._process
                if process is None:
                    raise RuntimeError("a host call without a process")  # noqa: TRY301
                self._memory.bind(caller)
                arguments = unpack(string_at(slots, length)) if length else ()
                memmove(slots, _U32.pack(answer(process, name, arguments)), _U32.size)
            except GuestExit:
                self._exited = True
                return self._stop()
            except OutOfFuel:
                self._stopped = OUT_OF_FUEL
                return self._stop()
            except BaseException as error:  # noqa: BLE001 - native code is the caller
                self._stopped = HOST_FAILED
                sys.stderr.write(f"host call {name} failed: {type(error).__name__}\n")
                return self._stop()
            return None

        return call

    def _stop(self) -> int | None:
        return self._quick.trap_new(ctypes.addressof(self._stop_text), len(_STOP_TEXT))
