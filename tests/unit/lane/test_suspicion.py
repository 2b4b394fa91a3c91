"""Requests that take workers down: tried alone, quarantined; the lane goes on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_executor.model.audit import AttemptStarted
from stream_executor.model.control import DenySubject
from stream_executor.model.lanes import LaneState
from stream_executor.model.scalars import unpack
from stream_executor.modules.orders import Orders
from tests.lane_driver import answers, feed, leaves, owned, submit, until
from tests.lane_world import OPERATOR, MemoryWorld, begun_broker
from tests.model.virtual_time import VirtualTimeLoop

if TYPE_CHECKING:
    from stream_executor.model.job import Job
    from tests.memory_log import MemoryBroker


class Mortal(MemoryWorld):
    """A process of its own; its guests answer when they are told to."""

    def __init__(self, broker: MemoryBroker, number: int) -> None:
        super().__init__(broker)
        self.incarnation = number.to_bytes(16, "big")
        self.sandbox.held = True


async def live(broker: MemoryBroker, number: int, poison: set[int], end: int) -> bool:
    """One process's life: until death (False), or until everything is answered."""
    world = Mortal(broker, number)
    sandbox = world.sandbox
    async with owned(world, crash=True) as lane:
        feed(world, lane)

        def done() -> bool:
            return lane.head is not None and lane.head.next >= end

        while not done():
            await until(lambda: sandbox.waiting or done())
            jobs = [job for batch, _ in sandbox.waiting for job in batch]
            if any(offset_of(job) in poison for job in jobs):
                return False
            sandbox.run()
    return True


def offset_of(job: Job) -> int:
    """The tests' requests carry their offset as first argument."""
    return int(next(iter(unpack(job.payload)))[1])


async def lives_until_done(broker: MemoryBroker, poison: set[int], end: int) -> int:
    number = 1
    while not await live(broker, number, poison, end):
        number += 1
        assert number < 40, "the lane never got through"
    return number


@pytest.mark.threat("T-22")
async def test_a_request_that_kills_every_worker_is_quarantined_and_the_rest_run() -> (
    None
):
    broker = begun_broker()
    for number in range(4):
        submit(broker, number)
    lives = await lives_until_done(broker, {1}, 4)
    assert answers(broker) == {
        0: "SUCCEEDED",
        1: "QUARANTINED",
        2: "SUCCEEDED",
        3: "SUCCEEDED",
    }
    assert lives == 2 + 3 + 1
    tried = [s for s in leaves(broker) if isinstance(s, AttemptStarted)]
    assert [(s.offset, s.attempt) for s in tried if s.offset <= 1] == [
        (0, 1), (1, 1), (1, 2), (1, 3),
    ]  # fmt: skip


async def test_one_death_or_a_drain_makes_nobody_suspect() -> None:
    broker = begun_broker()
    submit(broker, 0)
    await live(broker, 1, {0}, 1)
    await live(broker, 2, {0}, 1)
    async with owned(Mortal(broker, 3)) as lane:
        assert lane.state is LaneState.SUSPICIOUS
    async with owned(Mortal(broker, 4)) as lane:  # 3 was released in order
        assert lane.state is LaneState.RUNNING
    assert [s for s in leaves(broker) if isinstance(s, AttemptStarted)] == []


async def test_the_same_process_acquiring_again_is_no_death() -> None:
    broker = begun_broker()
    submit(broker, 0)
    for _ in range(4):
        async with owned(Mortal(broker, 1), crash=True) as lane:
            assert lane.state is LaneState.RUNNING


@pytest.mark.threat("T-22")
@pytest.mark.parametrize("hiccups", [1, 2])
async def test_processes_that_acquired_the_lane_again_before_they_died_count_once(
    hiccups: int,
) -> None:
    broker = begun_broker()
    submit(broker, 0)

    async def life(number: int) -> LaneState:
        for _ in range(hiccups):
            async with owned(Mortal(broker, number), crash=True):
                pass
        async with owned(Mortal(broker, number), crash=True) as lane:
            return lane.state

    assert [await life(number) for number in (1, 2, 3)] == [
        LaneState.RUNNING, LaneState.RUNNING, LaneState.SUSPICIOUS,
    ]  # fmt: skip


async def test_an_operators_word_while_a_suspect_runs_leaves_nothing_in_flight() -> (
    None
):
    """A change of context that no request follows is no request that stands still."""
    broker = begun_broker()
    submit(broker, 0)
    for number in (1, 2):
        async with owned(Mortal(broker, number), crash=True):
            pass
    world = Mortal(broker, 3)
    async with owned(world) as lane:
        feed(world, lane)
        await until(lambda: world.sandbox.waiting)
        world.control(Orders(world.view, OPERATOR, 1).deny(DenySubject.SUB, "x", "y"))
        world.sandbox.run()
        await until(lambda: answers(broker))
        await until(lambda: lane.in_flight == 0)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 6).flatmap(
        lambda end: st.tuples(st.just(end), st.sets(st.integers(0, end - 1)))
    )
)
def test_whatever_is_poison_the_rest_succeeds(
    case: tuple[int, set[int]],
) -> None:
    end, poison = case
    broker = begun_broker()
    for number in range(end):
        submit(broker, number)
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(lives_until_done(broker, poison, end))
    assert answers(broker) == {
        offset: "QUARANTINED" if offset in poison else "SUCCEEDED"
        for offset in range(end)
    }
