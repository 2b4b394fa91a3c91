"""Real interpreters as modules: scripts in, the same bytes and fuel out, everywhere.

Each script asks for what differs between runs of an ordinary interpreter: clocks,
chance, hash order, addresses, the environment. It runs twice in one sandbox whose
compile cache is empty, and again in a second one that finds the compiled modules on
disk; children are processes of their own.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, NamedTuple

import pytest
import pytest_asyncio

from stream_executor.model.codes import Code
from stream_executor.model.job import Job, Limits, Report, WasiInput
from stream_executor.sandbox.artefact_cache import ArtefactCache
from stream_executor.sandbox.config import SandboxConfig
from stream_executor.sandbox.local import LocalSandbox
from tests import guest_toolchains
from tests.integration.sandbox.guests import LIMITS, NOW_MS, command

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(300),
    pytest.mark.needs("cargo"),
]

GRANTED = Limits(fuel_units=2_000_000_000, memory_bytes=256 << 20, deadline_ms=60_000)
KEY = bytes(32)
CACHE_BYTES = 256 << 20
QUICKJS = "bin/quickjs.wasm"
CPYTHON = "bin/python.wasm"
FROM_STDIN = ("qjs", "--std", "-e", "std.evalScript(std.in.readAsString())")

JAVASCRIPT = """
const data = scriptArgs.includes("/s.js") ? std.in.readAsString() : "";
console.log(JSON.stringify({
  now: Date.now(), chance: [Math.random(), Math.random()], home: std.getenv("HOME"),
  keys: Object.keys({b: 1, a: 2}), big: (2n ** 70n).toString(), data,
}));
std.err.puts("to stderr\\n");
"""
PYTHON = """
import json, os, random, sys, time, uuid
data = "" if sys.argv[0] == "-" else sys.stdin.read()
print(json.dumps({
    "now": int(time.time() * 1000), "chance": [random.random(), str(uuid.uuid4())],
    "home": os.environ.get("HOME"), "keys": list({"b", "a", "c"}) + [hash("x")],
    "big": str(2 ** 70), "data": data, "addresses": id(object()),
}))
print("to stderr", file=sys.stderr)
"""
LUA = """
local data = arg[0] == "/s.lua" and io.read("a") or ""
print(string.format(
  '{"now": %d, "chance": [%.17g, "%s"], "home": "%s", "big": "%.0f", "data": "%s"}',
  os.time() * 1000 + 123, math.random(), tostring({}), os.getenv("HOME"), 2 ^ 70,
  data))
