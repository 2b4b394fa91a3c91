"""The wasmtime C library, bound by hand: the few calls that a child makes.

The Python layer of wasmtime is not imported: it costs 60 ms of a child's start and
50 µs of every call, and some of its look-ups end the process on hostile modules
(v128 in a signature). Every pointer here is a plain integer, so nothing keeps its
target alive: whoever calls owns engine, module, linker and buffers (``guest``).

Two bindings of the same library: ``quick`` keeps the GIL (short calls, no switching
cost), ``guest`` releases it, and is used for everything that may run guest code, so
that the epoch ticker can stop it. ``tests/unit/sandbox/test_native.py`` holds every
prototype and layout against the wheel's own generated bindings.

Not here: what the calls mean (``engine``, ``guest``, ``wasi_host``).

Source: wasmtime's C API (``wasmtime.h``), layouts from ``wasmtime._bindings`` 50.0.1.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from stream_executor.model.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

Pointer = ctypes.c_void_p
Size = ctypes.c_size_t


class Word(ctypes.c_void_p):
    """A 64-bit integer argument, signed or not, in the form that ctypes passes fastest.

    A call has the same register either way; but an int becomes a pointer in half of
    the time that ``c_int64``, ``c_uint64`` and ``c_size_t`` take (60 ns, 130 ns), and
    an execution passes ten of them.
    """


# Layouts in bytes. An extern and a value are a kind byte, padding, and a union at 8.
UNION_AT = 8
VAL_BYTES = 32
RAW_VAL_BYTES = 16
EXTERN_BYTES = 32
INSTANCE_BYTES = 16
EXTERN_FUNC = 0
EXTERN_MEMORY = 3

# Wasmtime value kind by WebAssembly type code (``model.scalars.ValueType``).
KINDS = {0x7F: 0, 0x7E: 1, 0x7D: 2, 0x7C: 3}

_V, _W, _B, _N = Pointer, Word, ctypes.c_bool, None

Prototype = tuple[object, tuple[object, ...]]

PROTOTYPES: dict[str, Prototype] = {
    "wasm_config_new": (_V, ()),
    "wasm_engine_new_with_config": (_V, (_V,)),
    "wasm_engine_delete": (_N, (_V,)),
    "wasmtime_engine_increment_epoch": (_N, (_V,)),
    "wasmtime_pooling_allocation_config_new": (_V, ()),
    "wasmtime_pooling_allocation_config_delete": (_N, (_V,)),
    "wasmtime_pooling_allocation_strategy_set": (_N, (_V, _V)),
    "wasmtime_module_validate": (_V, (_V, _V, _W)),
    "wasmtime_module_new": (_V, (_V, _V, _W, _V)),
    "wasmtime_module_serialize": (_V, (_V, _V)),
    "wasmtime_module_deserialize": (_V, (_V, _V, _W, _V)),
    "wasmtime_module_delete": (_N, (_V,)),
    "wasmtime_linker_new": (_V, (_V,)),
    "wasmtime_linker_delete": (_N, (_V,)),
    "wasmtime_linker_define_func_unchecked": (
        _V,
        (_V, _V, _W, _V, _W, _V, _V, _V, _V),
    ),
    "wasmtime_linker_instantiate_pre": (_V, (_V, _V, _V)),
    "wasmtime_instance_pre_delete": (_N, (_V,)),
    "wasmtime_instance_pre_instantiate": (_V, (_V, _V, _V, _V)),
    "wasmtime_instance_export_get": (_B, (_V, _V, _V, _W, _V)),
    "wasmtime_store_new": (_V, (_V, _V, _V)),
    "wasmtime_store_context": (_V, (_V,)),
    "wasmtime_store_limiter": (_N, (_V, _W, _W, _W, _W, _W)),
    "wasmtime_store_delete": (_N, (_V,)),
    "wasmtime_context_set_fuel": (_V, (_V, _W)),
    "wasmtime_context_get_fuel": (_V, (_V, _V)),
    "wasmtime_context_set_epoch_deadline": (_N, (_V, _W)),
    "wasmtime_context_has_exception": (_B, (_V,)),
    "wasmtime_func_call": (_V, (_V, _V, _V, _W, _V, _W, _V)),
    "wasmtime_memory_data": (_V, (_V, _V)),
    "wasmtime_memory_data_size": (Size, (_V, _V)),
    "wasmtime_caller_context": (_V, (_V,)),
    "wasmtime_caller_export_get": (_B, (_V, _V, _W, _V)),
    "wasmtime_trap_new": (_V, (_V, _W)),
    "wasmtime_trap_code": (_B, (_V, _V)),
    "wasm_trap_delete": (_N, (_V,)),
    "wasmtime_error_message": (_N, (_V, _V)),
    "wasmtime_error_delete": (_N, (_V,)),
    "wasm_byte_vec_delete": (_N, (_V,)),
    "wasm_functype_new": (_V, (_V, _V)),
    "wasm_functype_delete": (_N, (_V,)),
    "wasm_valtype_new": (_V, (ctypes.c_uint8,)),
    "wasm_valtype_vec_new": (_N, (_V, _W, _V)),
}

# Calls that may run guest code (start functions too) or compile: never with the GIL.
RUNS_GUEST = (
    "wasmtime_func_call",
    "wasmtime_instance_pre_instantiate",
    "wasmtime_module_new",
)

HOST_FUNCTION = ctypes.CFUNCTYPE(Pointer, Pointer, Pointer, Pointer, Size)
"""``(environment, caller, raw values, count) -> trap or NULL`` of an unchecked
host function; ctypes takes the GIL for its time."""


class ByteVec(ctypes.Structure):
    """``wasm_byte_vec_t``; ``wasm_byte_vec_delete`` frees what it points to."""

    _fields_ = (("size", Size), ("data", Pointer))
    size: int
    data: int | None


def library_path() -> Path:
    """Give the path of the native library inside the installed wheel.

    Raises:
        ConfigError: wasmtime is not installed, or ships no library for this machine.
    """
    spec = find_spec("wasmtime")
    if spec is None or spec.origin is None:
        raise ConfigError("wasmtime is not installed")
    machine = platform.machine()
    machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    root = Path(spec.origin).parent
    path = root / f"{sys.platform}-{machine}" / "_libwasmtime.so"
    if not path.is_file():
        raise ConfigError(f"wasmtime has no library for {sys.platform} {machine}")
    return path


class Library:
    """One binding of the library: ``library.store_new(...)`` and so on.

    Names are the C names without ``wasmtime_`` or ``wasm_``. Pointers come back as
    int, NULL as None.
    """

    def __init__(self, handle: ctypes.CDLL, names: tuple[str, ...]) -> None:
        for name in names:
            restype, argtypes = PROTOTYPES[name]
            try:
                function = getattr(handle, name)
            except AttributeError as error:
                raise ConfigError(f"the native wasmtime lacks {name}") from error
            function.restype, function.argtypes = restype, argtypes
            setattr(self, short_name(name), function)
        self._handle = handle

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Callable[..., int | None]: ...

    def setting(self, name: str, argument: object) -> Callable[[int, int], None]:
        """Give a ``(object, value)`` setter of a configuration; no result."""
        function = getattr(self._handle, name)
        function.restype, function.argtypes = None, (Pointer, argument)
        return function  # type: ignore[no-any-return]


def short_name(name: str) -> str:
    """Give the Python name of a C function."""
    return name.removeprefix("wasmtime_").removeprefix("wasm_")


class Native:
    """The library, loaded: ``quick`` calls keep the GIL, ``guest`` calls do not.

    Raises:
        ConfigError: the library is missing or lacks a function.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or library_path()
        try:
            self.quick = Library(ctypes.PyDLL(str(self.path)), tuple(PROTOTYPES))
            self.guest = Library(ctypes.CDLL(str(self.path)), RUNS_GUEST)
        except OSError as error:
            raise ConfigError("the native wasmtime cannot be loaded") from error

    def take_error(self, error: int | None) -> str:
        """Consume a ``wasmtime_error_t``; give its text, "" for None.

        The text holds names that a guest chose. It tells a requester why a module does
        not compile, escaped and cut (``outcome.escape``); how a run ended is told in
        our own words only.
        """
        if error is None:
            return ""
        vec = ByteVec()
        self.quick.error_message(error, ctypes.addressof(vec))
        text = ctypes.string_at(vec.data or 0, vec.size) if vec.size else b""
        self.quick.byte_vec_delete(ctypes.addressof(vec))
        self.quick.error_delete(error)
        return text.decode("utf-8", "replace")
