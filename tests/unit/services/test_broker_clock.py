"""The brokers' clock against ours, from the times around an append."""

from __future__ import annotations

import pytest

from stream_executor.services.broker_clock import APART_S, BrokerClock


class Clocks:
    """Ours, which may be set, and a steady one."""

    def __init__(self) -> None:
        self.now_s, self.steady_s = 1_000.0, 7.0
        self.compared = BrokerClock(lambda: self.now_s, lambda: self.steady_s)

    def pass_s(self, seconds: float) -> None:
        self.now_s += seconds
        self.steady_s += seconds


def test_nothing_is_known_before_the_first_append() -> None:
    clocks = Clocks()
    clocks.now_s += 3_600
    assert clocks.compared.skew_s is None
    assert clocks.compared.finding == ""


@pytest.mark.parametrize(
    ("appended_s", "skew_s"),
    [(999.5, 0.0), (1_100.0, 100.0), (900.0, -99.0), (1_000.0, 0.0), (999.0, 0.0)],
)
def test_a_slow_commit_is_no_skew(appended_s: float, skew_s: float) -> None:
    """Asked at 999, answered at 1,000: a time between them says nothing."""
    clocks = Clocks()
    clocks.compared.compare(int(appended_s * 1000), 999_000)
    assert clocks.compared.skew_s == pytest.approx(skew_s)


@pytest.mark.parametrize(("step_s", "side"), [(90, "ahead of"), (-90, "behind")])
def test_a_jump_shows_before_the_next_commit(step_s: int, side: str) -> None:
    clocks = Clocks()
    clocks.compared.compare(1_000_000, 999_990)
    clocks.pass_s(600)
    assert clocks.compared.finding == ""
    clocks.now_s += step_s
    assert clocks.compared.skew_s == pytest.approx(-step_s)
    found = clocks.compared.finding
    assert found == f"this host's clock is 90 s {side} the brokers'"
    clocks.now_s -= step_s
    assert clocks.compared.finding == ""


def test_what_tokens_tolerate_is_no_finding() -> None:
    clocks = Clocks()
    clocks.compared.compare(int((1_000 + APART_S - 0.1) * 1000), 999_990)
    assert clocks.compared.finding == ""
