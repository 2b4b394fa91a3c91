"""Modules that must not run, and modules that must not even be compiled to the end."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from stream_executor.model.codes import Code
from stream_executor.model.errors import TransientError
from stream_executor.sandbox import compile as compile_file
from stream_executor.sandbox.compile import (
    Artefact,
    Compiler,
    Refusal,
    cpu_s,
    left_s,
    wall_s,
)
from stream_executor.sandbox.config import SandboxConfig
from stream_executor.sandbox.local import LocalSandbox
from tests.integration.sandbox import guests
from tests.integration.sandbox.guests import call, wasm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MIB = 2**20
LIMITED = SandboxConfig(
    children=1, compile_wall_s=6.0, compile_cpu_s=2, compile_data_bytes=512 * MIB
)


@pytest.fixture
async def compiler() -> AsyncIterator[Compiler]:
    """A compiler with tight limits."""
    started = Compiler(LIMITED)
    started.start()
    yield started
    await started.stop()


def _multi_memory() -> bytes:
    return wasm('(module (memory 1) (memory 1) (func (export "f")))')


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"(module)",
        b"\0asm",
        b"\0asm\2\0\0\0",
        b"\0asm\x0d\0\1\0",  # a component
        wasm(guests.ADD)[:-1],
        wasm(guests.ADD) + b"\1",
        wasm(guests.ADD).replace(b"\x6a", b"\xff"),
        _multi_memory(),
        wasm("(module (memory i64 1))"),
        wasm("(module (memory 1 1 shared))"),
        wasm("(module (type (struct)))"),
        guests.many_exports(20_001),
    ],
    ids=lambda data: data[:12].hex(),
)
async def test_what_is_no_acceptable_module_is_refused_as_such(
    compiler: Compiler, data: bytes
) -> None:
    refusal = await compiler.compile("a", data)
    assert isinstance(refusal, Refusal)
    expected = Code.INVALID_WASM if data else Code.COMPILE_LIMIT
    assert refusal.code == expected
    assert refusal.message.isprintable()
    assert refusal.message.isascii()


async def test_many_exports_are_no_problem_up_to_the_cap() -> None:
    """The public API lists exports in quadratic time: 20,000 take it 9 s."""
    module = guests.many_exports(20_000)
    async with LocalSandbox(SandboxConfig(children=1)) as sandbox:
        job = call(sandbox.add(module), "019999")
        reports = await asyncio.wait_for(sandbox.run([job] * 100), 20)
    assert {report.code for report in reports} == {None}


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (SandboxConfig(compile_data_bytes=512 * MIB), 3000),
        (SandboxConfig(compile_wall_s=4.0), 1000),
        (SandboxConfig(compile_cpu_s=1), 1000),
    ],
    ids=["memory", "wall clock", "processor time"],
)
@pytest.mark.threat("T-18")
async def test_a_compile_bomb_ends_at_a_limit(config: SandboxConfig, size: int) -> None:
    """16 KB of nested loops would take 16 s and 2 GB, 48 KB minutes and 11 GB."""
    compiler = Compiler(config)
    compiler.start()
    refusal = await compiler.compile("a", guests.compile_bomb(size))
    await compiler.stop()
    assert isinstance(refusal, Refusal)
    assert refusal.code == Code.COMPILE_LIMIT


async def test_a_bomb_is_remembered_and_others_compile_meanwhile() -> None:
    async with LocalSandbox(LIMITED) as sandbox:
        bomb = call(sandbox.add(guests.compile_bomb(3000)), "f")
        sandbox.add(wasm(guests.ADD))
        exploding = asyncio.create_task(sandbox.run([bomb], "bomber"))
        add = call(guests.ADD, "add", guests.i32(1, 1))
        assert (await sandbox.run([add], "other"))[0].code is None
        assert not exploding.done()
        assert (await exploding)[0].code == Code.COMPILE_LIMIT
        async with asyncio.timeout(0.5):
            assert (await sandbox.run([bomb], "bomber"))[0].code == Code.COMPILE_LIMIT


async def test_an_artefact_is_sealed(compiler: Compiler) -> None:
    artefact = await compiler.compile("a", wasm(guests.ADD))
    assert isinstance(artefact, Artefact)
    with pytest.raises(PermissionError):
        os.pwrite(artefact.fd, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(artefact.fd, 0)
    os.close(artefact.fd)


async def test_a_compile_child_that_lies_gives_no_artefact(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It says 4096 bytes and wrote none."""
    monkeypatch.setattr(compile_file, "ENTRY", "tests.integration.sandbox.liars")
    monkeypatch.setattr(
        "stream_executor.sandbox.process._PACKAGES",
        ("stream_executor", "msgspec", "wasmtime", "tests"),
    )
    compiler = Compiler(SandboxConfig(children=1))
    compiler.start()
    refusal = await compiler.compile("a", wasm(guests.ADD))
    await compiler.stop()
    assert isinstance(refusal, Refusal)
    assert refusal.code == Code.COMPILE_LIMIT


async def test_a_compile_child_that_does_not_start_is_nobodys_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compile_file, "ENTRY", "stream_executor.sandbox.missing")
    compiler = Compiler(SandboxConfig(children=1))
    compiler.start()
    with pytest.raises(TransientError, match="did not start"):
        await compiler.compile("a", wasm(guests.ADD))
    await compiler.stop()


def test_the_clock_stands_while_there_is_no_cpu_but_not_for_ever() -> None:
    assert left_s(10, wall=4, cpu=4) == 6
    assert left_s(10, wall=4, cpu=8) == 6  # two threads: as by the wall clock
    assert left_s(10, wall=12, cpu=3) == 7  # a busy host
    assert left_s(10, wall=12, cpu=10) == 0
    assert left_s(10, wall=39, cpu=0) == 1
    assert left_s(10, wall=41, cpu=0) < 0


def test_a_processs_cpu_time_is_read_from_outside() -> None:
    waits = [sys.executable, "-S", "-c", "input()"]
    with subprocess.Popen(waits, stdin=subprocess.PIPE) as idle:
        before = cpu_s(os.getpid())
        sum(range(10**6))
        assert cpu_s(os.getpid()) > before
        assert cpu_s(idle.pid) < 1
        idle.kill()
        idle.wait()
        assert cpu_s(idle.pid) == 0


def test_small_modules_get_less_time() -> None:
    times = [wall_s(120, size) for size in (1, 2 * MIB, 4 * MIB, 8 * MIB, 64 * MIB)]
    assert times == [30, 30, 60, 120, 120]
