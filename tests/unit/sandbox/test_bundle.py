"""Files in a module: what is written is what the parser of shapes finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream_executor.model.errors import MalformedError
from stream_executor.sandbox.bundle import bundle
from stream_executor.sandbox.inspect import (
    BUNDLE_SECTION,
    MAX_BUNDLED_FILES,
    inspect_module,
)
from stream_executor.sandbox.wasi_files import MAX_DEPTH, FileTree
from stream_executor.sandbox.wasi_types import Errno, WasiError
from tests.integration.sandbox import guests
from tests.integration.sandbox.guests import wasm

ADD = wasm(guests.ADD)
FILES = {"/lib/a.txt": b"first", "/empty": b"", "/lib/ü/b": bytes(range(256)) * 300}
FIRST = b"\0\x18\x12" + BUNDLE_SECTION + b"\x02/ahi"


def files_of(module: bytes) -> dict[str, bytes]:
    found = inspect_module(module).bundle
    return {f.path: module[f.at : f.at + f.length] for f in found}


def test_files_come_back_and_nothing_else_changes() -> None:
    bundled = bundle(ADD, FILES)
    assert bundled.startswith(ADD)
    assert files_of(bundled) == FILES
    shape, before = inspect_module(bundled), inspect_module(ADD)
    assert (shape.functions, before.bundle) == (before.functions, [])


def test_the_bytes_are_those_of_the_decision() -> None:
    """ADR 0020: name, path with its length, content to the end of the section."""
    assert bundle(ADD, {"/a": b"hi"}) == ADD + FIRST
    text = (Path(__file__).parents[3] / "docs" / "wire-format.md").read_text()
    shown = "0018 127761736d2d6578656375746f722e66696c65 022f61 6869"
    assert shown in text
    assert bytes.fromhex(shown) == FIRST


def test_files_may_be_added_in_two_steps() -> None:
    twice = bundle(bundle(ADD, {"/a": b"1"}), {"/b": b"2"})
    assert twice == bundle(ADD, {"/a": b"1", "/b": b"2"})


def test_other_custom_sections_mean_nothing() -> None:
    assert inspect_module(ADD + b"\0\x05\x04name").bundle == []
    assert inspect_module(ADD + b"\0\x13\x12" + BUNDLE_SECTION[:-1] + b"x").bundle == []


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"a": b""}, "not absolute and plain"),
        ({"/a/../b": b""}, "not absolute and plain"),
        ({"/": b""}, "not absolute and plain"),
        ({"/a": b"", "/a/b": b""}, "used twice"),
        ({"/d" * (MAX_DEPTH + 1): b""}, "too deep"),
        ({f"/{n}": b"" for n in range(MAX_BUNDLED_FILES + 1)}, "more than 4096 files"),
        ({"/" + "n" * 4096: b""}, "bytes in a name"),
    ],
)
def test_what_is_no_file_is_refused(files: dict[str, bytes], why: str) -> None:
    with pytest.raises(MalformedError, match=why):
        bundle(ADD, files)


def test_a_path_comes_once() -> None:
    with pytest.raises(MalformedError, match="used twice"):
        inspect_module(ADD + FIRST + FIRST)


def test_a_section_that_ends_within_its_path_is_malformed() -> None:
    with pytest.raises(MalformedError, match="pass the end"):
        inspect_module(ADD + b"\0\x15\x12" + BUNDLE_SECTION + b"\x03/a")


def test_a_request_s_files_stand_beside_the_module_s() -> None:
    under = FileTree((("/lib/a", b"module"), ("/c", b"")))
    tree = FileTree((("/lib/b", b"request"), ("/new/d", b"")), under)
    assert tree.node(("lib", "a")).data == b"module"
    assert tree.node(("lib", "b")).data == b"request"
    listed = {path: [name for name, _ in tree.entries(path)] for path in ((), ("lib",))}
    assert listed == {
        (): [".", "..", "c", "lib", "new"],
        ("lib",): [".", "..", "a", "b"],
    }
    paths = [(), ("lib",), ("lib", "a"), ("lib", "b"), ("c",), ("new",), ("new", "d")]
    assert len({tree.node(path).inode for path in paths}) == len(paths) == tree.count
    with pytest.raises(WasiError) as caught:
        under.node(("lib", "b"))
    assert caught.value.errno == Errno.NOENT


@pytest.mark.parametrize("path", ["/lib/a", "/lib", "/lib/a/x"])
def test_a_request_s_file_never_stands_in_the_place_of_a_module_s(path: str) -> None:
    with pytest.raises(ValueError, match="used twice"):
        FileTree(((path, b"other"),), FileTree((("/lib/a", b"module"),)))
