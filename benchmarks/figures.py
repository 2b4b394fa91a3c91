"""What an end-to-end run gave: medians, tables, a plain record and a plot.

Not here: how it is measured (``end_to_end``).
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Final, NamedTuple

from benchmarks import machine
from benchmarks.report import bars, percentile, table
from benchmarks.workload import PARTITIONS

if TYPE_CHECKING:
    from benchmarks.load import Latency

PLAIN: Final = "plain loop"


class Trial(NamedTuple):
    """One backlog, drained by one program."""

    program: str
    workload: str
    req_s: float
    cpu_us: float
    broker_us: float | None = None
    worker_us: float | None = None
    child_us: float | None = None
    resident_mb: float | None = None


class Figures(NamedTuple):
    """What a run gave.

    Attributes:
        pairs: the executor's and the plain loop's trial of each backlog.
        latencies: program and what it gave, as often as it was measured.
    """

    pairs: list[tuple[Trial, Trial]]
    latencies: list[tuple[str, Latency]]


class Row(NamedTuple):
    """Medians of one program on one workload; ``ratios`` are of each backlog's pair."""

    middle: Trial
    ratios: list[float]


def summary(pairs: list[tuple[Trial, Trial]]) -> list[Row]:
    """Give the medians; a ratio compares two drains of one and the same backlog."""
    groups: dict[tuple[str, str], list[tuple[Trial, float]]] = {}
    for ours, plain in pairs:
        ratio = ours.req_s / plain.req_s
        groups.setdefault((ours.workload, ours.program), []).append((ours, ratio))
        groups.setdefault((ours.workload, PLAIN), []).append((plain, 1.0))
    return [
        Row(_middle([trial for trial, _ in group]), [ratio for _, ratio in group])
        for group in groups.values()
    ]


def _middle(trials: list[Trial]) -> Trial:
    """Give the median of every figure for itself."""
    first = trials[0]
    figures: dict[str, float | None] = {}
    for name in _FIGURES:
        values = [v for trial in trials if (v := getattr(trial, name)) is not None]
        figures[name] = median(values) if values else None
    return first._replace(**figures)  # type: ignore[arg-type] # req_s, cpu_us: all have them


_FIGURES: Final = Trial._fields[2:]


def tables(figures: Figures) -> str:
    """Give the run's two tables."""
    throughput = table(
        ["backlog", "program", "runs", "req/s", "x plain", "least-most", "CPU µs",
         "worker", "child", "broker", "MB"],
        [
            [
                t.workload, t.program, len(ratios), t.req_s, median(ratios),
                f"{min(ratios):.2f}-{max(ratios):.2f}", t.cpu_us, t.worker_us,
                t.child_us, t.broker_us, t.resident_mb,
            ]
            for t, ratios in summary(figures.pairs)
        ],
    )  # fmt: skip
    latency = table(
        ["steady load", "runs", "req/s", "p50 ms", "from-to", "p99 ms", "from-to"],
        [
            [name, len(seen), median(one.rate for one in seen), *_spread(seen, 0.5),
             *_spread(seen, 0.99)]
            for name, seen in _by_program(figures.latencies).items()
        ],
    )  # fmt: skip
    return f"{throughput}\n\n{latency}"


def _by_program(latencies: list[tuple[str, Latency]]) -> dict[str, list[Latency]]:
    groups: dict[str, list[Latency]] = {}
    for name, seen in latencies:
        groups.setdefault(name, []).append(seen)
    return groups


def _spread(seen: list[Latency], share: float) -> tuple[float, str]:
    """Give the median of a percentile over the runs, and its range."""
    each = [percentile(one.millis, share) for one in seen]
    return median(each), f"{min(each):.1f}-{max(each):.1f}"


def document(figures: Figures, count: int) -> dict[str, object]:
    """Give the run as plain data."""
    return {
        "machine": machine.facts(),
        "partitions": PARTITIONS,
        "backlog": count,
        "trials": [
            {
                key: round(value, 1) if isinstance(value, float) else value
                for key, value in trial._asdict().items()
            }
            for pair in figures.pairs
            for trial in pair
        ],
        "latency": [
            {
                "program": name,
                "req_s": round(seen.rate),
                "p50_ms": round(percentile(seen.millis, 0.5), 2),
                "p99_ms": round(percentile(seen.millis, 0.99), 2),
            }
            for name, seen in figures.latencies
        ],
    }


def plot(figures: Figures) -> str:
    """Draw requests a second by workload."""
    groups: dict[str, dict[str, float]] = {}
    for trial, _ in summary(figures.pairs):
        groups.setdefault(trial.workload, {})[trial.program] = trial.req_s
    return bars("Requests a second, one machine with Kafka on it", groups, "req/s")
