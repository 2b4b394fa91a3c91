"""What the pool promises: each index once, whatever happens to its processes."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import pytest

from stream_executor.model.codes import Code
from stream_executor.model.errors import ConfigError, MisuseError
from stream_executor.sandbox import pool as pool_file
from stream_executor.sandbox.config import SandboxConfig
from stream_executor.sandbox.local import LocalSandbox, run_once
from stream_executor.sandbox.pool import SandboxPool
from tests.integration.sandbox import guests
from tests.integration.sandbox.conftest import add_all
from tests.integration.sandbox.guests import NO_FUEL_END, call, command, i32, limits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from stream_executor.model.job import Job, Report

ADD = call(guests.ADD, "add", i32(2, 3))
PAGE = 65536


def hang(deadline_ms: int = 60_000) -> Job:
    """Give a job that only a clock ends."""
    return call(guests.HOSTILE, "spin", b"", limits(NO_FUEL_END, PAGE, deadline_ms))


@pytest.fixture
async def sandbox() -> AsyncIterator[LocalSandbox]:
    """A sandbox of its own: its processes may be killed."""
    async with LocalSandbox(SandboxConfig(children=2)) as started:
        add_all(started)
        yield started


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that no event tells."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0.001)


def busy_pids(sandbox: LocalSandbox) -> list[int]:
    """Give the processes that run a guest now."""
    return [c.process.pid for c in sandbox.pool._children if c.busy]


def at_job(sandbox: LocalSandbox) -> bool:
    """Whether some child has started the job that its oldest frame begins with."""
    return any(
        c.busy and c.process.started.value >= c.ledger.frames[0].number
        for c in sandbox.pool._children
    )


async def test_reports_come_in_the_jobs_order(sandbox: LocalSandbox) -> None:
    jobs = [call(guests.ADD, "add", i32(n, n)) for n in range(2_000)]
    reports = await sandbox.run(jobs)
    assert [report.output for report in reports] == [i32(2 * n) for n in range(2_000)]


async def test_modules_may_alternate_within_a_submission(sandbox: LocalSandbox) -> None:
    jobs = [ADD, call(guests.STATE, "count"), ADD, call(bytes(32), "f"), ADD]
    codes = [report.code for report in await sandbox.run(jobs)]
    assert codes == [None, None, None, Code.MODULE_NOT_FOUND, None]


async def test_each_index_is_reported_once_in_any_number_of_calls(
    sandbox: LocalSandbox,
) -> None:
    seen: list[int] = []
    done = asyncio.Event()

    def take(first: int, reports: list[Report]) -> None:
        seen.extend(range(first, first + len(reports)))
        if len(seen) == 1_000:
            done.set()

    sandbox.pool.submit("a", [ADD] * 1_000, take)
    assert not seen
    await asyncio.wait_for(done.wait(), 10)
    assert sorted(seen) == list(range(1_000))


async def test_a_killed_child_costs_only_time(sandbox: LocalSandbox) -> None:
    """The job that it was at runs once more, alone, and gives the same report."""
    slow = call(guests.HOSTILE, "spin", b"", limits(3 * 10**8, PAGE, 60_000))
    running = asyncio.create_task(sandbox.run([ADD, slow, ADD, ADD]))
    await until(lambda: at_job(sandbox))
    os.kill(busy_pids(sandbox)[0], signal.SIGKILL)
    reports = await running
    codes = [report.code for report in reports]
    assert codes == [None, Code.FUEL_EXHAUSTED, None, None]


async def test_a_job_whose_process_dies_twice_is_crashed_and_others_are_not(
    sandbox: LocalSandbox,
) -> None:
    running = asyncio.create_task(sandbox.run([hang(), ADD, ADD]))
    killed: set[int] = set()
    while len(killed) < 2:
        await until(lambda: at_job(sandbox) and not killed >= set(busy_pids(sandbox)))  # noqa: B023
        pids = set(busy_pids(sandbox)) - killed
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        killed |= pids
        await until(lambda: not set(busy_pids(sandbox)) & killed)  # noqa: B023
    reports = await running
    assert [report.code for report in reports] == [Code.SANDBOX_CRASHED, None, None]


async def test_a_hang_is_a_timeout_and_nobody_waits_for_it(
    sandbox: LocalSandbox,
) -> None:
    """Followers of the same submission are taken back while the guest hangs."""
    loop = asyncio.get_running_loop()
    times: dict[int, float] = {}
    done = asyncio.Event()
    codes: dict[int, str | None] = {}

    def take(first: int, reports: list[Report]) -> None:
        for index, report in enumerate(reports, first):
            times[index], codes[index] = loop.time(), report.code
        if len(times) == 3:
            done.set()

    await sandbox.run([ADD] * 50)
    sandbox.pool.submit("a", [ADD, hang(1_000), ADD], take)
    await asyncio.wait_for(done.wait(), 10)
    assert codes == {0: None, 1: Code.TIMEOUT, 2: None}
    assert times[1] - max(times[0], times[2]) > 0.5


async def test_a_frozen_process_is_killed_from_outside(sandbox: LocalSandbox) -> None:
    """Its own clock stands still; the parent's does not."""
    running = asyncio.create_task(sandbox.run([hang(3_000), ADD]))
    await until(lambda: at_job(sandbox))
    (pid, *_) = busy_pids(sandbox)
    os.kill(pid, signal.SIGSTOP)
    reports = await running
    assert [report.code for report in reports] == [Code.TIMEOUT, None]
    assert not reports[0].fuel_exact
    assert pid not in [child.process.pid for child in sandbox.pool._children]


