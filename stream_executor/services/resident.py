"""Memory and CPU of this process and everything below it, from ``/proc``."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from pathlib import Path

from stream_executor.http.status import Usage
from stream_executor.services.backup_archive import archives

# Fields of proc_pid_stat(5), counted after the command's ")". The last two of CPU are
# of children that have ended and were waited for.
_PPID, _RSS = 1, 21
_CPU = slice(11, 15)
_CGROUPS = Path("/sys/fs/cgroup")


def usage() -> Usage:
    """Sum the memory and CPU time of this process and its descendants.

    Shared pages count once for each process, so memory is an upper bound. 0 where there
    is no ``/proc``. Cost: a small file a process of this host, about 10 µs each.
    """
    children: dict[int, list[int]] = defaultdict(list)
    pages: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            text = (entry / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:  # it has ended
            continue
        # The command stands in parentheses and may hold some itself.
        fields = text[text.rindex(")") + 2 :].split()
        pid = int(entry.name)
        pages[pid] = int(fields[_RSS])
        ticks[pid] = sum(map(int, fields[_CPU]))
        children[int(fields[_PPID])].append(pid)
    memory, cpu, waiting = 0, 0, [os.getpid()]
    while waiting:
        pid = waiting.pop()
        memory += pages.get(pid, 0)
        cpu += ticks.get(pid, 0)
        waiting += children[pid]
    return Usage(memory * os.sysconf("SC_PAGE_SIZE"), cpu / os.sysconf("SC_CLK_TCK"))


def memory_limit_bytes(cgroups: Path = _CGROUPS, own: str | None = None) -> int:
    """Give the memory that these processes may use: the control group's or all.

    Args:
        cgroups: where control groups v2 are mounted.
        own: text of proc_pid_cgroup(5); by default this process's.
    """
    limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        text = Path("/proc/self/cgroup").read_text() if own is None else own
    except OSError:
        return limit
    # In a container the line says "/"; in a unit of systemd its own group's path, and
    # any group above may bound it, too.
    path = next((line[3:] for line in text.splitlines() if line.startswith("0::")), "/")
    group = cgroups / path.lstrip("/")
    for one in (group, *group.parents):
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            limit = min(limit, int((one / "memory.max").read_text(encoding="ascii")))
        if one == cgroups:
            break
    return limit


def newest_backup_s(folder: Path) -> float:
    """Give when the newest backup in a folder was written; 0 if there is none."""
    newest = 0.0
    try:
        for path in archives(folder).values():
            newest = max(newest, path.stat().st_mtime)
    except OSError:
        return newest
    return newest
