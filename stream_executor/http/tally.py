"""Count in the workers, sum in the supervisor.

A worker keeps a ``Tally`` and sends what it has counted since the last report
(``Deltas``); the supervisor's ``Totals`` adds these up over all workers that ever
lived, and keeps each living worker's gauges until it dies. What a killed worker had
counted after its last report (half a second at most) is lost: metrics are no ledger,
the audit log is.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import msgspec

from stream_executor.http.metrics import BY_NAME, TABLE, Combine, Kind, Metric

Series = tuple[str, str]  # metric name, label value ("" without label)


class Deltas(msgspec.Struct, frozen=True):
    """What one worker counted since its last report; gauges are absolute.

    Attributes:
        counters: (name, label value or "", increase).
        histograms: (name, increase of each bucket and of +Inf at the end, of the sum).
        gauges: (name, value).
    """

    counters: list[tuple[str, str, float]] = []
    histograms: list[tuple[str, list[int], float]] = []
    gauges: list[tuple[str, float]] = []


class Tally:
    """A worker's counters, histograms and gauges. Not for use by several threads.

    Cost: a dictionary look-up a call; hot paths add once a batch, not once a request.
    """

    def __init__(self) -> None:
        self._counters: dict[Series, float] = {}
        self._histograms: dict[str, tuple[list[int], list[float]]] = {}
        self._gauges: dict[str, float] = {}

    def add(self, metric: Metric, amount: float = 1, label: str = "") -> None:
        """Increase a counter."""
        key = (metric.name, label)
        self._counters[key] = self._counters.get(key, 0) + amount

    def observe(self, metric: Metric, value: float, times: int = 1) -> None:
        """Put a value into a histogram."""
        entry = self._histograms.get(metric.name)
        if entry is None:
            entry = ([0] * (len(metric.buckets) + 1), [0.0])
            self._histograms[metric.name] = entry
        buckets, total = entry
        buckets[bisect_left(metric.buckets, value)] += times
        total[0] += value * times

    def observe_all(self, metric: Metric, values: list[float]) -> None:
        """Put many values into a histogram, for a tenth of the time; sorts the list."""
        if not values:
            return
        self.observe(metric, 0.0, 0)
        buckets, total = self._histograms[metric.name]
        values.sort()
        below = 0
        for index, bound in enumerate(metric.buckets):
            upto = bisect_right(values, bound, below)
            buckets[index] += upto - below
            below = upto
        buckets[-1] += len(values) - below
        total[0] += sum(values)

    def set(self, metric: Metric, value: float) -> None:
        """Set a gauge; it stays until it is set anew."""
        self._gauges[metric.name] = value

    def take(self) -> Deltas:
        """Give everything counted since the last call, and start again from 0."""
        deltas = Deltas(
            [(name, label, n) for (name, label), n in self._counters.items()],
            [(name, b, total[0]) for name, (b, total) in self._histograms.items()],
            list(self._gauges.items()),
        )
        self._counters = {}
        self._histograms = {}
        return deltas


class Totals:
    """The sums of one instance, every series present from the start."""

    def __init__(self) -> None:
        self.counters: dict[Series, float] = {
            (metric.name, value): 0.0
            for metric in TABLE
            if metric.kind is Kind.COUNTER
            for value in metric.values or ("",)
        }
        self.histograms: dict[str, tuple[list[int], float]] = {
            metric.name: ([0] * (len(metric.buckets) + 1), 0.0)
            for metric in TABLE
            if metric.kind is Kind.HISTOGRAM
        }
        self._gauges: dict[object, dict[str, float]] = {}

    def absorb(self, source: object, deltas: Deltas) -> None:
        """Add one report.

        Args:
            source: which process; its gauges replace those of its last report.
            deltas: from ``Tally.take``. A series that the table does not have is left
                out: label values stay closed whatever a worker sends.
        """
        for name, label, amount in deltas.counters:
            if (name, label) in self.counters:
                self.counters[name, label] += amount
        for name, increases, amount in deltas.histograms:
            known = self.histograms.get(name)
            if known is not None and len(known[0]) == len(increases):
                buckets = [a + b for a, b in zip(known[0], increases, strict=True)]
                self.histograms[name] = (buckets, known[1] + amount)
        self._gauges[source] = dict(deltas.gauges)

    def forget(self, source: object) -> None:
        """Drop the gauges of a process that has ended; what it counted stays."""
        self._gauges.pop(source, None)

    def gauge(self, metric: Metric) -> float:
        """Combine a gauge over all living processes; 0 if none has set it."""
        values = [g[metric.name] for g in self._gauges.values() if metric.name in g]
        if metric.combine is Combine.MAX:
            return max(values, default=0.0)
        return sum(values)

    def gauges(self) -> dict[str, float]:
        """Every gauge that has no label, combined."""
        return {
            metric.name: self.gauge(metric)
            for metric in BY_NAME.values()
            if metric.kind is Kind.GAUGE and metric.label is None
        }
