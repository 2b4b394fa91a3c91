"""Histories from numbers, and from a failed one the shortest that still fails."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from tests.model.run import HistoryError, Step, StepName, play
from tests.model.signatures import verified_once
from tests.model.virtual_time import VirtualTimeLoop

if TYPE_CHECKING:
    from collections.abc import Sequence

WEIGHTS: dict[StepName, int] = {
    "submit": 6, "deadly": 1, "banned": 3, "named": 2, "replay": 2, "unsigned": 2,
    "marker": 2,
    "clock": 3, "control": 4, "fetch": 8, "skip": 2, "report": 7, "settle": 7,
    "wait": 2, "fate": 8, "kill": 1, "takeover": 2, "thaw": 2, "deliver": 2,
    "release": 2, "damage": 2, "resume": 2, "trim": 2, "burst": 1, "carry": 1,
    "serve": 8,
}  # fmt: skip
# Without these nothing else means anything.
ALWAYS = frozenset({"submit", "serve"})
SHORTEST, LONGEST = 3, 15


def generated(seed: int) -> list[Step]:
    """Give the history of a number.

    Each is of about half of the kinds of steps only: where all of them may come, those
    that belong together seldom meet.
    """
    chance = random.Random(seed)  # noqa: S311 - not a secret
    weights = {
        name: weight
        for name, weight in WEIGHTS.items()
        if chance.random() < 0.5 or name in ALWAYS
    }
    names = chance.choices(
        list(weights), list(weights.values()), k=chance.randint(SHORTEST, LONGEST)
    )
    return [Step(n, chance.randrange(40), chance.randrange(8)) for n in names]


def failure_of(steps: Sequence[Step]) -> HistoryError | None:
    """Play one history on a loop of its own; give what is wrong with it."""
    with verified_once(), asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        try:
            runner.run(play(list(steps)))
        except HistoryError as error:
            return error
    return None


def shortest(failure: HistoryError) -> HistoryError:
    """Leave steps out, and make their numbers small, for as long as it still fails."""
    size = max(1, len(failure.steps) // 2)
    while size:
        at = 0
        while at < len(failure.steps):
            fewer = failure.steps[:at] + failure.steps[at + size :]
            if (still := failure_of(fewer)) is not None:
                failure = still
            else:
                at += size
        size //= 2
    for at, step in enumerate(failure.steps):
        for simpler in (step._replace(a=0, b=0), step._replace(a=0)):
            steps = failure.steps.copy()
            steps[at] = simpler
            if simpler != step and (still := failure_of(steps)) is not None:
                failure = still
                break
    return failure


def play_all(first: int, count: int) -> str | None:
    """Play the histories of so many numbers; give the first failure, shortened."""
    with verified_once(), asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        for seed in range(first, first + count):
            try:
                runner.run(play(generated(seed)))
            except HistoryError as error:
                failure = error
                break
        else:
            return None
    return f"history {seed}, shortened:\n{shortest(failure)}"
