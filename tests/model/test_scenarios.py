"""Histories that chance seldom writes: long ones in which one thing must come last."""

from __future__ import annotations

import asyncio

import pytest

from stream_executor.model.audit import Seal
from stream_executor.wire.avro import CODECS
from tests.lane_world import AUDIT, REQUESTS
from tests.model.damage import KINDS, TRIMS
from tests.model.effects import Fate
from tests.model.generating import failure_of
from tests.model.run import CARRIED, CLOCK_MS, FATES, Run, Step
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


def fated(after: int, fate: Fate) -> Step:
    """A fate at the n-th effect from now."""
    return Step("fate", after, FATES.index(fate))


def trim(which: str, many: int = 0) -> Step:
    """A beginning is removed."""
    return Step("trim", many, TRIMS.index(which))


@pytest.mark.parametrize("carried", range(len(CARRIED)), ids=map(str, CARRIED))
@pytest.mark.parametrize("lost", range(0, 40, 3))
def test_results_tell_of_a_lost_tail_however_many_are_aborted_behind_them(
    lost: int, carried: int
) -> None:
    """The owner dies when its last transaction is written and not decided."""
    steps = [
        Step("settle"), Step("carry", carried), Step("burst"), Step("serve"),
        Step("burst", 9), Step("fetch"), Step("settle"), fated(3, Fate.CRASH),
        Step("report"), Step("settle"), Step("damage", lost, KINDS.index("tail lost")),
        Step("settle"), Step("resume"), Step("submit"), Step("serve"),
    ]  # fmt: skip
    failure = failure_of(steps)
    assert failure is None, failure


@pytest.mark.parametrize("many", range(5))
@pytest.mark.parametrize("wait_ms", CLOCK_MS)
def test_what_was_spent_in_removed_leaves_runs_no_second_time(
    many: int, wait_ms: int
) -> None:
    """Neither what was sent again before anybody noticed nor what comes later."""
    steps = [
        Step("settle"), *ANSWER, *ANSWER, *ANSWER,
        trim("audit leaves that matter", many), Step("replay", 0), *TAKE_OVER,
        Step("replay", 1), Step("serve"), clock(wait_ms), Step("resume"),
        Step("settle"), Step("replay", 2), Step("serve"), Step("submit"), Step("serve"),
    ]  # fmt: skip
    failure = failure_of(steps)
    assert failure is None, failure


@pytest.mark.parametrize("which", [one for one in TRIMS if "matter" not in one])
def test_retention_that_waits_for_answers_and_horizon_halts_nobody(which: str) -> None:
    """Whoever is asked to run a token again knows it, and nothing needs an order."""
    steps = [
        Step("settle"), *ANSWER, clock(200_000), *ANSWER, clock(40_000), *ANSWER,
        trim(which), *TAKE_OVER, Step("replay", 1), Step("replay", 2), *ANSWER,
        trim(which), *TAKE_OVER, *ANSWER,
    ]  # fmt: skip
    failure = failure_of(steps)
    assert failure is None, failure


def test_a_seal_that_an_order_skips_names_no_log_when_it_is_the_first_left() -> None:
    """Another lane's seal, skipped by order; years later retention ends before it."""
    years = [clock(200_000), *ANSWER, clock(200_000), *ANSWER]
    for many in range(40):
        steps = [
            Step("settle"), *ANSWER, Step("damage", 0, KINDS.index("stray")),
            Step("settle"), Step("resume"), Step("settle"), *ANSWER, *years, *years,
            trim("audit leaves", many), *TAKE_OVER, *ANSWER,
        ]  # fmt: skip
        failure = failure_of(steps)
        assert failure is None, failure


@pytest.mark.parametrize("kind", ["torn", "stray"])
def test_an_order_about_other_damage_is_no_word_on_removed_leaves(kind: str) -> None:
    """History 38892 of the day on which this was written."""
    steps = [
        Step("settle"), *ANSWER, *ANSWER, *ANSWER, Step("replay", 0),
        Step("damage", 0, KINDS.index(kind)), trim("audit leaves that matter"),
        Step("settle"), Step("resume"), Step("serve"),
    ]  # fmt: skip
    failure = failure_of(steps)
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
