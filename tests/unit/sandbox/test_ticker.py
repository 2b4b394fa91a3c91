"""Deadlines inside a child on a machine that lets its ticker wait."""

from __future__ import annotations

from stream_executor.sandbox.child import ticks_due


def test_ticks_that_a_job_missed_are_made_up() -> None:
    assert ticks_due(0.305, new_job=False) == 30


def test_time_before_a_job_began_is_not_its_own() -> None:
    assert ticks_due(0.305, new_job=True) == 1


def test_every_look_is_a_tick() -> None:
    assert ticks_due(-0.001, new_job=False) == ticks_due(0.0, new_job=True) == 1