io.stderr:write("to stderr\\n")
"""


class Script(NamedTuple):
    """One way to run one interpreter."""

    module: str
    args: tuple[str, ...]
    script: str
    limits: Limits = LIMITS
    """The default ceilings, unless a grant is needed."""

    def job(self, s256: bytes) -> Job:
        """Give the job: the script is standard input, or the file that is named."""
        in_file = self.args[-1].startswith("/")
        files = ((self.args[-1], self.script.encode()),) if in_file else ()
        wasi = WasiInput(self.args, (("HOME", "/"),), files)
        stdin = b"data" if in_file else self.script.encode()
        return command(s256, stdin, self.limits, wasi=wasi)


SCRIPTS = {
    "quickjs": Script(QUICKJS, FROM_STDIN, JAVASCRIPT),
    "quickjs-file": Script(QUICKJS, ("qjs", "--std", "/s.js"), JAVASCRIPT),
    "lua": Script("lua", ("lua",), LUA),
    "lua-file": Script("lua", ("lua", "/s.lua"), LUA),
    "cpython": Script(CPYTHON, ("python", "-"), PYTHON, GRANTED),
    "cpython-file": Script(CPYTHON, ("python", "/s.py"), PYTHON, GRANTED),
}
ENDS = {
    "quickjs": Script(QUICKJS, FROM_STDIN, "throw new Error('no')"),
    "quickjs-exit": Script(QUICKJS, FROM_STDIN, "std.exit(200)"),
    "lua": Script("lua", ("lua",), "error('no')"),
    "cpython": Script(CPYTHON, ("python", "-"), "raise SystemExit(7)", GRANTED),
}
LOOPS = {
    "quickjs": Script(QUICKJS, FROM_STDIN, "for (;;) {}"),
    "lua": Script("lua", ("lua",), "while true do end"),
    "cpython": Script(CPYTHON, ("python", "-"), "while True: pass", GRANTED),
}
BOMBS = {
    "quickjs": Script(
        QUICKJS, FROM_STDIN, "const a=[]; for(;;) a.push('x'.repeat(1e6)+a.length)"
    ),
    "lua": Script("lua", ("lua",), "local s='x' while true do s=s..s end"),
    "cpython": Script(CPYTHON, ("python", "-"), "s = 'x' * 10**9", GRANTED),
}


class Life:
    """A sandbox over the interpreters, with a compile cache on disk."""

    def __init__(self, cache: Path, modules: dict[str, bytes]) -> None:
        kept = ArtefactCache(cache, KEY, CACHE_BYTES, lambda _s256: True)
        self.sandbox = LocalSandbox(SandboxConfig(children=2), kept)
        self._s256 = {name: self.sandbox.add(data) for name, data in modules.items()}

    async def run(self, *scripts: Script) -> list[Report]:
        """Run scripts in this order."""
        return await self.sandbox.run([s.job(self._s256[s.module]) for s in scripts])


class Answers(NamedTuple):
    """What each script of ``SCRIPTS`` gave: twice cold, then warm."""

    reports: dict[str, list[Report]]
    warm: Life


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def answers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Answers]:
    """Run all scripts in two sandboxes; the second one stays."""
    lua = await asyncio.to_thread(guest_toolchains.build, "lua")
    files = {
        QUICKJS: guest_toolchains.wheel_file(QUICKJS),
        CPYTHON: guest_toolchains.wheel_file(CPYTHON),
        "lua": lua / "lua.wasm",
    }
    modules = {name: file.read_bytes() for name, file in files.items()}
    folder = tmp_path_factory.mktemp("cache")
    reports: dict[str, list[Report]] = {name: [] for name in SCRIPTS}

    async def add(life: Life) -> None:
        for name, report in zip(
            SCRIPTS, await life.run(*SCRIPTS.values()), strict=True
        ):
            reports[name].append(report)

    cold = Life(folder, modules)
    async with cold.sandbox:
        await add(cold)
        await add(cold)
        assert cold.sandbox.pool.compiled == len(modules)
    warm = Life(folder, modules)
    async with warm.sandbox:
        await add(warm)
        assert warm.sandbox.pool.compiled == 0
        yield Answers(reports, warm)


@pytest.mark.parametrize("name", SCRIPTS)
async def test_a_script_runs(answers: Answers, name: str) -> None:
    report = answers.reports[name][0]
    assert (report.code, report.exit_code) == (None, 0), report
    assert report.stderr == b"to stderr\n"
    said = json.loads(report.output)
    assert said["now"] - NOW_MS in range(1000)  # it counts readings, not time
    assert said["home"] == "/"
    assert said["big"] == str(2**70)
    assert said["data"] == ("data" if name.endswith("-file") else "")
    assert report.fuel_exact


@pytest.mark.parametrize("name", SCRIPTS)
async def test_every_run_gives_the_same_bytes_fuel_and_memory(
    answers: Answers, name: str
) -> None:
    facts = {
        (r.code, r.output, r.stderr, r.exit_code, r.fuel_consumed, r.memory_bytes)
        for r in answers.reports[name]
    }
    assert len(answers.reports[name]) == 3
    assert len(facts) == 1


@pytest.mark.parametrize(
    ("name", "exit_code"),
    [("quickjs", 1), ("quickjs-exit", 200), ("lua", 1), ("cpython", 7)],
)
async def test_a_script_that_fails_is_an_exit(
    answers: Answers, name: str, exit_code: int
) -> None:
    (report,) = await answers.warm.run(ENDS[name])
    assert (report.code, report.exit_code) == (Code.GUEST_EXIT, exit_code)
    assert (b"no" in report.stderr) == (exit_code == 1)


@pytest.mark.parametrize("name", LOOPS)
async def test_a_script_that_does_not_end_runs_out_of_fuel(
    answers: Answers, name: str
) -> None:
    (report,) = await answers.warm.run(LOOPS[name])
    assert report.code == Code.FUEL_EXHAUSTED
    assert report.fuel_consumed == LOOPS[name].limits.fuel_units


@pytest.mark.parametrize("name", BOMBS)
async def test_a_script_that_wants_all_memory_gets_its_interpreter_s_error(
    answers: Answers, name: str
) -> None:
    (report,) = await answers.warm.run(BOMBS[name])
    assert report.code in (Code.GUEST_EXIT, Code.FUEL_EXHAUSTED)
    assert report.memory_bytes <= BOMBS[name].limits.memory_bytes
