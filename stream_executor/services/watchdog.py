"""Says when a running lane has stood still for so long that its worker must start anew.

Not here: what a lane does; this is for bugs, ours and aiokafka's. Pure but for the
lanes' own memory of their oldest request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable


class Watched(Protocol):
    """What the watchdog asks of a lane."""

    @property
    def partition(self) -> int:
        """Which one it is."""
        ...

    def stuck_for(self, now: float) -> float:
        """Give for how many seconds its oldest request has not moved."""
        ...


class Watchdog:
    """Looks at all lanes from time to time; ``now`` is a monotonic clock, seconds.

    While the sandbox is full, work waits for work, of whatever lane: nobody can be
    blamed for that time, nor at the moment at which it ends.
    """

    def __init__(self, now: float) -> None:
        self._room_since = now

    def look(
        self,
        lanes: Iterable[Watched],
        now: float,
        *,
        saturated: bool,
        most_s: float,
    ) -> str | None:
        """Give what to say of a lane that is stuck, or None.

        Args:
            lanes: those of this worker.
            now: the time of this look.
            saturated: whether every child of the sandbox has work.
            most_s: how long the oldest request may take once there is room.
        """
        if saturated:
            self._room_since = now
        for lane in lanes:
            stuck_s = min(lane.stuck_for(now), now - self._room_since)
            if stuck_s > most_s:
                return (
                    f"lane {lane.partition}: the oldest request is unfinished for more "
                    f"than {most_s:.0f} s"
                )
        return None
