"""What a worker counts of its sandbox, and the gauges that it sets with each report.

Not here: what lanes count (``lane_news``), and how counts travel (``http.tally``).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from stream_executor.http import metrics

if TYPE_CHECKING:
    from stream_executor.auth.replay import ReplayBudget
    from stream_executor.http.tally import Tally
    from stream_executor.sandbox.artefact_cache import ArtefactCache
    from stream_executor.sandbox.pool import SandboxPool


class WorkerGauges:
    """Looks at a worker's parts.

    Args:
        tally: what is counted and set.
        sandbox, cache, replay_budget: the worker's.
    """

    def __init__(
        self,
        tally: Tally,
        sandbox: SandboxPool,
        cache: ArtefactCache,
        replay_budget: ReplayBudget,
    ) -> None:
        self._tally = tally
        self._sandbox = sandbox
        self._cache = cache
        self._replay_budget = replay_budget
        self._told: Counter[str] = Counter()

    def look(
        self, in_flight: int, keys_fetched_s: float | None, skew_s: float | None
    ) -> None:
        """Set gauges, and count what the sandbox did since the last look.

        Args:
            in_flight: requests of all lanes.
            keys_fetched_s: when keys were fetched last; None before the first load.
            skew_s: our clock before the brokers'; None if unknown.
        """
        tally, sandbox, budget = self._tally, self._sandbox, self._replay_budget
        tally.set(metrics.IN_FLIGHT, in_flight)
        if keys_fetched_s is not None:
            tally.set(metrics.KEYS_FETCHED, keys_fetched_s)
        if skew_s is not None:
            tally.set(metrics.CLOCK_SKEW, skew_s)
        tally.set(metrics.REPLAY_BYTES, budget.used_bytes)
        tally.set(metrics.REPLAY_LIMIT, budget.limit_bytes)
        tally.set(metrics.CONCURRENT, sandbox.running)
        tally.set(metrics.CAPACITY, sandbox.capacity)
        tally.set(metrics.CACHE_BYTES, self._cache.size_bytes)
        for outcome, number in self._cache.outcomes.items():
            self._count(metrics.CACHE_LOOKUPS, number, outcome)
        for end, number in sandbox.ended.items():
            self._count(metrics.CHILD_ENDS, number, end)
        self._count(metrics.COMPILATIONS, sandbox.compiled)

    def _count(self, metric: metrics.Metric, number: int, label: str = "") -> None:
        """Add what a total has grown by since the last look."""
        told = metric.name + label
        self._tally.add(metric, number - self._told[told], label)
        self._told[told] = number