async def test_an_idle_child_that_dies_is_replaced(sandbox: LocalSandbox) -> None:
    children = sandbox.pool._children
    pids = {child.process.pid for child in children}
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    await until(lambda: not pids & {child.process.pid for child in children})
    await until(lambda: sandbox.pool.capacity == 2)
    assert (await sandbox.run([ADD]))[0].code is None


async def test_one_issuer_does_not_hold_every_child_while_others_wait(
    sandbox: LocalSandbox,
) -> None:
    """Ten hanging jobs of one tenant leave room for another's, after one deadline."""
    slow = asyncio.create_task(sandbox.run([hang(400) for _ in range(10)], "slow"))  # noqa: RUF006 - cancelled below
    await until(lambda: sandbox.pool.running == 2)
    for _ in range(5):
        await sandbox.run([ADD] * 10, "quick")
    assert not slow.done()
    slow.cancel()


async def test_no_child_idles_because_every_waiting_issuer_has_its_share() -> None:
    async with LocalSandbox(SandboxConfig(children=3)) as sandbox:
        add_all(sandbox)
        tasks = [
            asyncio.create_task(sandbox.run([hang() for _ in range(3)], issuer))
            for issuer in ("a", "b")
        ]
        await until(lambda: sandbox.pool.running == 3)
        for task in tasks:
            task.cancel()


async def test_a_module_being_compiled_blocks_no_other_job(
    sandbox: LocalSandbox,
) -> None:
    loading, release = asyncio.Event(), asyncio.Event()
    load = sandbox.pool._modules._load

    async def slow_load(digest: bytes) -> bytes:
        if digest == guests.digest(guests.STATE):
            loading.set()
            await release.wait()
        return await load(digest)

    sandbox.pool._modules._load = slow_load
    waiting = asyncio.create_task(sandbox.run([call(guests.STATE, "count")]))
    await loading.wait()
    assert (await sandbox.run([ADD]))[0].code is None
    assert not waiting.done()
    release.set()
    assert (await waiting)[0].code is None


async def test_a_failing_callback_harms_nobody_else(sandbox: LocalSandbox) -> None:
    def fail(_first: int, _reports: list[Report]) -> None:
        raise RuntimeError("the caller's own")

    sandbox.pool.submit("a", [ADD], fail)
    assert (await sandbox.run([ADD]))[0].code is None


@pytest.mark.parametrize(
    ("error", "code"),
    [(KeyError("gone"), Code.MODULE_NOT_FOUND), (OSError("disk"), Code.INTERNAL)],
)
async def test_a_module_that_cannot_be_had_is_asked_for_again(
    error: Exception, code: Code
) -> None:
    asked = 0

    async def load(_digest: bytes) -> bytes:
        nonlocal asked
        asked += 1
        raise error

    pool = SandboxPool(SandboxConfig(children=1), load)
    await pool.start()
    try:
        for expected in (1, 2):
            reports: asyncio.Queue[Report] = asyncio.Queue()
            pool.submit("a", [ADD], lambda _, r, q=reports: q.put_nowait(r[0]))  # type: ignore[misc]
            assert (await reports.get()).code == code
            assert asked == expected
    finally:
        await pool.stop()


