"""The first answer of a large module: cold, from the compile cache, and from memory.

    python -m benchmarks.bench_compile_cache [FILE] [--runs N]

FILE is any module; without one, one of the size of QuickJS (1.4 MB) is made. Each run
is a new life of a sandbox whose children have started: *cold* with an empty cache,
*warm* with the cache of an earlier life, *again* for the second answer of that life.
Prints milliseconds from submission to report (median over runs) and cold / warm. The
record's figures, of QuickJS itself, are taken by ``bench_sandbox``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import uvloop
import wasmtime

from benchmarks.machine import facts
from stream_executor.model.job import InvocationKind, Job, Limits
from stream_executor.sandbox.artefact_cache import ArtefactCache
from stream_executor.sandbox.config import SandboxConfig
from stream_executor.sandbox.local import LocalSandbox

QUICKJS_BYTES = 1_427_671
LIMITS = Limits(fuel_units=5_000_000, memory_bytes=64 * 2**20, deadline_ms=5_000)
_KEY = bytes(32)
_FUNCTIONS = 5_370  # come to the size of QuickJS


def made() -> bytes:
    """Give a module of QuickJS's size: thousands of functions that call each other."""
    functions = "".join(map(_function, range(_FUNCTIONS)))
    return bytes(wasmtime.wat2wasm(f"(module (memory 2) {functions})"))


def _function(number: int) -> str:
    branches = "".join(
        f"""(if (i32.lt_u (local.get $b) (i32.const {number * m + 13}))
          (then
            (local.set $a (i32.add (local.get $a) (i32.const {number + m})))
            (i32.store offset={4 * m} (i32.and (local.get $a) (i32.const 65532))
              (local.get $b)))
          (else
            (local.set $b (call $f{(number * m + 1) % _FUNCTIONS}
              (local.get $b) (local.get $a)))))"""
        for m in range(1, 6)
    )
    return f"""(func $f{number} (param i32 i32) (result i32)
      (local $a i32) (local $b i32)
      (local.set $a (i32.load (i32.and (local.get 0) (i32.const 65532))))
      (loop $l
        (local.set $b (i32.xor
          (i32.mul (local.get $a) (i32.const {number * 7919}))
          (i32.rotl (local.get $b) (local.get 1))))
        {branches}
        (br_if $l (i32.gt_u (local.get $b) (local.get $a))))
      (local.get $a))"""


async def life(module: bytes, folder: Path) -> tuple[float, float]:
    """Give the first and the second answer's milliseconds in one life of a sandbox."""
    cache = ArtefactCache(folder, _KEY, 1 << 30, lambda _s256: True)
    async with LocalSandbox(SandboxConfig(children=1), cache) as sandbox:
        s256 = sandbox.add(module)
        job = Job(s256, InvocationKind.CALL, "", b"", LIMITS, 1, 0, b"", None)
        spent = []
        for _ in range(2):
            began = time.perf_counter()
            await sandbox.run([job])
            spent.append((time.perf_counter() - began) * 1e3)
    return spent[0], spent[1]


async def measure(module: bytes, runs: int) -> dict[str, float]:
    """Give the medians, and the ratio of each run's own pair."""
    cold, warm, again = [], [], []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            cold.append((await life(module, folder))[0])
            first, second = await life(module, folder)
            warm.append(first)
            again.append(second)
            size = max(f.stat().st_size for f in folder.iterdir() if f.is_file())  # noqa: ASYNC240
    ratios = sorted(c / w for c, w in zip(cold, warm, strict=True))
    return {
        "module_bytes": len(module),
        "artefact_bytes": size,
        "cold_ms": round(median(cold), 1),
        "warm_ms": round(median(warm), 1),
        "again_ms": round(median(again), 2),
        "cold_over_warm": round(median(ratios), 1),
        "cold_over_warm_least": round(ratios[0], 1),
        "cold_over_warm_most": round(ratios[-1], 1),
    }


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", nargs="?", type=Path, help="a module")
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    module = made() if given.file is None else given.file.read_bytes()
    figures = uvloop.run(measure(module, given.runs))
    for name, value in figures.items():
        print(f"{name:24}{value:g}")
    print(", ".join(f"{name} {value}" for name, value in facts().items()))


if __name__ == "__main__":
    main()
