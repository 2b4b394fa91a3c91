"""Every hazard, as a hostile module: its end, the host's memory, and the next guest.

Each attack ends with one stable code; no process that is not the attacker's own
compiler is lost; what parent and children hold stays bounded; and the next request
of somebody else is served by the same children.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from stream_executor.model.codes import Code
from stream_executor.sandbox.config import SandboxConfig
from stream_executor.sandbox.local import LocalSandbox
from stream_executor.sandbox.protocol import safe_text
from tests.integration.sandbox import guests
from tests.integration.sandbox.hostile import OUTPUT_BYTES, RUNNING, Attack, refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stream_executor.model.job import Report

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(120),
]

MIB = 2**20
CONFIG = SandboxConfig(
    children=2,
    require_hardening=True,
    max_module_bytes=10 * MIB,
    compile_wall_s=60.0,
    compile_cpu_s=3,
    compile_data_bytes=384 * MIB,
)
ADD = guests.call(guests.ADD, "add", guests.i32(2, 3))
CHILD_GROWTH = 64 * MIB + 48 * MIB  # one guest's memory, tables, its output
PARENT_GROWTH = 64 * MIB
COMPILER_PEAK = CONFIG.compile_data_bytes + 128 * MIB  # and what it has mapped
SAMPLE_S = 0.02


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[LocalSandbox]:
    """One sandbox for all attacks: what one leaves behind would show in the next."""
    async with LocalSandbox(CONFIG) as started:
        started.add(guests.wasm(guests.ADD))
        assert (await started.run([ADD]))[0].code is None
        yield started


def resident(pid: int | str, field: str = "VmRSS") -> int:
    """Give bytes that a process has resident (VmHWM: had at most); 0 if gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    return 0


def children(sandbox: LocalSandbox) -> dict[int, int]:
    """Give the guests' processes and what each has resident."""
    pids = [child.process.pid for child in sandbox.pool._children]
    return {pid: resident(pid) for pid in pids}


async def attacked(sandbox: LocalSandbox, attack: Attack) -> Report:
    """Let one issuer attack; another one is served meanwhile and afterwards."""
    before, parent = children(sandbox), resident("self")
    job = attack.job(sandbox.add(attack.binary))
    running = asyncio.create_task(sandbox.run([job], "attacker"))
    during = (await sandbox.run([ADD], "other"))[0]
    (report,) = await running
    after = (await sandbox.run([ADD], "other"))[0]
    assert (during.output, after.output) == (guests.i32(5), guests.i32(5))
    assert safe_text(report.message)
    assert len(report.output) + len(report.stderr) <= OUTPUT_BYTES
    assert report.memory_bytes <= attack.limits.memory_bytes
    lost = before.keys() - children(sandbox).keys()
    # On a machine that stalls, the parent's kill may come before the child's own end.
    assert not lost or report.code == Code.TIMEOUT, "a child was lost"
    for pid, size in before.items():
        assert resident(pid) - size < CHILD_GROWTH
    assert resident("self") - parent < PARENT_GROWTH
    return report


@pytest.mark.parametrize("name", RUNNING)
@pytest.mark.threat("T-17")
async def test_a_running_guest_cannot(sandbox: LocalSandbox, name: str) -> None:
    attack = RUNNING[name]
    report = await attacked(sandbox, attack)
    assert report.code == attack.code
    if attack.code == Code.FUEL_EXHAUSTED:
        spent = (report.fuel_consumed, report.fuel_exact)
        assert spent == (attack.limits.fuel_units, True)
    if attack.code == Code.TIMEOUT:
        assert not report.fuel_exact
        assert report.duration_us >= attack.limits.deadline_ms * 1000


@pytest.mark.parametrize("name", refused())
@pytest.mark.threat("T-18")
async def test_a_module_cannot(sandbox: LocalSandbox, name: str) -> None:
    attack = refused()[name]
    peaks: list[int] = []
    watching = asyncio.create_task(_watch_compilers(sandbox, peaks))
    report = await attacked(sandbox, attack)
    watching.cancel()
    assert report.code == attack.code
    assert max(peaks, default=0) < COMPILER_PEAK


async def _watch_compilers(sandbox: LocalSandbox, peaks: list[int]) -> None:
    """Note how much each compiling process had at most, as long as it can be seen."""
    while True:
        running = sandbox.pool._compiler._running
        peaks += [resident(one.process.pid, "VmHWM") for one in running]
        await asyncio.sleep(SAMPLE_S)  # the kernel tells nobody


@pytest.mark.threat("T-17")
async def test_children_that_were_attacked_by_all_keep_no_more_than_one_guest(
    sandbox: LocalSandbox,
) -> None:
    """The pool may keep a guest's pages warm; 128 KiB of each place, not more."""
    attacks = [RUNNING[n] for n in RUNNING if "memory" in n or "tables" in n]
    jobs = [attack.job(sandbox.add(attack.binary)) for attack in attacks]
    await sandbox.run(jobs, "attacker")
    first = children(sandbox)
    await sandbox.run(jobs * 3, "attacker")
    for pid, size in children(sandbox).items():
        assert size - first.get(pid, 0) < 16 * MIB
