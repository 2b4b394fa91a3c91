"""Render the totals for Prometheus; the only place that imports prometheus_client.

One registry of our own: the table's series, an info metric, and the supervisor's own
``process_*``. Values of all processes are summed already; there is no pid label, no
mmap file and no ``_created`` series, which ``grep wasm_executions`` would show.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.core import (
    Metric as Family,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from stream_executor.http import metrics
from stream_executor.http.metrics import BUILD_INFO, TABLE, Kind, Metric
from stream_executor.http.status import ABLE, judge_health, judge_readiness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from stream_executor.http.status import ServiceStatus, Usage
    from stream_executor.http.tally import Tally, Totals

_SELF = "supervisor"


class Exposition(Collector):
    """The ``/metrics`` page.

    Args:
        totals: what the workers reported.
        own: the supervisor's own counts and constants; taken at each rendering.
        view: gives the status from which lane and worker gauges are derived.
        usage: gives the memory and CPU time of all our processes.
        info: labels of the info metric besides ``engine``; each a fixed string.
    """

    def __init__(
        self,
        totals: Totals,
        own: Tally,
        view: Callable[[], ServiceStatus],
        usage: Callable[[], Usage],
        info: Mapping[str, str],
    ) -> None:
        self._totals = totals
        self._own = own
        self._view = view
        self._usage = usage
        self._cpu_seconds = 0.0
        self._info = dict(info)
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Give the page and its content type, as the Accept header asks."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self._registry), content_type

    def collect(self) -> Iterator[Family]:
        """Give every family, in the table's order."""
        status = self._view()
        self._derive(status)
        yield InfoMetricFamily(
            BUILD_INFO,
            "Version, configuration digest and engine.",
            value={**self._info, "engine": status.engine},
        )
        for metric in TABLE:
            if metric.kind is Kind.COUNTER:
                yield self._counter(metric)
            elif metric.kind is Kind.HISTOGRAM:
                yield self._histogram(metric)
            elif metric is metrics.LANES:
                yield _counted(metric, [lane.state for lane in status.lanes])
            elif metric is metrics.CONDITIONS:
                yield _counted(metric, [one.condition for one in status.troubles])
            else:
                value = self._totals.gauge(metric)
                yield GaugeMetricFamily(metric.name, metric.help, value=value)

    def _derive(self, status: ServiceStatus) -> None:
        """Set the gauges that follow from lanes and processes."""
        own, lanes = self._own, status.lanes
        able = [lane for lane in lanes if lane.state in ABLE]
        own.set(metrics.LAG, sum(lane.lag for lane in lanes))
        own.set(metrics.PROCESSABLE_LAG, sum(lane.lag for lane in able))
        own.set(metrics.WORKERS, sum(w.pid is not None for w in status.workers))
        own.set(
            metrics.OLDEST_UNANSWERED,
            min((lane.oldest_ms for lane in able if lane.oldest_ms), default=0) / 1000,
        )
        own.set(metrics.HEALTHY, judge_health(status).ok)
        own.set(metrics.READY, judge_readiness(status).ok)
        usage = self._usage()
        own.set(metrics.RESIDENT_MEMORY, usage.resident_bytes)
        # A process that is just being reaped may be missing from one reading.
        spent = max(0.0, usage.cpu_seconds - self._cpu_seconds)
        own.add(metrics.CPU_SECONDS, spent)
        self._cpu_seconds += spent
        self._totals.absorb(_SELF, own.take())

    def _counter(self, metric: Metric) -> Family:
        labels = [] if metric.label is None else [metric.label]
        family = CounterMetricFamily(metric.name, metric.help, labels=labels)
        for value in metric.values or ("",):
            count = self._totals.counters[metric.name, value]
            family.add_metric([value] if labels else [], count)
        return family

    def _histogram(self, metric: Metric) -> Family:
        counts, total = self._totals.histograms[metric.name]
        bounds = [*(str(bound) for bound in metric.buckets), "+Inf"]
        family = HistogramMetricFamily(metric.name, metric.help)
        family.add_metric(
            [], list(zip(bounds, accumulate(counts), strict=True)), sum_value=total
        )
        return family


def _counted(metric: Metric, values: Sequence[str]) -> Family:
    """Count each label value; those that do not occur are 0."""
    family = GaugeMetricFamily(metric.name, metric.help, labels=[str(metric.label)])
    for value in metric.values:
        family.add_metric([value], values.count(value))
    return family
