"""The figures that are shown are those that were measured, not the better ones."""

from __future__ import annotations

import pytest

from benchmarks.figures import PLAIN, Trial, summary

OURS = "wasm-executor, WORKERS=1"


def pair(ours: float, plain: float) -> tuple[Trial, Trial]:
    return (
        Trial(OURS, "HS256 add", ours, 1e6 / ours, worker_us=50.0),
        Trial(PLAIN, "HS256 add", plain, 1e6 / plain),
    )


def test_of_two_runs_neither_is_preferred() -> None:
    ours, plain = summary([pair(15_000.0, 3_000.0), pair(10_000.0, 4_000.0)])
    assert ours.middle.req_s == 12_500.0
    assert plain.middle.req_s == 3_500.0
    assert ours.middle.worker_us == 50.0
    assert plain.middle.worker_us is None


def test_a_ratio_is_that_of_one_backlog() -> None:
    ours, plain = summary([pair(15_000.0, 3_000.0), pair(10_000.0, 4_000.0)])
    assert ours.ratios == pytest.approx([5.0, 2.5])
    assert plain.ratios == [1.0, 1.0]


def test_workloads_and_programs_are_kept_apart() -> None:
    first, second = pair(9_000.0, 3_000.0), pair(4_000.0, 2_000.0)
    other = (
        second[0]._replace(workload="EdDSA add"),
        second[1]._replace(workload="EdDSA add"),
    )
    assert [row.middle.req_s for row in summary([first, other])] == [
        9_000.0, 3_000.0, 4_000.0, 2_000.0,
    ]  # fmt: skip
