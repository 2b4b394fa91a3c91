"""What the sandbox costs: fresh executions, compiling, an interpreter, two children.

    python -m benchmarks.bench_sandbox [--rounds N] [--save]

A fresh execution is measured three ways: the library's public API, the fast path in
this process as a child runs it, and the fast path behind the hop to a child, in batches
of 1, 16 and 200. Rounds are short and go through all ways in turn, so that a busy
machine slows all of them alike. Given are CPU microseconds, the least of all rounds and
the median; behind the hop those of parent and child. Ratios to the public API, and the
hop's own cost (parent + child - fast path), are medians of what each round gave.

Compiling (``bench_compile_cache``) and the speed-up over two children are wall clock;
the second is the best of many rounds, beside what two bare processes gain in them, for
only two cores that nobody else uses give it all.
``--save`` replaces this part of the record, and leaves its other parts.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import math
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import uvloop
import wasmtime

from benchmarks import bench_compile_cache
from benchmarks.machine import facts, note, settle
from benchmarks.report import table, write_json
from stream_executor.model.job import InvocationKind, Job, Limits, WasiInput
from stream_executor.model.scalars import ValueType, pack_value
from stream_executor.sandbox.config import SandboxConfig
from stream_executor.sandbox.engine import DEFAULT_STACK_BYTES, Engine
from stream_executor.sandbox.guest import Guest
from stream_executor.sandbox.inspect import inspect_module
from stream_executor.sandbox.local import LocalSandbox
from stream_executor.sandbox.native import Native
from stream_executor.sandbox.probe import compile_module
from stream_executor.sandbox.wasi_host import WasiHost
from tests.guest_toolchains import wheel_file

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from stream_executor.model.job import Report
    from stream_executor.sandbox.guest import Run

RECORD: Final = Path(__file__).with_name("results") / "latest.json"
ROUNDS: Final = 40
COMPUTE_ROUNDS: Final = 60
LIMITS = Limits(fuel_units=5_000_000, memory_bytes=64 * 2**20, deadline_ms=5_000)
CALLS = {
    "add": """(module (func (export "f") (param i32 i32) (result i32)
        (i32.add (local.get 0) (local.get 1))))""",
    "memory": """(module (memory (export "memory") 2)
        (data (i32.const 0) "hello world") (data (i32.const 70000) "and its data")
        (func (export "f") (param i32 i32) (result i32)
          (i32.store (i32.const 70000) (local.get 0))
          (i32.add (i32.load (i32.const 70000)) (local.get 1))))""",
}
ARGS = pack_value(ValueType.I32, 2) + pack_value(ValueType.I32, 3)
QUICKJS = "bin/quickjs.wasm"
HELLO = WasiInput(("qjs", "-e", "console.log('hello')"), (), ())
COMPUTE = """(module (func (export "f") (result i64) (local i64 i64)
  (loop $more
    (local.set 0 (i64.add (i64.mul (local.get 0) (i64.const 31)) (local.get 1)))
    (local.set 1 (i64.add (local.get 1) (i64.const 1)))
    (br_if $more (i64.lt_u (local.get 1) (i64.const 20000000))))
  (local.get 0)))"""
PUBLIC, FAST, HOP = "public API", "fast path", "behind the hop, "
COLUMNS = ("execution", "way", "µs", "median", "parent", "child", "x public", "hop")


class Spent(NamedTuple):
    """CPU microseconds of one execution in one round."""

    own: float
    child: float = 0.0

    @property
    def total(self) -> float:
        """Both processes together."""
        return self.own + self.child


Ways = dict[str, list[Spent]]
"""What each way cost, round by round."""


def call_job(s256: bytes) -> Job:
    """Give a call of ``f``."""
    return Job(s256, InvocationKind.CALL, "f", ARGS, LIMITS, 1024, 0, b"")


def hello_job(s256: bytes) -> Job:
    """Give a script that says hello."""
    return Job(s256, InvocationKind.WASI, "", b"", LIMITS, 1024, 0, bytes(32), HELLO)


def public_api(module: bytes) -> Callable[[], object]:
    """Give one fresh execution as the library's documentation writes it."""
    config = wasmtime.Config()
    config.consume_fuel = config.epoch_interruption = True
    engine = wasmtime.Engine(config)
    compiled = wasmtime.Module(engine, module)
    linker = wasmtime.Linker(engine)

    def run() -> object:
        store = wasmtime.Store(engine)
        store.set_limits(LIMITS.memory_bytes, 100_000, 1, 8, 1)
        store.set_fuel(LIMITS.fuel_units)
        store.set_epoch_deadline(500)
        instance = linker.instantiate(store, compiled)
        function = instance.exports(store)["f"]
        if not isinstance(function, wasmtime.Func):
            raise TypeError("f is no function")
        return function(store, 2, 3), store.get_fuel()

    return run


