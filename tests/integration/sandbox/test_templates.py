"""What `module new` writes builds with the command that it names, and runs."""

from __future__ import annotations

import asyncio
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from stream_executor.cli.templates import TEMPLATES
from stream_executor.sandbox.inspect import inspect_module
from tests import guest_toolchains
from tests.integration.sandbox.guests import call, i32, wasm
from tests.integration.sandbox.test_languages import ASSEMBLYSCRIPT, GO, RUST, C

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from stream_executor.model.job import Job, Report
    from stream_executor.sandbox.local import LocalSandbox

pytestmark = pytest.mark.asyncio(loop_scope="module")


def build(language: str, folder: Path) -> bytes:
    """Do what the source file's first lines say, with the pinned compilers."""
    template = TEMPLATES[language]
    (folder / template.file("mine")).write_text(template.text("mine"))
    for line in template.commands("mine"):
        assert line in template.text("mine")
    if template.build is None:
        return wasm((folder / template.file("mine")).read_text())
    order = template.build.format(name="mine")
    if language == "c":
        zig = guest_toolchains.wheel_file("ziglang/zig")
        order = order.replace("python3 -m ziglang", str(zig))
    elif language == "rust":
        order = order.replace("rustc", guest_toolchains.RUSTC, 1)
    elif language == "assemblyscript":
        guest_toolchains.build(language)  # fetches its compiler
        asc = guest_toolchains._once("npm", guest_toolchains._fetch_npm)
        script = asc / "assemblyscript" / "bin" / "asc.js"
        order = order.replace("npx asc", f"node {script}")
    zig_cache = str(guest_toolchains._folder() / "zig")
    environment = {
        **os.environ,
        "ZIG_GLOBAL_CACHE_DIR": zig_cache,
        "ZIG_LOCAL_CACHE_DIR": zig_cache,
    }
    subprocess.run(order, shell=True, cwd=folder, env=environment, check=True)  # noqa: S602
    return (folder / "mine.wasm").read_bytes()


@pytest.mark.parametrize("language", ["wat", C, RUST, ASSEMBLYSCRIPT])
async def test_a_new_module_adds(
    sandbox: LocalSandbox,
    run: Callable[[Job], Awaitable[Report]],
    language: str,
    tmp_path: Path,
) -> None:
    module = await asyncio.to_thread(build, language, tmp_path)
    report = await run(call(sandbox.add(module), "add", i32(2, 3)))
    assert (report.code, report.output) == (None, i32(5))


@pytest.mark.parametrize("language", [GO])
async def test_a_new_command_is_a_command(language: str, tmp_path: Path) -> None:
    """Compiling Go's runtime once more would only repeat test_languages."""
    shape = inspect_module(await asyncio.to_thread(build, language, tmp_path))
    assert "_start" in shape.functions
    assert {one.module for one in shape.imports} == {"wasi_snapshot_preview1"}
