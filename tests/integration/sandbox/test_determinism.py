"""The same bytes give the same report: anywhere, cold or warm, idle or busy.

Random modules and all hostile ones run in three sandboxes, that is in different
processes: compiled now; from the cache of the first, under load and in another order;
and one at a time. Everything but the time taken is compared.
"""

from __future__ import annotations

import asyncio
import secrets
from random import Random
from typing import TYPE_CHECKING

import pytest

from stream_executor.model.codes import Code
from stream_executor.model.scalars import ValueType, pack_bits
from stream_executor.sandbox.artefact_cache import ArtefactCache
from stream_executor.sandbox.config import SandboxConfig
from stream_executor.sandbox.local import LocalSandbox
from tests.integration.sandbox import guests, hostile
from tests.integration.sandbox.random_modules import TYPES, random_module

if TYPE_CHECKING:
    from pathlib import Path

    from stream_executor.model.job import Job, Report

FIXED, FRESH = 24, 16
CALLS = 8
LIMITS = guests.limits(fuel=200_000, memory=16 * 65536)
KEY = bytes(32)


def arguments(random: Random) -> bytes:
    """Give one argument of each type, of any bits."""
    bits = {"i32": 32, "i64": 64, "f32": 32, "f64": 64}
    return b"".join(
        pack_bits(ValueType[kind.upper()], random.getrandbits(bits[kind]))
        for kind in TYPES
    )


def random_jobs(seeds: list[int]) -> tuple[list[str], list[Job]]:
    """Give modules, and ``CALLS`` calls of each."""
    texts: list[str] = []
    jobs: list[Job] = []
    for seed in seeds:
        random, text = Random(seed), random_module(seed)  # noqa: S311 - by seed
        texts.append(text)
        jobs += [
            guests.call(text, function, arguments(random), LIMITS)
            for function in "fg" * (CALLS // 2)
        ]
    return texts, jobs


def corpus_jobs(sandbox: LocalSandbox) -> list[Job]:
    """Give the hostile corpus without what a clock ends, and the WASI guests."""
    jobs = [
        attack.job(sandbox.add(attack.binary))
        for attack in hostile.RUNNING.values()
        if attack.code != Code.TIMEOUT
    ]
    for text, data in ((guests.CHANCE, b""), (guests.CAT, b"!x" * 9_000)):
        sandbox.add(guests.wasm(text))
        jobs.append(guests.command(text, data))
    return jobs


def comparable(report: Report) -> tuple[object, ...]:
    """Give everything of a report that must be the same everywhere."""
    return (
        report.code, report.trap, report.message, report.output, report.stderr,
        report.exit_code, report.fuel_consumed, report.fuel_exact, report.memory_bytes,
    )  # fmt: skip


async def load(sandbox: LocalSandbox) -> None:
    """Keep every child busy on behalf of somebody else, until cancelled."""
    sandbox.add(guests.wasm(guests.HOSTILE))
    spin = guests.call(guests.HOSTILE, "spin", b"", guests.limits(3 * 10**6))
    while True:
        await sandbox.run([spin] * 8, "load")


@pytest.mark.timeout(180)
async def test_a_report_depends_on_nothing_but_the_bytes(tmp_path: Path) -> None:
    fresh = [secrets.randbits(48) for _ in range(FRESH)]
    seeds = [*range(FIXED), *fresh]
    texts, jobs = random_jobs(seeds)

    def sandbox(children: int, cache: ArtefactCache | None) -> LocalSandbox:
        made = LocalSandbox(SandboxConfig(children=children), cache)
        for text in texts:
            made.add(guests.wasm(text))
        return made

    def cache() -> ArtefactCache:
        return ArtefactCache(tmp_path / "cache", KEY, 1 << 28, lambda _s256: True)

    async with sandbox(2, cache()) as cold:
        all_jobs = jobs + corpus_jobs(cold)
        first = [comparable(report) for report in await cold.run(all_jobs)]
        compiled = cold.pool.compiled

    async with sandbox(1, cache()) as warm:
        corpus_jobs(warm)
        busy = asyncio.create_task(load(warm))
        reports = await warm.run(all_jobs[::-1])
        busy.cancel()
        second = [comparable(report) for report in reports][::-1]
        recompiled = warm.pool.compiled

    order = Random(1).sample(range(len(all_jobs)), 60)  # noqa: S311 - by seed
    async with sandbox(1, None) as alone:
        corpus_jobs(alone)
        third = [(await alone.run([all_jobs[n]]))[0] for n in order]

    differ = [
        (n, seeds[n // CALLS] if n < len(jobs) else "corpus", one, other)
        for n, (one, other) in enumerate(zip(first, second, strict=True))
        if one != other
    ]
    assert differ == []
    assert [comparable(report) for report in third] == [first[n] for n in order]
    assert compiled > len(seeds)
    assert recompiled <= 1  # the load's own module
    codes = {report[0] for report in first[: len(jobs)]}
    assert {None, Code.TRAP, Code.FUEL_EXHAUSTED} <= codes, "the modules are too tame"