def fast_path(module: bytes, kind: InvocationKind) -> Run:
    """Give the fast path in this process, as a child has it."""
    native = Native()
    engine = Engine(native, DEFAULT_STACK_BYTES)
    host = WasiHost(engine)
    _, vec = compile_module(native, engine, module)
    place = (vec.data or 0, vec.size)
    guest = Guest(engine, inspect_module(module), place, host.linker)
    native.quick.byte_vec_delete(ctypes.addressof(vec))
    run = guest.call if kind == InvocationKind.CALL else host.runner(guest, None)

    def kept(job: Job, _keep: object = host) -> Report:
        return run(job)

    return kept


def here(run: Callable[[], object], count: int) -> Spent:
    """Measure ``count`` executions in this process."""
    started = time.process_time_ns()
    for _ in range(count):
        run()
    return Spent((time.process_time_ns() - started) / 1e3 / count)


async def behind_the_hop(sandbox: LocalSandbox, jobs: list[Job], times: int) -> Spent:
    """Measure a batch, sent so many times, each when the one before is answered."""
    count = times * len(jobs)
    left, done = count, asyncio.get_running_loop().create_future()

    def take(_first: int, reports: list[Report]) -> None:
        nonlocal left
        left -= len(reports)
        if not left:
            done.set_result(None)
        elif left % len(jobs) == 0:
            sandbox.pool.submit("bench", jobs, take)

    before, started = _child_ns(sandbox), time.process_time_ns()
    sandbox.pool.submit("bench", jobs, take)
    await done
    own = time.process_time_ns() - started
    return Spent(own / 1e3 / count, (_child_ns(sandbox) - before) / 1e3 / count)


def _child_ns(sandbox: LocalSandbox) -> int:
    # What the children say of themselves with each reply.
    return sum(child.cpu_ns for child in sandbox.pool._children)  # noqa: SLF001


