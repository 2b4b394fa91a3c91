"""How far the brokers' clock and ours are apart, measured at every commit.

The audit topic keeps the brokers' time of an append, which lies between the moment at
which we asked and the one at which we were answered: nothing is written for it. Between
two commits our clock is held against one that nobody can set, so that a jump shows at
once.

Not here: what is done about it (lanes halt on records from the future).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# Tokens are judged with 30 s of leeway, a lane halts at 60 s.
APART_S = 5.0


class BrokerClock:
    """Skew in seconds: positive where the brokers' clock is ahead of ours.

    Args:
        now_s: our clock, seconds since 1970.
        steady_s: one that nobody sets and that counts while the machine is suspended.
    """

    def __init__(
        self,
        now_s: Callable[[], float] = time.time,
        steady_s: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self._now_s = now_s
        self._steady_s = steady_s
        self._skew_s = 0.0
        self._base_s: float | None = None

    def compare(self, appended_ms: int, asked_ms: int) -> None:
        """Take the brokers' time of something that was appended just now.

        Args:
            appended_ms: the brokers' clock, milliseconds since 1970.
            asked_ms: ours, before it was sent.
        """
        appended_s, now_s = appended_ms / 1000, self._now_s()
        ahead_s, behind_s = appended_s - now_s, appended_s - asked_ms / 1000
        self._skew_s = max(0.0, ahead_s) or min(0.0, behind_s)
        self._base_s = now_s - self._steady_s()

    @property
    def skew_s(self) -> float | None:
        """By how much they are apart now; None before the first comparison."""
        if self._base_s is None:
            return None
        return self._skew_s - (self._now_s() - self._steady_s() - self._base_s)

    @property
    def finding(self) -> str:
        """What is wrong, in words; empty if nothing is."""
        skew_s = self.skew_s
        if skew_s is None or abs(skew_s) < APART_S:
            return ""
        side = "behind" if skew_s > 0 else "ahead of"
        return f"this host's clock is {abs(skew_s):.0f} s {side} the brokers'"
