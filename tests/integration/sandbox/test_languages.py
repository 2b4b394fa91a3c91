"""The example guests, built from source by their compilers, do what they say.

They are what docs/module-abi.md shows.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stream_executor.model.codes import Code
from stream_executor.model.job import Job, Report, WasiInput
from stream_executor.model.scalars import ValueType, pack_value
from tests import guest_toolchains
from tests.integration.sandbox.guests import (
    call,
    command,
    limits,
    run_bytes,
    wasm,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stream_executor.sandbox.local import LocalSandbox

    Run = Callable[[Job], Awaitable[Report]]

pytestmark = pytest.mark.asyncio(loop_scope="module")

WAT = Path(__file__).parents[3] / "examples" / "modules"
RUST_PARTS = ("/usr/bin/rustc", "/usr/bin/rust-lld")
C = pytest.param("c", id="c")
RUST = pytest.param(
    "rust",
    id="rust",
    marks=pytest.mark.needs(*RUST_PARTS, "/usr/lib/rustlib/wasm32-unknown-unknown"),
)
GO = pytest.param("go", id="go", marks=pytest.mark.needs("go"))
ASSEMBLYSCRIPT = pytest.param(
    "assemblyscript", id="assemblyscript", marks=pytest.mark.needs("node", "npm")
)
UNICODE = ("assemblyscript", "rust")
PLENTY = limits(fuel=100_000_000)
FILES = (("/a.txt", b"1\n2\n3\n"), ("/dir/b.txt", b"0123456789\n" * 7_000))


async def built(sandbox: LocalSandbox, language: str, guest: str) -> bytes:
    """Build a guest, make it known, and give its digest."""
    folder = await asyncio.to_thread(guest_toolchains.build, language)
    return sandbox.add((folder / f"{guest}.wasm").read_bytes())


def i64(*values: int) -> bytes:
    return b"".join(pack_value(ValueType.I64, value) for value in values)


@pytest.mark.parametrize("language", [C, RUST, ASSEMBLYSCRIPT])
async def test_a_call_takes_and_gives_scalars(
    sandbox: LocalSandbox, run: Run, language: str
) -> None:
    gcd = await built(sandbox, language, "gcd")
    report = await run(call(gcd, "gcd", i64(1071, 462)))
    assert (report.code, report.output) == (None, i64(21))
    # Unsigned in the guest: -2 is 2**64 - 2.
    assert (await run(call(gcd, "gcd", i64(-2, 2**62)))).output == i64(2)
    refused = await run(call(gcd, "gcd", i64(1)))
    assert refused.code == Code.BAD_ARGUMENTS


@pytest.mark.parametrize("language", [C, RUST, ASSEMBLYSCRIPT])
async def test_bytes_come_back_as_other_bytes(
    sandbox: LocalSandbox, run: Run, language: str
) -> None:
    upper = await built(sandbox, language, "upper")
    long = b"ab c" * 20_000  # more than the memory that a small guest begins with
    for text in (b"", b"hello, World", long):
        report = await run(run_bytes(upper, text, PLENTY, 2**20))
        assert (report.code, report.output) == (None, text.upper())
    if language in UNICODE:
        report = await run(run_bytes(upper, "straße ελ".encode()))
        assert report.output.decode() == "STRASSE ΕΛ"


@pytest.mark.needs(*RUST_PARTS, "/usr/lib/rustlib/wasm32-unknown-unknown")
async def test_a_panic_is_a_trap(sandbox: LocalSandbox, run: Run) -> None:
    report = await run(run_bytes(await built(sandbox, "rust", "upper"), b"\xff"))
    assert (report.code, report.trap) == (Code.TRAP, "unreachable")


@pytest.mark.parametrize("language", [C, RUST, GO])
async def test_a_command_has_arguments_files_and_streams(
    sandbox: LocalSandbox, run: Run, language: str
) -> None:
    lines = await built(sandbox, language, "lines")

    report = await run(command(lines, b"a\nb\n"))
    assert (report.code, report.output, report.exit_code) == (None, b"2 -\n", 0)

    wasi = WasiInput(("lines", "/dir/b.txt", "/a.txt"), (), FILES)
    report = await run(command(lines, limits=PLENTY, wasi=wasi))
    assert (report.code, report.output) == (None, b"7000 /dir/b.txt\n3 /a.txt\n")

    report = await run(command(lines, wasi=WasiInput(("lines", "/none"), (), FILES)))
    assert (report.code, report.exit_code) == (Code.GUEST_EXIT, 1)
    assert (report.output, report.stderr) == (b"", b"/none: no such file\n")


async def test_wat_needs_no_compiler(sandbox: LocalSandbox, run: Run) -> None:
    add, upper, count = (
        sandbox.add(wasm((WAT / f"{name}.wat").read_text()))
        for name in ("add", "upper", "count")
    )
    two_and_three = pack_value(ValueType.I32, 2) + pack_value(ValueType.I32, 3)
    report = await run(call(add, "add", two_and_three))
    assert report.output == pack_value(ValueType.I32, 5)
    report = await run(run_bytes(upper, b"hello" * 40_000, PLENTY, 2**20))
    assert report.output == b"HELLO" * 40_000
    assert (await run(command(count, b"hello\n"))).output == b"6 bytes\n"