async def executions(
    module: bytes, make: Callable[[bytes], Job], batches: tuple[int, ...], rounds: int
) -> Ways:
    """Measure every way of one module; the largest batch decides a round's length."""
    ways: Ways = {}
    async with LocalSandbox(SandboxConfig(children=1)) as sandbox:
        s256 = sandbox.add(module)
        job, count = make(s256), 4 * max(batches)
        fast = fast_path(module, InvocationKind(job.kind))
        inside: dict[str, Callable[[], object]] = {FAST: lambda: fast(job)}
        if job.kind == InvocationKind.CALL:
            inside = {PUBLIC: public_api(module), **inside}
        jobs = {batch: [make(s256) for _ in range(batch)] for batch in batches}
        (report,) = await sandbox.run([job])
        if report.code is not None or report.output != fast(job).output:
            raise RuntimeError(report.message or "the ways differ")
        settle()
        for _ in range(rounds):
            for way, run in inside.items():
                ways.setdefault(way, []).append(here(run, count))
            for batch in batches:
                times = min(count // batch, 100)
                spent = await behind_the_hop(sandbox, jobs[batch], times)
                ways.setdefault(f"{HOP}{batch}", []).append(spent)
    return ways


def figures(ways: Ways) -> dict[str, dict[str, float]]:
    """Give each way's figures as plain data."""
    found = {}
    for way, rounds in ways.items():
        totals = [spent.total for spent in rounds]
        said = {"us": min(totals), "median_us": median(totals)}
        if PUBLIC in ways:
            pairs = zip(ways[PUBLIC], totals, strict=True)
            said["times_public"] = median([base.total / us for base, us in pairs])
        if way.startswith(HOP):
            said["parent_us"] = median([spent.own for spent in rounds])
            said["child_us"] = median([spent.child for spent in rounds])
            pairs = zip(ways[FAST], totals, strict=True)
            said["hop_us"] = median([us - base.total for base, us in pairs])
        found[way] = {name: round(value, 2) for name, value in said.items()}
    return found


@asynccontextmanager
async def spinners(count: int) -> AsyncIterator[Callable[[int], Awaitable[float]]]:
    """Give a function that lets some of ``count`` bare processes compute at once."""
    program = (
        "import sys\nfor _ in sys.stdin:\n print(sum(range(3_000_000)), flush=True)"
    )
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
    command = (sys.executable, "-c", program)
    processes = [
        await asyncio.create_subprocess_exec(*command, **pipes) for _ in range(count)
    ]

    async def spin(some: int) -> float:
        began = time.perf_counter()
        for process in processes[:some]:
            assert process.stdin is not None
            process.stdin.write(b"\n")
        for process in processes[:some]:
            assert process.stdout is not None
            await process.stdout.readline()
        return time.perf_counter() - began

    yield spin
    for process in processes:
        process.kill()
        await process.wait()


async def compute_bound() -> dict[str, float]:
    """Give the seconds that compute-bound jobs take on one child and on two.

    Each the best of rounds in turn, by the wall clock. Bare processes in the same
    rounds say what the machine's two cores, shared with others, can give at all.
    """
    limits = Limits(fuel_units=10**9, memory_bytes=65_536, deadline_ms=60_000)
    module = bytes(wasmtime.wat2wasm(COMPUTE))
    one = LocalSandbox(SandboxConfig(children=1))
    two = LocalSandbox(SandboxConfig(children=2))
    best, bare = [math.inf, math.inf], [math.inf, math.inf]
    async with one, two, spinners(2) as spin:
        for _ in range(COMPUTE_ROUNDS):
            for index, sandbox in enumerate((one, two)):
                s256 = sandbox.add(module)
                job = Job(s256, InvocationKind.CALL, "f", b"", limits, 1024, 0, b"")
                await sandbox.run([job])
                began = time.perf_counter()
                await sandbox.run([job] * 6)
                best[index] = min(best[index], time.perf_counter() - began)
                bare[index] = min(bare[index], await spin(index + 1))
    return {
        "one_child_s": round(best[0], 3),
        "two_children_s": round(best[1], 3),
        "speed_up": round(best[0] / best[1], 2),
        "speed_up_of_bare_processes": round(2 * bare[0] / bare[1], 2),
    }


def measure(rounds: int = ROUNDS) -> dict[str, Any]:
    """Measure everything; give the record's part as plain data."""
    quickjs = wheel_file(QUICKJS).read_bytes()
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, text in CALLS.items():
        note(f"sandbox: fresh executions of {name}")
        module = bytes(wasmtime.wat2wasm(text))
        ways = uvloop.run(executions(module, call_job, (1, 16, 200), rounds))
        found[name] = figures(ways)
    note("sandbox: QuickJS")
    ways = uvloop.run(executions(quickjs, hello_job, (1, 16), max(rounds // 4, 1)))
    found["QuickJS hello"] = figures(ways)
    note("sandbox: compute-bound guests on one child and on two")
    computed = uvloop.run(compute_bound())
    note("sandbox: compiling QuickJS, cold and warm")
    return {
        "machine": facts(),
        "executions": found,
        "compute_bound": computed,
        "compile_quickjs": uvloop.run(bench_compile_cache.measure(quickjs, 3)),
    }


def tables(record: dict[str, Any]) -> str:
    """Give the record as text."""
    names = ("us", "median_us", "parent_us", "child_us", "times_public", "hop_us")
    rows = [
        [execution, way, *(said.get(name) for name in names)]
        for execution, ways in record["executions"].items()
        for way, said in ways.items()
    ]
    lines = [table(COLUMNS, rows), ""]
    for title in ("compute_bound", "compile_quickjs"):
        values = (f"{name} {value:g}" for name, value in record[title].items())
        lines.append(f"{title}: {', '.join(values)}")
    return "\n".join(lines)


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--save", action="store_true", help="into the record")
    given = parser.parse_args()
    record = measure(given.rounds)
    print(tables(record))
    if given.save:
        write_json(RECORD, json.loads(RECORD.read_bytes()) | {"sandbox": record})


if __name__ == "__main__":
    main()
