"""Every effect of an acquisition, a commit and a release is where somebody dies once.

The scenario touches each effect; it is played once for each of them and each fate, and
once more with the next owner dying in its recovery. The table of docs/reliability.md
says what the log holds then: its rows are measured here.
"""

from __future__ import annotations

import asyncio
import re
from functools import cache
from pathlib import Path

import pytest

from stream_executor.wire.results import decode_result
from tests.lane_world import RESULTS
from tests.model.effects import Fate
from tests.model.generating import failure_of
from tests.model.run import FATES, Run, Step, play
from tests.model.signatures import verified_once
from tests.model.virtual_time import VirtualTimeLoop

SCENARIO = [
    Step("settle"), Step("submit", 1), Step("marker", 1), Step("named", 1),
    Step("control"), Step("fetch"), Step("settle"), Step("report"), Step("settle"),
    Step("replay"), Step("unsigned", 1), Step("fetch"), Step("settle"),
    Step("report"), Step("settle"), Step("thaw"), Step("settle"), Step("submit"),
    Step("fetch"), Step("report", 1), Step("settle"), Step("deliver"),
    Step("release"), Step("wait"), Step("fetch"), Step("report"), Step("wait"),
]  # fmt: skip
DOCUMENT = Path(__file__).parents[2] / "docs" / "reliability.md"
_ROW = re.compile(r"^\| \d* ?\| `([^`]+)` \| (\w+)", re.MULTILINE)


def fated(after: int, fate: Fate) -> Step:
    """A fate at the n-th effect from now."""
    return Step("fate", after, FATES.index(fate))


def effects_of(steps: list[Step]) -> list[str]:
    """Play a history; give the effects that were passed, in order."""
    with verified_once(), asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(play(steps))[1]


@cache
def reached() -> list[str]:
    """The scenario's effects; asked for late, so that a broken lane fails tests."""
    return effects_of(SCENARIO)


COMMITTING = (
    "9 commit: before", "9 commit: results written", "9 commit: audit written",
    "9 commit: end on its way", "9 commit: decided", "9 commit: marked", "11 count",
)  # fmt: skip


@pytest.mark.parametrize("fate", FATES)
def test_an_owner_may_end_at_every_effect(fate: Fate) -> None:
    for at in range(len(reached())):
        failure = failure_of([fated(at, fate), *SCENARIO])
        assert failure is None, failure


@pytest.mark.parametrize("fate", [Fate.CRASH, Fate.LATE])
def test_the_next_owner_may_end_at_every_effect_of_its_recovery(fate: Fate) -> None:
    """Whatever the first one left in the log when it died in a commit."""
    commit = [n for n, e in enumerate(reached()) if e.startswith("9 commit")][6:12]
    acquired = reached().index("4 seek") + 1
    for first in commit:
        for second in range(acquired):
            steps = [fated(first, fate), *SCENARIO]
            # The second owner is there once the first has died.
            steps.insert(10, fated(second, Fate.CRASH))
            failure = failure_of(steps)
            assert failure is None, failure


async def answered_after_a_crash(point: str) -> str:
    """Crash at a point of the commit of one request; say what a reader then sees."""
    run = Run()
    for step in (Step("settle"), Step("submit"), Step("fetch"), Step("settle")):
        await run.do(step)
    effects = run.owner.effects
    effects.plan(COMMITTING.index(point) + 1, Fate.CRASH)
    run.owner.world.sandbox.run()
    await asyncio.sleep(1)
    assert effects.dead, point
    # The next owner's first effect decides what was open.
    run.broker.fence(("wasm.audit", 0))
    results = run.broker.records(RESULTS, 0)
    seen = [decode_result(record.value or b"").offset for record in results]
    await run.close()
    return {0: "nothing", 1: "everything"}[len(seen)]


@pytest.mark.parametrize("point", COMMITTING)
def test_the_document_says_what_a_crash_leaves(point: str) -> None:
    rows = dict(_ROW.findall(DOCUMENT.read_text(encoding="utf-8")))
    with verified_once(), asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        assert rows[point] == runner.run(answered_after_a_crash(point))


def test_the_document_has_a_row_for_every_point() -> None:
    rows = dict(_ROW.findall(DOCUMENT.read_text(encoding="utf-8")))
    assert set(rows) == set(reached())