async def test_bytes_of_another_digest_are_never_run() -> None:
    async def load(_digest: bytes) -> bytes:
        return guests.wasm(guests.HOSTILE)

    pool = SandboxPool(SandboxConfig(children=1), load)
    await pool.start()
    reports: asyncio.Queue[Report] = asyncio.Queue()
    pool.submit("a", [ADD], lambda _, r: reports.put_nowait(r[0]))
    assert (await reports.get()).code == Code.INTERNAL
    await pool.stop()


async def test_artefacts_over_the_cache_are_compiled_again() -> None:
    config = SandboxConfig(children=1, artefact_cache_bytes=1, child_modules=1)
    async with LocalSandbox(config) as sandbox:
        add_all(sandbox)
        jobs = [ADD, call(guests.STATE, "count")] * 3
        for job in jobs:
            assert (await sandbox.run([job]))[0].code is None
        assert len(sandbox.pool._modules._modules) == 1
        codes = [report.code for report in await sandbox.run(jobs * 20)]
        assert codes == [None] * 120


async def test_stopping_ends_every_process_and_refuses_more(
    sandbox: LocalSandbox,
) -> None:
    pids = [child.process.pid for child in sandbox.pool._children]
    sandbox.pool.submit("a", [hang()], lambda _first, _reports: None)
    await until(lambda: at_job(sandbox))
    await sandbox.pool.stop()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    with pytest.raises(MisuseError):
        sandbox.pool.submit("a", [ADD], lambda _first, _reports: None)


async def test_a_sandbox_that_cannot_start_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_file, "ENTRY", "stream_executor.sandbox.missing")
    with pytest.raises(ConfigError, match="does not start"):
        async with LocalSandbox(SandboxConfig(children=1)):
            pass


@pytest.mark.parametrize("stack", [0, 8191, 2 * 2**20 + 1])
async def test_a_stack_that_would_abort_the_engine_is_refused(stack: int) -> None:
    with pytest.raises(ConfigError, match="MAX_STACK_BYTES"):
        LocalSandbox(SandboxConfig(max_stack_bytes=stack))


def test_the_same_job_gives_the_same_report_in_another_process() -> None:
    jobs = [
        command(guests.CHANCE),
        call(guests.HOSTILE, "spin"),
        call(guests.HOSTILE, "unreachable"),
        call(guests.ADD, "nan"),
    ]
    modules = [guests.wasm(t) for t in (guests.CHANCE, guests.HOSTILE, guests.ADD)]
    first, second = run_once(modules, jobs), run_once(modules, jobs)
    for one, other in zip(first, second, strict=True):
        assert one.output == other.output
        assert (one.code, one.fuel_consumed) == (other.code, other.fuel_consumed)


@pytest.mark.threat("T-24")
async def test_withdrawn_modules_end_where_they_wait_and_others_go_on() -> None:
    """Queued, sent ahead to a child, or waiting for the compiler: none of them runs."""
    withdrawn = guests.wasm(guests.STATE)
    async with LocalSandbox(SandboxConfig(children=1)) as sandbox:
        add_all(sandbox)
        running = asyncio.create_task(sandbox.run([hang(3_000)]))
        await until(lambda: at_job(sandbox))
        # Some of these wait behind the hanging job in its child, most in the queue.
        count = call(guests.STATE, "count", b"")
        behind = asyncio.create_task(sandbox.run([count] * 500))
        others = asyncio.create_task(sandbox.run([ADD] * 3))
        await until(lambda: sandbox.pool._queue.jobs > 0)

        digest = sandbox.add(withdrawn)
        sandbox.pool.withdraw(frozenset({digest}), Code.MODULE_NOT_FOUND, "gone")

        assert {(r.code, r.message) for r in await behind} == {
            (Code.MODULE_NOT_FOUND, "gone")
        }
        assert not running.done()
        assert [r.output for r in await others] == [i32(5)] * 3
        assert [r.code for r in await running] == [Code.TIMEOUT]
