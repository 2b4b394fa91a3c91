"""How often a lane commits: at once when idle, less often under load. Pure.

A transaction costs broker and worker together 2 to 3 ms of CPU whatever it holds, so
transactions a second are what to save, not records; but waiting is latency. The
floor between two commits therefore rises with the lane's rate and falls with it: a
little while the lane keeps up with its requests, and further once it has fallen behind,
when throughput is all that shortens the wait.

Source: facts measured on Apache Kafka 4.3 (docs/adr/0012, docs/adr/0032).
"""

from __future__ import annotations

# Seconds of floor for each request a second: 800/s wait 10 ms, 80/s wait 1 ms.
_FLOOR_PER_RATE_S = 12.5e-6
_SMOOTHING = 0.2
# The longest floor of a lane that keeps up: a higher one adds to every answer's wait.
_MOST_KEEPING_UP_S = 0.015
# Shorter floors are none: an idle lane commits at once.
_LEAST_FLOOR_S = 0.001


class CommitPace:
    """Gives the delay before the next commit.

    Args:
        most_s: the longest floor, reached at high rates by a lane that is behind.
    """

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s
        self._rate = 0.0
        self._last: float | None = None

    def delay(self, now: float, *, behind: bool) -> float:
        """Give the seconds to wait at this monotonic time; 0 if none."""
        if self._last is None:
            return 0.0
        most_s = self._most_s if behind else min(self._most_s, _MOST_KEEPING_UP_S)
        floor_s = min(most_s, self._rate * _FLOOR_PER_RATE_S)
        if floor_s < _LEAST_FLOOR_S:
            return 0.0
        return max(0.0, self._last + floor_s - now)

    def committed(self, started: float, now: float, count: int) -> None:
        """Learn from a commit of ``count`` requests that began at ``started``."""
        since = 1.0 if self._last is None else max(started - self._last, now - started)
        rate = count / max(since, 1e-3)
        self._rate += _SMOOTHING * (rate - self._rate)
        self._last = started
