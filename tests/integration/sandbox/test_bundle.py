"""A module's own files in real children: the same compiled now and from the cache."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from stream_executor.model.codes import Code
from stream_executor.model.job import Job, WasiInput
from stream_executor.sandbox.artefact_cache import ArtefactCache
from stream_executor.sandbox.bundle import bundle
from stream_executor.sandbox.config import SandboxConfig
from stream_executor.sandbox.local import LocalSandbox
from tests import guest_toolchains
from tests.integration.sandbox import guests
from tests.integration.sandbox.guests import command, run_bytes, wasm

OWN = {"/lib/a.txt": b"1\n2\n", "/empty": b"", "/lib/b.txt": b"\n" * 1000}
COMMAND = Path(sys.executable).with_name("wasm-executor")


def lines(s256: bytes, *names: str, files: tuple[tuple[str, bytes], ...] = ()) -> Job:
    """Count the lines of files."""
    return command(s256, wasi=WasiInput(("lines", *names), (), files))


async def test_a_command_reads_the_files_that_its_module_brings(tmp_path: Path) -> None:
    folder = await asyncio.to_thread(guest_toolchains.build, "c")
    module = bundle((folder / "lines.wasm").read_bytes(), OWN)
    reports = []
    for compiled in (1, 0):
        cache = ArtefactCache(tmp_path, bytes(32), 1 << 26, lambda _s256: True)
        sandbox = LocalSandbox(SandboxConfig(children=1), cache)
        s256 = sandbox.add(module)
        jobs = [
            lines(s256, *OWN),
            lines(s256, "/lib/c.txt", "/lib/a.txt", files=(("/lib/c.txt", b"\n"),)),
            lines(s256, "/lib/c.txt"),  # nothing of one request is left for the next
            lines(s256, files=(("/lib/a.txt", b"mine"),)),
        ]
        async with sandbox:
            reports.append(await sandbox.run(jobs))
            assert sandbox.pool.compiled == compiled
    own, beside, gone, instead = reports[0]
    assert own.output == b"2 /lib/a.txt\n0 /empty\n1000 /lib/b.txt\n"
    assert beside.output == b"1 /lib/c.txt\n2 /lib/a.txt\n"
    assert (gone.code, gone.stderr) == (
        Code.GUEST_EXIT, b"/lib/c.txt: no such file\n",
    )  # fmt: skip
    assert (instead.code, instead.message) == (
        Code.BAD_ARGUMENTS, "a file's path is used twice",
    )  # fmt: skip
    facts = [[(r.output, r.stderr, r.fuel_consumed) for r in life] for life in reports]
    assert facts[0] == facts[1]


async def test_other_invocations_have_no_files_and_broken_files_are_refused() -> None:
    echo = bundle(wasm(guests.ECHO), OWN)
    broken = wasm(guests.ADD) + echo[len(wasm(guests.ECHO)) :] * 2
    async with LocalSandbox(SandboxConfig(children=1)) as sandbox:
        good, bad = sandbox.add(echo), sandbox.add(broken)
        echoed, refused = await sandbox.run(
            [run_bytes(good, b"hello"), guests.call(bad, "nothing")]
        )
    assert echoed.output == b"hello"
    assert refused.code == Code.INVALID_WASM


def test_the_command_puts_a_folder_s_files_into_a_module(tmp_path: Path) -> None:
    (tmp_path / "lib" / "deep").mkdir(parents=True)
    (tmp_path / "lib" / "a").write_bytes(b"A")
    (tmp_path / "lib" / "deep" / "b").write_bytes(b"B")
    (tmp_path / "one").write_bytes(b"1")
    module = tmp_path / "echo.wasm"
    module.write_bytes(wasm(guests.ECHO))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COMMAND, "module", "bundle", "echo.wasm", "-o", "out.wasm", *arguments],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip

    done = run("--file", "/lib=lib", "--file", "/one=one")
    assert done.returncode == 0, done.stderr
    expected = bundle(
        wasm(guests.ECHO), {"/lib/a": b"A", "/lib/deep/b": b"B", "/one": b"1"}
    )
    assert (tmp_path / "out.wasm").read_bytes() == expected
    refused = run("--file", "one=one")
    assert refused.returncode != 0
    assert "not absolute and plain" in refused.stderr
    assert "Traceback" not in refused.stderr
