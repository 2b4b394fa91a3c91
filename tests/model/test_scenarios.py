"""Histories that chance seldom writes: long ones in which one thing must come last."""

from __future__ import annotations

import asyncio

import pytest

from stream_executor.model.audit import Seal
from stream_executor.wire.avro import CODECS
from tests.lane_world import AUDIT, REQUESTS
from tests.model.damage import KINDS
from tests.model.generating import failure_of
from tests.model.run import CLOCK_MS, Run, Step
from tests.model.virtual_time import VirtualTimeLoop

ANSWER = [
    Step("submit"), Step("fetch"), Step("settle"), Step("report"), Step("settle"),
]  # fmt: skip
TAKE_OVER = [Step("kill"), Step("wait"), Step("settle")]


def clock(ms: int) -> Step:
    """The broker's clock moves."""
    return Step("clock", CLOCK_MS.index(ms))


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param(
            [
                *ANSWER, clock(40_000), *ANSWER, clock(40_000), *ANSWER, *TAKE_OVER,
                *ANSWER, *TAKE_OVER, Step("replay", 0), *ANSWER,
            ],
            id="a token is remembered over take-overs while it could be replayed",
        ),
        pytest.param(
            [*ANSWER, clock(-20_000), *ANSWER, *TAKE_OVER, *ANSWER],
            id="the lane's time stands still when the broker's clock goes back",
        ),
        pytest.param(
            [
                Step("settle"), Step("submit"), Step("fetch"), Step("submit"),
                Step("fetch"), Step("report", 1), Step("settle"), Step("report", 1),
            ],
            id="a later request that ends first waits for the earlier one",
        ),
    ],
)  # fmt: skip
def test_it_holds(steps: list[Step]) -> None:
    failure = failure_of([Step("settle"), *steps])
    assert failure is None, failure


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=KINDS)
@pytest.mark.parametrize("again", range(len(KINDS)), ids=KINDS)
def test_a_harmed_lane_goes_on_by_order_and_verify_says_what_that_cost(
    kind: int, again: int
) -> None:
    """However much is lost, harmed twice, and while its owners die on the way back."""
    for many in range(8):
        steps = [
            Step("settle"), *ANSWER, *ANSWER, *ANSWER, Step("damage", many, kind),
            Step("settle"), Step("resume"), Step("fate", many + 1), Step("settle"),
            *ANSWER, Step("damage", 7 - many, again), *ANSWER,
        ]  # fmt: skip
        failure = failure_of(steps)
        assert failure is None, failure


async def _covered_after_markers() -> tuple[int, int]:
    run = Run()
    for step in [Step("settle"), *ANSWER, Step("marker", 1), Step("fetch")]:
        await run.do(step)
    await asyncio.sleep(60)
    await run.close()
    last: Seal = CODECS[Seal].decode(run.broker.records(AUDIT, 0)[-1].value or b"")
    return last.next, len(run.broker.log(REQUESTS, 0))


def test_a_position_that_moved_without_data_is_sealed_within_a_minute() -> None:
    """Nobody sends anything, nobody closes anything."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        sealed, end = runner.run(_covered_after_markers())
    assert sealed == end
