"""A lane that stands still is noticed; one that waits its turn is not blamed."""

from __future__ import annotations

from dataclasses import dataclass

from stream_executor.services.watchdog import Watchdog


@dataclass
class Still:
    """A lane whose oldest request has not moved since second 0."""

    partition: int = 3

    def stuck_for(self, now: float) -> float:
        return now


def look(watchdog: Watchdog, now: float, *, saturated: bool = False) -> str | None:
    return watchdog.look([Still()], now, saturated=saturated, most_s=65.0)


def test_a_lane_that_stands_still_is_named() -> None:
    watchdog = Watchdog(0.0)
    assert look(watchdog, 65.0) is None
    assert "lane 3" in (look(watchdog, 65.1) or "")


def test_waiting_for_a_full_sandbox_is_nobodys_fault() -> None:
    """Not while it is full, and not in the moment in which there is room again."""
    watchdog = Watchdog(0.0)
    for now in range(0, 200, 10):
        assert look(watchdog, float(now), saturated=True) is None
    assert look(watchdog, 191.0) is None
    assert look(watchdog, 255.0) is None
    assert look(watchdog, 255.1) is not None


def test_a_moment_without_room_starts_the_time_anew() -> None:
    watchdog = Watchdog(0.0)
    assert look(watchdog, 60.0, saturated=True) is None
    assert look(watchdog, 100.0) is None
    assert look(watchdog, 125.1) is not None
