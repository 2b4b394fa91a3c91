"""A worker's own round with a real lane, on a log in memory where minutes pass at once.

Everything between a job that nobody reports and the process's exit code is the real
thing; there are no brokers and no children.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any, cast

import pytest
from structlog.testing import capture_logs

from stream_executor.lane.lane import Lane
from stream_executor.model.audit import Certificate
from stream_executor.model.errors import IntegrityError
from stream_executor.model.lanes import LaneState
from stream_executor.services import worker
from stream_executor.services.reports import REPORT_INTERVAL_S
from stream_executor.services.worker_runtime import WorkerRuntime
from stream_executor.services.worker_settings import WorkerIdentity, WorkerOrders
from stream_executor.settings import load
from tests.lane_driver import answers, submit, until
from tests.lane_world import REQUESTS, MemoryWorld, begun_broker
from tests.model.virtual_time import VirtualTimeLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

# The longest deadline that any module may be granted, and the watchdog's patience.
MOST_S = 60.0 + 60.0
STUCK = "lane 0: the oldest request is unfinished for more than 120 s"
LONG_S = 600.0
KEY = bytes(range(200, 232)).hex()


class Loop(VirtualTimeLoop):
    """A loop without input and output; its signals come from the test."""

    def __init__(self) -> None:
        super().__init__()
        self.handlers: dict[int, Callable[..., object]] = {}

    def add_signal_handler(  # type: ignore[override]
        self, sig: int, callback: Callable[..., object], *_: Any
    ) -> None:
        self.handlers[sig] = callback


class Pool:
    """A sandbox with a child for every job."""

    running, capacity = 0, 1
    engine, hardening = "engine", ()

    def forget_refusals(self) -> None:
        """It knows none."""

    async def stop(self) -> None:
        """Nothing runs."""


class Life:
    """One worker process's life with one lane, as a test tells it.

    Attributes:
        lane: runs from ``begin`` on.
    """

    def __init__(self, tell: Callable[[Life], Coroutine[Any, Any, None]]) -> None:
        self.loop = Loop()
        self.broker = begun_broker()
        self.world = MemoryWorld(self.broker)
        self.world.sandbox.held = True
        self.lane = Lane(0, self.world)
        self.pool = Pool()
        self._tell = tell

    async def begin(self, runtime: WorkerRuntime) -> None:
        """What a start would do, and then the story."""
        runtime._sandbox = cast("Any", self.pool)
        runtime._lanes[0] = self.lane
        self.lane.start()
        await until(lambda: self.lane.state is LaneState.RUNNING)
        runtime._ready = True
        runtime._spawn(self._tell(self))

    def ask(self) -> None:
        """One more request comes and is given to the sandbox."""
        offset = submit(self.broker)
        assert self.lane.intake is not None
        self.lane.intake.feed([self.broker.records(REQUESTS, 0)[offset]])

    async def answer(self) -> None:
        """The sandbox reports all that it has."""
        count = len(self.broker.records(REQUESTS, 0))
        self.world.sandbox.run()
        await until(lambda: len(answers(self.broker)) == count)

    def stop(self) -> None:
        """The supervisor says SIGTERM."""
        self.loop.handlers[signal.SIGTERM]()


@pytest.fixture
def exit_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[Life], tuple[int, str]]:
    """Give a function that runs a life; it gives the exit code and what was said."""
    settings = load(
        environment={
            "WASM_EXECUTOR_ENV_FILE": "/dev/null",
            "JWT_SECRET": "vG7b/Qx2+nT9mJp4LzR8wYc1KdHs6FeA0uViXoNq",
            "WASM_EXECUTOR_OPERATOR_PUBLIC_KEY": KEY,
            "WASM_EXECUTOR_FLEET_KEY": KEY,
            "WASM_EXECUTOR_DEPLOYMENT_SECRET": KEY,
            "WASM_EXECUTOR_STATE_DIR": str(tmp_path),
        }
    ).worker_values()
    certificate = Certificate(bytes(32), bytes(32), 1, bytes(64))
    identity = WorkerIdentity("host-0", 0, bytes(16), bytes(range(32)), certificate)

    async def listen_to_nobody(_: object) -> None:
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(worker, "follow_supervisor", listen_to_nobody)
    monkeypatch.setattr(worker, "_settle_memory", lambda: None)

    def run(life: Life) -> tuple[int, str]:
        async def start(runtime: WorkerRuntime) -> None:
            await life.begin(runtime)

        monkeypatch.setattr(WorkerRuntime, "start", start)
        with (tmp_path / "reports").open("w+b") as reports, capture_logs() as logs:
            orders = WorkerOrders(settings, identity, 1, os.dup(reports.fileno()))
            with asyncio.Runner(loop_factory=lambda: life.loop) as runner:
                code = runner.run(worker._run(orders))
            reported = (tmp_path / "reports").read_bytes()
        reasons = [one["reason"] for one in logs if one["event"] == "worker.failed"]
        assert all(reason.encode() in reported for reason in reasons)
        return code, "; ".join(reasons)

    return run


async def _never_reported(life: Life) -> None:
    life.ask()
    await asyncio.sleep(LONG_S)
    life.stop()


async def _a_later_one_is_never_reported(life: Life) -> None:
    for _ in range(3):
        life.ask()
        await asyncio.sleep(MOST_S / 2)
        await life.answer()
    await _never_reported(life)


@pytest.mark.parametrize(
    ("tell", "since_s"),
    [(_never_reported, 0.0), (_a_later_one_is_never_reported, 1.5 * MOST_S)],
)
def test_a_job_that_nobody_reports_ends_the_worker_with_the_lane_named(
    exit_of: Callable[[Life], tuple[int, str]],
    tell: Callable[[Life], Coroutine[Any, Any, None]],
    since_s: float,
) -> None:
    """As soon as it has taken too long, and no sooner."""
    life = Life(tell)
    noticed_s: list[float] = []
    release = life.lane.release

    async def released(reason: str, budget_s: float) -> None:
        noticed_s.append(life.loop.time())
        await release(reason, budget_s)

    life.lane.release = released  # type: ignore[method-assign]
    assert exit_of(life) == (worker.EXIT_BUG, STUCK)
    assert MOST_S < noticed_s[0] - since_s < MOST_S + 3 * REPORT_INTERVAL_S


async def _idle(life: Life) -> None:
    life.ask()
    await life.answer()
    await asyncio.sleep(LONG_S)
    life.stop()


async def _slow(life: Life) -> None:
    """There is always a request in flight, and none for too long."""
    sandbox = life.world.sandbox
    life.ask()
    for number in range(40):
        await asyncio.sleep(MOST_S * 0.9)
        life.ask()
        oldest, later = sandbox.waiting
        sandbox.waiting = [oldest]
        sandbox.run()
        sandbox.waiting = [later]
        await until(lambda done=number + 1: len(answers(life.broker)) == done)  # type: ignore[misc]
    await life.answer()
    life.stop()


async def _behind_others(life: Life) -> None:
    """All children are busy, with whatever other lanes have: it is not this one's turn.

    Nor is it too late in the moment in which there is room.
    """
    life.pool.running = life.pool.capacity
    life.ask()
    await asyncio.sleep(LONG_S)
    life.pool.running = 0
    await asyncio.sleep(MOST_S / 2)
    await life.answer()
    life.stop()


async def _halted(life: Life) -> None:
    """What was in flight then waits for an operator, and no restart would help."""
    life.ask()
    assert life.lane.intake is not None
    life.lane.intake.fail(IntegrityError("anything"))
    await until(lambda: life.lane.state is LaneState.HALTED)
    await asyncio.sleep(LONG_S)
    life.stop()


@pytest.mark.parametrize("tell", [_idle, _slow, _behind_others, _halted])
def test_a_lane_that_is_not_stuck_never_does(
    exit_of: Callable[[Life], tuple[int, str]],
    tell: Callable[[Life], Coroutine[Any, Any, None]],
) -> None:
    assert exit_of(Life(tell)) == (0, "")
