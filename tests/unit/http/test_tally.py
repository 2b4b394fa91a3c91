from __future__ import annotations

import pytest

from stream_executor.http import metrics
from stream_executor.http.metrics import TABLE, Kind
from stream_executor.http.tally import Deltas, Tally, Totals
from stream_executor.model.codes import Code

MANUAL = {
    "wasm_executions_total": Kind.COUNTER,
    "wasm_executions_failed_total": Kind.COUNTER,
    "wasm_execution_duration_seconds": Kind.HISTOGRAM,
    "wasm_concurrent_executions": Kind.GAUGE,
    "wasm_auth_success_total": Kind.COUNTER,
    "wasm_auth_failed_total": Kind.COUNTER,
    "wasm_fuel_consumed_total": Kind.COUNTER,
}


def test_the_manuals_seven_metrics_exist_without_labels() -> None:
    table = {metric.name: metric for metric in TABLE}
    for name, kind in MANUAL.items():
        assert table[name].kind is kind
        assert table[name].label is None


def test_names_are_unique_and_say_their_unit_and_type() -> None:
    names = [metric.name for metric in TABLE]
    assert len(names) == len(set(names))
    for metric in TABLE:
        assert (metric.kind is Kind.COUNTER) == metric.name.endswith("_total")
        assert list(metric.buckets) == sorted(set(metric.buckets))
        assert bool(metric.buckets) == (metric.kind is Kind.HISTOGRAM)
        assert bool(metric.label) == bool(metric.values)
        assert metric.help.endswith(".")


def test_the_scale_up_threshold_is_a_bucket_bound() -> None:
    assert 0.1 in metrics.EXECUTION_DURATION.buckets


def test_every_code_is_a_series_at_zero_before_anything_happened() -> None:
    totals = Totals()
    for code in Code:
        assert totals.counters["wasm_executor_results_total", code] == 0
    assert totals.counters["wasm_executor_results_total", "succeeded"] == 0


def test_counts_of_all_workers_are_summed_and_outlive_them() -> None:
    totals = Totals()
    for worker in ("a", "b"):
        tally = Tally()
        tally.add(metrics.EXECUTIONS, 3)
        tally.add(metrics.RESULTS, label=Code.TIMEOUT)
        totals.absorb(worker, tally.take())
    totals.forget("a")
    assert totals.counters["wasm_executions_total", ""] == 6
    assert totals.counters["wasm_executor_results_total", "timeout"] == 2


def test_what_was_taken_once_is_not_counted_again() -> None:
    tally = Tally()
    tally.add(metrics.EXECUTIONS)
    tally.observe(metrics.EXECUTION_DURATION, 0.1)
    tally.take()
    assert tally.take() == Deltas()


def test_a_value_on_a_bound_belongs_to_that_bucket() -> None:
    tally = Tally()
    tally.observe(metrics.EXECUTION_DURATION, 0.1)
    tally.observe(metrics.EXECUTION_DURATION, 99, times=2)
    totals = Totals()
    totals.absorb("a", tally.take())
    buckets, total = totals.histograms["wasm_execution_duration_seconds"]
    assert buckets[metrics.EXECUTION_DURATION.buckets.index(0.1)] == 1
    assert buckets[-1] == 2
    assert total == pytest.approx(198.1)


def test_gauges_are_live_sums_and_vanish_with_their_worker() -> None:
    totals = Totals()
    for worker, running in (("a", 2), ("b", 5)):
        tally = Tally()
        tally.set(metrics.CONCURRENT, running)
        tally.set(metrics.LAST_COMMIT, 100 + running)
        totals.absorb(worker, tally.take())
    assert totals.gauge(metrics.CONCURRENT) == 7
    assert totals.gauge(metrics.LAST_COMMIT) == 105
    totals.forget("b")
    assert totals.gauge(metrics.CONCURRENT) == 2
    totals.forget("a")
    assert totals.gauges()["wasm_concurrent_executions"] == 0


def test_a_series_that_the_table_does_not_have_is_left_out() -> None:
    totals = Totals()
    totals.absorb(
        "a",
        Deltas(
            counters=[("wasm_executor_results_total", "made_up", 1)],
            histograms=[
                ("nothing", [1], 1),
                ("wasm_execution_duration_seconds", [1], 1),
            ],
        ),
    )
    assert ("wasm_executor_results_total", "made_up") not in totals.counters
    assert totals.histograms["wasm_execution_duration_seconds"][1] == 0
