"""A fresh execution, three ways: public API, fast path, fast path behind the hop.

And whether guests run in parallel: compute-bound jobs on one child and on two.

    python -m benchmarks.bench_sandbox [--count N] [--runs N]

Prints CPU microseconds a job (median over runs) for a module without memory and one
with two pages, and the ratio to the public API in the same run. The hop's figures are
both processes', parent + child, for batches of 1, 16 and 200 jobs. Absolute figures
move from machine to machine; ratios are what to compare. The speed-up over two
children is wall clock, best of the runs, and needs two cores that nobody else uses.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import time
from statistics import median
from typing import TYPE_CHECKING

import uvloop
import wasmtime

from benchmarks.machine import cpu_us, settle
from stream_executor.model.job import InvocationKind, Job, Limits
from stream_executor.model.scalars import ValueType, pack_value
from stream_executor.sandbox.config import SandboxConfig
from stream_executor.sandbox.engine import Engine
from stream_executor.sandbox.guest import Guest
from stream_executor.sandbox.inspect import inspect_module
from stream_executor.sandbox.local import LocalSandbox
from stream_executor.sandbox.native import Native
from stream_executor.sandbox.probe import compile_module
from stream_executor.sandbox.wasi_host import WasiHost

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream_executor.model.job import Report

LIMITS = Limits(fuel_units=5_000_000, memory_bytes=64 * 2**20, deadline_ms=5_000)
BATCHES = (1, 16, 200)
MODULES = {
    "add": """(module (func (export "f") (param i32 i32) (result i32)
        (i32.add (local.get 0) (local.get 1))))""",
    "two pages": """(module (memory (export "memory") 2)
        (func (export "f") (param i32 i32) (result i32)
          (i32.store (i32.const 70000) (local.get 0))
          (i32.add (i32.load (i32.const 70000)) (local.get 1))))""",
}
COMPUTE = """(module (func (export "f") (result i64) (local i64 i64)
  (loop $more
    (local.set 0 (i64.add (i64.mul (local.get 0) (i64.const 31)) (local.get 1)))
    (local.set 1 (i64.add (local.get 1) (i64.const 1)))
    (br_if $more (i64.lt_u (local.get 1) (i64.const 20000000))))
  (local.get 0)))"""
ARGS = pack_value(ValueType.I32, 2) + pack_value(ValueType.I32, 3)


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


def fast_path(module: bytes, job: Job) -> Callable[[], object]:
    """Give one fresh execution in this process by prepared calls."""
    native = Native()
    engine = Engine(native, 1 << 20)
    host = WasiHost(engine)
    _, vec = compile_module(native, engine, module)
    place = (vec.data or 0, vec.size)
    guest = Guest(engine, inspect_module(module), place, host.linker)
    native.quick.byte_vec_delete(ctypes.addressof(vec))

    def run(_keep: object = host) -> object:
        return guest.call(job)

    return run


async def hop(module: bytes, make: Callable[[bytes], Job], batch: int, runs: int,
              count: int) -> tuple[float, float]:  # fmt: skip
    """Give CPU microseconds a job of parent and child, batch after batch."""
    loop = asyncio.get_running_loop()
    parent, child = [], []
    async with LocalSandbox(SandboxConfig(children=1)) as sandbox:
        jobs = [make(sandbox.add(module))] * batch
        await sandbox.run(jobs)
        rounds = max(count // batch, 20)
        for _ in range(runs + 1):
            left, done = rounds * batch, loop.create_future()

            def take(_first: int, reports: list[Report]) -> None:
                nonlocal left
                left -= len(reports)
                if not left:
                    done.set_result(None)  # noqa: B023 - this round's
                elif left % batch == 0:
                    sandbox.pool.submit("bench", jobs, take)

            before, own = _child_ns(sandbox), time.process_time_ns()
            sandbox.pool.submit("bench", jobs, take)
            await done
            parent.append((time.process_time_ns() - own) / 1e3 / rounds / batch)
            child.append((_child_ns(sandbox) - before) / 1e3 / rounds / batch)
    return median(parent[1:]), median(child[1:])


async def compute(children: int, runs: int) -> float:
    """Give the seconds that a fixed heap of compute-bound jobs takes; best of runs."""
    times = []
    limits = Limits(fuel_units=10**9, memory_bytes=65_536, deadline_ms=60_000)
    async with LocalSandbox(SandboxConfig(children=children)) as sandbox:
        s256 = sandbox.add(bytes(wasmtime.wat2wasm(COMPUTE)))
        kind = InvocationKind.CALL
        job = Job(s256, kind, "f", b"", limits, 1024, 0, bytes(32))
        await sandbox.run([job])
        for _ in range(runs):
            began = time.perf_counter()
            await sandbox.run([job] * 16)
            times.append(time.perf_counter() - began)
    return min(times)


def _child_ns(sandbox: LocalSandbox) -> int:
    return sum(c.cpu_ns for c in sandbox.pool._children)  # noqa: SLF001


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    settle()
    print(
        f"{'module':<12}{'way':<22}{'us/job':>9}{'parent':>9}{'child':>9}{'ratio':>8}"
    )
    for name, text in MODULES.items():
        module = bytes(wasmtime.wat2wasm(text))

        def make(digest: bytes) -> Job:
            kind = InvocationKind.CALL
            return Job(digest, kind, "f", ARGS, LIMITS, 1024, 0, bytes(32))

        rows: list[tuple[str, float, float | None, float | None]] = []
        ways = {
            "public API": public_api(module),
            "fast path": fast_path(module, make(b"")),
        }
        for way, run in ways.items():

            def work(run: Callable[[], object] = run) -> None:
                for _ in range(options.count):
                    run()

            rows.append((way, cpu_us(work, options.count, options.runs), None, None))
        for batch in BATCHES:
            parent, child = uvloop.run(
                hop(module, make, batch, options.runs, options.count)
            )
            rows.append((f"behind the hop, {batch}", parent + child, parent, child))
        base = rows[0][1]
        for way, total, up, down in rows:
            sides = "".join(
                f"{v:9.1f}" if v is not None else " " * 9 for v in (up, down)
            )
            print(f"{name:<12}{way:<22}{total:9.1f}{sides}{base / total:8.1f}")
    one, two = (uvloop.run(compute(n, options.runs)) for n in (1, 2))
    print(f"compute-bound, 16 jobs: {one:.2f} s on one child, {two:.2f} s on two, "
          f"speed-up {one / two:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
