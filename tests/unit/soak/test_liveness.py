"""What a soak says of standstills, from times that were made up."""

from __future__ import annotations

from tests.history import LaneTimes
from tests.soak.liveness import Standstill, felt, longest_pause

BEGAN_MS = 1_000_000.0


def at(*seconds: float) -> list[int]:
    return [round(BEGAN_MS + one * 1000) for one in seconds]


# The first lane was taken over at 12 s and stood still from 9.9 s to 12.5 s; the second
# felt nothing of it, and paused for half a second at 20 s.
LANES = {
    0: LaneTimes(at(1, 5, 9.9, 12.5, 13, 20, 29), at(0.5, 12)),
    1: LaneTimes(at(1, 5, 9.9, 10.1, 15, 20, 20.5, 29), at(0.5)),
}
STRUCK = [(10.0, 10.0, "worker-kill"), (20.0, 20.4, "proxy")]


def test_it_says_what_lanes_felt_of_a_fault() -> None:
    found = felt(STRUCK, LANES, BEGAN_MS)

    kill = found["worker-kill"]
    assert (kill.struck, kill.begun) == (1, 1)
    assert (kill.next_median, kill.next_worst) == (1.3, 2.5)
    assert (kill.still_median, kill.still_worst) == (2.6, 2.6)

    proxy = found["proxy"]
    assert (proxy.begun, proxy.still_worst) == (0, None)
    assert (proxy.next_median, proxy.next_p99) == (4.75, 9.0)


def test_a_lane_stands_still_because_of_the_first_that_struck_it() -> None:
    struck = [(10.0, 10.0, "worker-kill"), (11.0, 11.0, "control")]
    found = felt(struck, LANES, BEGAN_MS)

    assert (found["worker-kill"].begun, found["control"].begun) == (1, 0)


def test_a_lane_that_worked_on_for_a_while_stands_still_because_of_the_last() -> None:
    struck = [(5.0, 5.0, "control"), (9.0, 9.5, "rebalance")]
    found = felt(struck, LANES, BEGAN_MS)

    assert (found["rebalance"].begun, found["control"].begun) == (1, 0)


def test_a_lane_that_was_begun_before_any_strike_is_of_none() -> None:
    assert felt([(13.0, 13.0, "control")], LANES, BEGAN_MS)["control"].begun == 0


def test_the_longest_pause_is_told_with_what_it_fell_into() -> None:
    lanes = {0: LANES[0], 1: LaneTimes(at(1, 2, 3), [])}

    pause = longest_pause(STRUCK, lanes, BEGAN_MS, 30)
    assert (pause.seconds, pause.partition, pause.during) == (9, 0, ("proxy",))

    pause = longest_pause(STRUCK, lanes, BEGAN_MS, 19)
    assert (pause.seconds, pause.during) == (4.9, ())


def test_a_standstill_lasts_while_the_same_end_lags() -> None:
    standstill = Standstill()
    for second, stable, end in [
        (1, 5, 9),  # lags
        (3, 5, 12),  # still the same: two seconds
        (4, 8, 12),  # moved
        (5, 12, 12),  # caught up
        (8, 12, 13),  # lags from here
        (9, 12, 14),
    ]:
        standstill.saw(second, stable, end)

    assert standstill.longest == 2
