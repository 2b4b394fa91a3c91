"""Our prototypes and layouts are those of the wheel's own bindings."""

from __future__ import annotations

import ctypes

import pytest
from wasmtime import _bindings

from stream_executor.model.errors import ConfigError
from stream_executor.sandbox import native as ours
from stream_executor.sandbox.engine import ENGINE_SETTINGS, POOL_SETTINGS
from stream_executor.sandbox.native import PROTOTYPES, Library, Native, short_name


def kind(c_type: object) -> str:
    """Give what matters of a C type: a pointer, or its size and name."""
    if c_type is None:
        return "none"
    pointers = (ctypes._Pointer, ctypes._CFuncPtr)  # type: ignore[attr-defined]
    if c_type is ctypes.c_void_p or (
        isinstance(c_type, type) and issubclass(c_type, pointers)
    ):
        return "pointer"
    if c_type is ctypes.c_bool:
        return "bool"
    assert isinstance(c_type, type)
    assert issubclass(c_type, ctypes._SimpleCData)
    return f"integer of {ctypes.sizeof(c_type)}"


@pytest.mark.parametrize("name", sorted(PROTOTYPES))
def test_a_prototype_is_the_wheels(name: str) -> None:
    theirs = getattr(_bindings, f"_{name}")
    restype, argtypes = PROTOTYPES[name]
    assert kind(restype) == kind(theirs.restype)
    assert [kind(a) for a in argtypes] == [kind(a) for a in theirs.argtypes]


def test_layouts_are_the_wheels() -> None:
    assert ctypes.sizeof(_bindings.wasmtime_val_t) == ours.VAL_BYTES
    assert ctypes.sizeof(_bindings.wasmtime_val_raw_t) == ours.RAW_VAL_BYTES
    assert ctypes.sizeof(_bindings.wasmtime_extern_t) == ours.EXTERN_BYTES
    assert ctypes.sizeof(_bindings.wasmtime_instance_t) == ours.INSTANCE_BYTES
    assert _bindings.wasmtime_val_t.of.offset == ours.UNION_AT
    assert _bindings.wasmtime_extern_t.of.offset == ours.UNION_AT
    assert ctypes.sizeof(_bindings.wasm_byte_vec_t) == ctypes.sizeof(ours.ByteVec)


def test_settings_have_the_types_of_the_wheel() -> None:
    for name, _ in ENGINE_SETTINGS:
        setter = getattr(_bindings, f"_wasmtime_config_{name}_set")
        assert setter.argtypes[1] is ctypes.c_bool
    for name, _ in POOL_SETTINGS:
        assert hasattr(_bindings, f"_wasmtime_pooling_allocation_config_{name}_set")


def test_guest_code_runs_only_through_the_binding_that_releases_the_gil() -> None:
    native = Native()
    for name in ours.RUNS_GUEST:
        released = getattr(native.guest, short_name(name))
        assert not released._flags_ & ctypes._FUNCFLAG_PYTHONAPI  # type: ignore[attr-defined]
        kept = getattr(native.quick, short_name(name))
        assert kept._flags_ & ctypes._FUNCFLAG_PYTHONAPI  # type: ignore[attr-defined]


def test_a_library_without_a_function_is_refused() -> None:
    with pytest.raises(ConfigError, match="lacks wasmtime_store_new"):
        Library(ctypes.CDLL(None), ("wasmtime_store_new",))
