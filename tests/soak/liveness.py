"""How long the lanes stood still, and after which fault. Pure.

From append times of committed results and of `lane.acquired`, as the brokers' clock
gave them. A result is visible some milliseconds after it is appended, with the marker
of its transaction; what was appended and then aborted is not among them.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.history import LaneTimes

# (begin, end, name), seconds since the start.
Struck = tuple[float, float, str]


class Felt(NamedTuple):
    """What the lanes felt of one kind of fault; seconds, None where nothing was felt.

    Attributes:
        struck: how often.
        next_median, next_p99, next_worst: from the strike to a lane's next answer, over
            all strikes and lanes.
        begun: lanes that were fenced and begun anew because of it.
        still_median, still_worst: how long these stood still around it.
    """

    struck: int
    next_median: float | None
    next_p99: float | None
    next_worst: float | None
    begun: int
    still_median: float | None
    still_worst: float | None


class Pause(NamedTuple):
    """The longest time between two answers of one lane."""

    seconds: float
    partition: int
    during: tuple[str, ...]


class Standstill:
    """How long an end stood still below another; told by samples.

    Attributes:
        longest: seconds, between two samples that found the same.
    """

    def __init__(self) -> None:
        self.longest = 0.0
        self._last = -1
        self._since: float | None = None

    def saw(self, at: float, stable: int, end: int) -> None:
        """Take a sample."""
        if stable >= end:
            self._since = None
        elif stable != self._last or self._since is None:
            self._since = at
        else:
            self.longest = max(self.longest, at - self._since)
        self._last = stable


def felt(
    struck: Sequence[Struck], lanes: Mapping[int, LaneTimes], began_ms: float
) -> dict[str, Felt]:
    """Give for each kind of fault what the lanes felt of it.

    Args:
        struck: the faults, in order.
        lanes: their times.
        began_ms: what the faults' seconds count from.
    """
    waits: dict[str, list[float]] = {name: [] for _, _, name in struck}
    still: dict[tuple[int, int], float] = {}
    for partition, times in lanes.items():
        moments = [(ms - began_ms) / 1000 for ms in sorted(times.answered_ms)]
        for begun, _, name in struck:
            place = bisect_right(moments, begun)
            if place < len(moments):
                waits[name].append(moments[place] - begun)
        for ms in times.acquired_ms:
            since, until = _pause_around(moments, (ms - began_ms) / 1000)
            strike = _strike_of(struck, since, until)
            if strike is not None:
                longest = max(still.get((strike, partition), 0.0), until - since)
                still[strike, partition] = longest
    found = {}
    for name, waited in sorted(waits.items()):
        stood = [one for (at, _), one in still.items() if struck[at][2] == name]
        found[name] = Felt(
            sum(other == name for _, _, other in struck),
            _share(waited, 0.5), _share(waited, 0.99), _share(waited, 1),
            len(stood), _share(stood, 0.5), _share(stood, 1),
        )  # fmt: skip
    return found


def _strike_of(struck: Sequence[Struck], since: float, until: float) -> int | None:
    """Name the strike that a pause is of: the first within it, or the last before it.

    The first within, because the next one strikes while lanes are still on their way
    to new owners; before it, because who drains goes on for a while.
    """
    begins = [begun for begun, _, _ in struck]
    within = bisect_left(begins, since)
    if within < len(begins) and begins[within] <= until:
        return within
    return within - 1 if within else None


def longest_pause(
    struck: Sequence[Struck],
    lanes: Mapping[int, LaneTimes],
    began_ms: float,
    until_s: float,
) -> Pause:
    """Give the longest standstill of one lane, and the faults that it fell into."""
    until_ms = began_ms + until_s * 1000
    longest, partition, since = 0.0, -1, 0.0
    for lane, times in lanes.items():
        for before, after in pairwise(sorted(times.answered_ms)):
            if before >= began_ms and after <= until_ms and after - before > longest:
                longest, partition, since = after - before, lane, before
    begin, end = (since - began_ms) / 1000, (since - began_ms + longest) / 1000
    during = [name for begun, ended, name in struck if begun <= end and ended >= begin]
    return Pause(round(longest / 1000, 2), partition, tuple(during))


def _pause_around(moments: Sequence[float], at: float) -> tuple[float, float]:
    """Give the answers before and after a moment."""
    place = bisect_right(moments, at)
    return (
        moments[place - 1] if place else at,
        moments[place] if place < len(moments) else at,
    )


def _share(values: Iterable[float], share: float) -> float | None:
    """Give a percentile by nearest rank, the median as usual; None of nothing."""
    ordered = sorted(values)
    if not ordered:
        return None
    if share == 0.5:
        return round(median(ordered), 3)
    return round(ordered[math.ceil(share * len(ordered)) - 1], 3)
