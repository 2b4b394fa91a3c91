"""The replay window against a dictionary of what was spent when."""

from __future__ import annotations

from hashlib import sha256

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from stream_executor.auth.replay import ReplayBudget, ReplayWindow, SpendOutcome

HORIZON_MS = 6400


def hash_of(number: int) -> bytes:
    return sha256(number.to_bytes(4, "big")).digest()[:16]


class ReplayMachine(RuleBasedStateMachine):
    """Spends, commits, moves time, and is now and then rebuilt from its seals."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = ReplayBudget()
        self.window = ReplayWindow(self.budget, HORIZON_MS)
        self.now_ms = 1_000_000
        self.spent: dict[bytes, list[int]] = {}  # times, oldest first
        self.uncommitted: list[bytes] = []
        self.seals: list[tuple[bytes, int]] = []

    @rule(numbers=st.lists(st.integers(0, 3000), max_size=20))
    def spend(self, numbers: list[int]) -> None:
        for number in numbers:
            jti_hash = hash_of(number)
            outcome = self.window.spend(jti_hash, self.now_ms)
            times = self.spent.setdefault(jti_hash, [])
            if not times:
                assert outcome is SpendOutcome.FRESH
            elif self.now_ms <= times[-1] + HORIZON_MS:
                assert outcome is SpendOutcome.REPLAYED
            if outcome is SpendOutcome.FRESH:
                times.append(self.now_ms)
                self.uncommitted.append(jti_hash)

    @rule(first=st.integers(0, 3000), count=st.integers(0, 800))
    def spend_many(self, first: int, count: int) -> None:
        self.spend(list(range(first, first + count)))

    @rule(step_ms=st.integers(0, 300) | st.integers(0, 3 * HORIZON_MS))
    def time_passes(self, step_ms: int) -> None:
        self.now_ms += step_ms

    @rule()
    def expire(self) -> None:
        self.window.expire(self.now_ms)

    @rule()
    def commit(self) -> None:
        self.seals.append((b"".join(self.uncommitted), self.now_ms))
        self.uncommitted = []

    @rule()
    def take_over(self) -> None:
        """What was not committed was never spent; what was is in a seal."""
        self.window.discard()
        for jti_hash in self.uncommitted:
            self.spent[jti_hash].pop()
        self.uncommitted = []
        self.window = ReplayWindow(self.budget, HORIZON_MS)
        for spent, lane_time_ms in self.seals:
            if lane_time_ms + HORIZON_MS >= self.now_ms:
                self.window.load(spent, lane_time_ms)

    @invariant()
    def budget_counts_pages(self) -> None:
        assert self.budget.used_bytes >= 17 * len(self.window)


ReplayMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestReplayWindow = ReplayMachine.TestCase
