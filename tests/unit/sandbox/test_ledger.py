"""Who is blamed for a death, and what runs again."""

from __future__ import annotations

import pytest

from stream_executor.model.errors import MalformedError
from stream_executor.model.job import Report
from stream_executor.sandbox.ledger import Ledger
from stream_executor.sandbox.modules import Module
from stream_executor.sandbox.protocol import Reply
from stream_executor.sandbox.schedule import Segment, Submission
from tests.integration.sandbox import guests

JOB = guests.call(guests.ADD, "add", guests.i32(1, 2))
REPORT = Report(output=guests.i32(3), fuel_consumed=4)


def segment(count: int, issuer: str = "a") -> Segment:
    submission = Submission(issuer, [JOB] * count, lambda _first, _reports: None)
    return Segment(submission, 0, count, Module(bytes(32)))


def filled(*counts: int) -> Ledger:
    ledger = Ledger()
    for count in counts:
        ledger.add([segment(count)], 0.0)
    return ledger


def spans(segments: list[Segment]) -> list[tuple[int, int]]:
    return [(part.start, part.stop) for part in segments]


def reply(number: int, first: int, count: int, *, done: bool = False) -> Reply:
    return Reply(number, first, [REPORT] * count, done, 0)


def test_numbers_run_on_from_frame_to_frame() -> None:
    ledger = filled(3, 2)
    assert [frame.number for frame in ledger.frames] == [1, 4]
    assert ledger.next_number == 6


def test_a_crash_blames_the_marked_job_and_frees_the_others() -> None:
    ledger = filled(5, 2)
    ledger.accept(reply(1, 0, 1), 0.0)
    verdict = ledger.close(3, None)
    assert verdict.blamed is not None
    assert spans([verdict.blamed]) == [(2, 3)]
    assert spans(verdict.again) == [(1, 2), (3, 5), (0, 2)]
    assert [part.crashes for part in verdict.again] == [1, 1, 0]
    assert ledger.frames == []


@pytest.mark.parametrize(("marker", "blamed"), [(0, 1), (2, 1), (99, 4)])
def test_a_marker_can_only_point_into_the_oldest_frame(
    marker: int, blamed: int
) -> None:
    ledger = filled(5, 2)
    ledger.accept(reply(1, 0, 1), 0.0)
    verdict = ledger.close(marker, None)
    assert verdict.blamed is not None
    assert spans([verdict.blamed]) == [(blamed, blamed + 1)]


def test_a_kill_for_a_deadline_counts_no_crash() -> None:
    verdict = filled(3).close(2, 2)
    assert verdict.blamed is not None
    assert spans([verdict.blamed]) == [(1, 2)]
    assert [part.crashes for part in verdict.again] == [0, 0]


def test_a_child_that_went_on_before_the_kill_leaves_nobody_to_blame() -> None:
    verdict = filled(3).close(3, 2)
    assert verdict.blamed is None
    assert spans(verdict.again) == [(0, 3)]


def test_taken_back_jobs_are_nobodys_here() -> None:
    ledger = filled(5, 2)
    assert spans(ledger.take_back(1)) == [(2, 5), (0, 2)]
    assert ledger.cut
    assert not ledger.open
    (delivery,) = ledger.accept(reply(1, 0, 4, done=True), 0.0)
    assert len(delivery.reports) == 2
    assert ledger.accept(reply(6, 0, 0, done=True), 0.0) == []
    assert not ledger.cut


def test_a_death_after_taking_back_runs_nothing_twice() -> None:
    ledger = filled(5)
    ledger.take_back(1)
    verdict = ledger.close(2, None)
    assert verdict.blamed is not None
    assert spans([verdict.blamed]) == [(1, 2)]
    assert spans(verdict.again) == [(0, 1)]


def test_reports_beyond_what_was_taken_back_are_dropped_in_any_portions() -> None:
    ledger = filled(5)
    ledger.take_back(1)
    (delivery,) = ledger.accept(reply(1, 0, 3), 0.0)
    assert len(delivery.reports) == 2
    assert ledger.accept(reply(1, 3, 2, done=True), 0.0) == []


def test_a_death_with_every_job_reported_blames_nobody() -> None:
    """The report of a job that has one is never given twice."""
    ledger = filled(2)
    ledger.accept(reply(1, 0, 2), 0.0)
    verdict = ledger.close(2, None)
    assert (verdict.blamed, verdict.again) == (None, [])


def test_a_batch_cannot_end_before_its_kept_jobs_have_reports() -> None:
    with pytest.raises(MalformedError, match="end a longer batch"):
        filled(3).accept(reply(1, 0, 2, done=True), 0.0)


def test_a_reply_to_nothing_is_malformed() -> None:
    with pytest.raises(MalformedError, match="without a batch"):
        Ledger().accept(reply(1, 0, 0), 0.0)


def test_deliveries_follow_segments() -> None:
    ledger = Ledger()
    ledger.add([segment(2), segment(3)], 0.0)
    found = ledger.accept(reply(1, 0, 4), 0.0)
    assert [(d.offset, len(d.reports)) for d in found] == [(0, 2), (0, 2)]
    found = ledger.accept(reply(1, 4, 1, done=True), 0.0)
    assert [(d.offset, len(d.reports)) for d in found] == [(2, 1)]


def test_a_dead_idle_child_means_nothing() -> None:
    verdict = Ledger().close(0, None)
    assert (verdict.blamed, verdict.again) == (None, [])
