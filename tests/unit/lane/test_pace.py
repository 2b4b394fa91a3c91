"""The wait between two commits: none when idle, some under load, more when behind."""

from __future__ import annotations

import pytest

from stream_executor.lane.pace import CommitPace

MOST_S = 0.05


def pace_at(rate: float) -> tuple[CommitPace, float]:
    """Give a pace that has seen this many requests a second, and the time."""
    pace, now = CommitPace(MOST_S), 0.0
    for _ in range(100):
        now += 0.1
        pace.committed(now, now + 0.004, round(rate / 10))
    return pace, now


def test_the_first_commit_waits_for_nothing() -> None:
    assert CommitPace(MOST_S).delay(5.0, behind=True) == 0.0


@pytest.mark.parametrize(
    ("rate", "keeping_up_s", "behind_s"),
    [(10, 0.0, 0.0), (800, 0.010, 0.010), (2_400, 0.015, 0.030), (9_000, 0.015, 0.05)],
)
def test_the_wait_rises_with_the_rate(
    rate: float, keeping_up_s: float, behind_s: float
) -> None:
    pace, last = pace_at(rate)
    assert pace.delay(last, behind=False) == pytest.approx(keeping_up_s)
    assert pace.delay(last, behind=True) == pytest.approx(behind_s)
    assert pace.delay(last + MOST_S, behind=True) == 0.0


def test_a_ceiling_of_the_operator_holds_for_both() -> None:
    pace = CommitPace(0.0)
    pace.committed(1.0, 1.001, 1_000)
    assert pace.delay(1.0, behind=False) == pace.delay(1.0, behind=True) == 0.0
