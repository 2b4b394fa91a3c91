"""What is read from a module before anything native touches it."""

from __future__ import annotations

import pytest

from stream_executor.model.errors import MalformedError
from stream_executor.sandbox.inspect import (
    MAX_EXPORTS,
    MAX_NAME_BYTES,
    Import,
    Signature,
    inspect_module,
)
from tests.integration.sandbox import guests
from tests.integration.sandbox.guests import wasm

MAGIC = b"\0asm\1\0\0\0"


def test_the_shape_of_a_module_is_read_whole() -> None:
    shape = inspect_module(
        wasm(
            """(module
            (import "wasi_snapshot_preview1" "fd_close"
              (func (param i32) (result i32)))
            (import "env" "g" (global i64))
            (memory (export "mem") 2 9)
            (table 7 funcref) (table 3 externref)
            (func $s) (start $s)
            (func (export "f") (param i32 v128) (result f64) unreachable)
            (func (export "g") (param i64 f32)))"""
        )
    )
    assert shape.functions == {
        "f": Signature(b"\x7f\0", b"\x7c"),
        "g": Signature(b"\x7e\x7d", b""),
    }
    assert [shape.functions[name].callable for name in "fg"] == [False, True]
    assert shape.imports == [
        Import("wasi_snapshot_preview1", "fd_close", 0),
        Import("env", "g", 3),
    ]
    assert (shape.memory, shape.memory_pages) == ("mem", 2)
    assert (shape.tables, shape.table_elements, shape.start) == (2, 7, True)


def test_an_empty_module_has_an_empty_shape() -> None:
    shape = inspect_module(MAGIC)
    assert (shape.functions, shape.memory, shape.memory_pages) == ({}, None, 0)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"(module)", "not a WebAssembly binary"),
        (b"\0asm\x0d\0\1\0", "not a WebAssembly binary"),
        (MAGIC + b"\1\5\1", "pass the end"),
        (MAGIC + b"\1\1\0\1\1\0", "comes twice"),
        (MAGIC + b"\x0e\0", "unknown"),
        (MAGIC + b"\1\2\0\0", "extra"),
        (MAGIC + b"\1\2\1\x5f", "type form"),
        (MAGIC + b"\1\4\1\x60\1\x01", "no value type"),
        (MAGIC + b"\1\6\x80\x80\x80\x80\x80\0", "too long"),
        (MAGIC + b"\1\5\xff\xff\xff\xff\x7f", "too large"),
        (MAGIC + b"\1\4\xff\xff\xff\x7f", "types; at most"),
        (MAGIC + b"\5\3\1\3\1", "disabled proposal"),
        (MAGIC + b"\4\3\1\x7f\0", "table of scalars"),
        (MAGIC + b"\2\4\1\0\0\7", "no kind of import"),
        (MAGIC + b"\7\4\1\0\0\0", "has no type"),
        (MAGIC + b"\7\5\1\1\xff\0\0", "not UTF-8"),
    ],
)
def test_what_is_malformed_is_said_in_safe_text(data: bytes, why: str) -> None:
    with pytest.raises(MalformedError, match=why) as caught:
        inspect_module(data)
    assert str(caught.value).isascii()


def test_counts_and_names_have_caps() -> None:
    with pytest.raises(MalformedError, match="exports; at most"):
        inspect_module(guests.many_exports(MAX_EXPORTS + 1))
    assert len(inspect_module(guests.many_exports(1000)).functions) == 1000
    name = "n" * (MAX_NAME_BYTES + 1)
    with pytest.raises(MalformedError, match="bytes in a name"):
        inspect_module(wasm(f'(module (func (export "{name}")))'))
