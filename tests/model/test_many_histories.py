"""Tens of thousands of histories from numbers: nothing lost, doubled or contradicted.

What each is held against: ``tests/history`` (what a reader of the three topics sees)
and ``oracle`` (what each record must be answered with). A failure is shortened and
printed as the steps and effects that lead to it; ``Step`` tuples can be replayed with
``generating.failure_of``.
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.model.generating import failure_of, generated, play_all
from tests.model.run import Step

HISTORIES = int(os.environ.get("WASM_EXECUTOR_TEST_HISTORIES", "20000"))
# Two more processes than cores gain nothing; slices keep them evenly busy.
SLICE = 500


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_history_breaks_a_promise() -> None:
    if HISTORIES <= SLICE:
        failure = play_all(0, HISTORIES)
        assert failure is None, failure
        return
    slices = range(0, HISTORIES, SLICE)
    counts = [min(SLICE, HISTORIES - first) for first in slices]
    # Not forked: a fork would share this process's threads' locks.
    context = multiprocessing.get_context("spawn")
    workers = min(os.cpu_count() or 1, len(counts))
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        failures = [f for f in pool.map(play_all, slices, counts) if f is not None]
    assert not failures, failures[0]


def test_a_history_is_the_same_at_every_run() -> None:
    """Else a failure could not be found again."""
    assert generated(7) == generated(7)
    assert failure_of(generated(7)) is None


def test_a_history_fails_where_it_must() -> None:
    """The model's own sensitivity: a log that lost a leaf is not called right."""
    steps = [
        Step("submit"), Step("wait"), Step("fetch"), Step("report"), Step("wait"),
        Step("tear"),
    ]  # fmt: skip
    failure = failure_of(steps)
    assert failure is not None
    assert "lost" in str(failure)
