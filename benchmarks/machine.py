"""What a measurement rests on: CPU time of processes, memory, and the machine's name.

CPU time, not wall-clock time, decides what a stage costs: a busy neighbour lengthens
the second and not the first. Linux only, as the service.
"""

from __future__ import annotations

import gc
import os
import platform
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_PARENT, _UTIME, _STIME = 1, 11, 12  # fields of stat after the name, proc(5)
_LIBRARIES: Final = (
    "stream-executor", "wasmtime", "aiokafka", "msgspec", "cryptography", "uvloop",
)  # fmt: skip


def facts() -> dict[str, str]:
    """Name the machine, the interpreter and the libraries."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cpu": _cpu_model(),
        "cpus": str(len(os.sched_getaffinity(0))),
        "memory_gb": f"{_memory_kb() / 1e6:.0f}",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        **{name: version(name) for name in _LIBRARIES},
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_kb() -> int:
    return int(Path("/proc/meminfo").read_text().split()[1])


def tree(root: int) -> list[int]:
    """Give a process and everything that descends from it, as of now."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (fields := _stat(int(entry.name))):
            parents.setdefault(int(fields[_PARENT]), []).append(int(entry.name))
    found, at = [root], 0
    while at < len(found):
        found += parents.get(found[at], [])
        at += 1
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """Give the CPU seconds, user and system, of processes that live."""
    ticks = 0
    for pid in pids:
        if fields := _stat(pid):
            ticks += int(fields[_UTIME]) + int(fields[_STIME])
    return ticks * _TICK_S


def resident_mb(pid: int) -> float:
    """Give the most memory that a process has held, in MB."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1e3
    except OSError:
        pass
    return 0.0


def title(pid: int) -> str:
    """Give the command line of a process, as the service sets it."""
    try:
        text = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return text.replace(b"\0", b" ").decode(errors="replace").strip()


def _stat(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def settle() -> None:
    """Treat the collector as the service's workers do, so that both pay the same."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def cpu_us(work: Callable[[], object], count: int, runs: int) -> float:
    """Give the median CPU microseconds of one of ``count`` items that work does.

    The first run warms up and does not count.
    """
    work()
    spent = []
    for _ in range(runs):
        started = time.process_time_ns()
        work()
        spent.append((time.process_time_ns() - started) / 1e3 / count)
    return median(spent)


def note(text: str) -> None:
    """Say on standard error what happens now."""
    print(text, file=sys.stderr, flush=True)
