"""Fair turns, full frames, and jobs that must be alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from stream_executor.model.job import WasiInput
from stream_executor.sandbox.modules import Module
from stream_executor.sandbox.schedule import (
    CHUNK_BYTES,
    CHUNK_US,
    FairQueue,
    Segment,
    Submission,
    segments_of,
)
from tests.integration.sandbox import guests

if TYPE_CHECKING:
    from stream_executor.model.job import Job

JOB = guests.call(guests.ADD, "add", guests.i32(1, 2))
MODULE = Module(bytes(32))


def segment(issuer: str, count: int, job: Job = JOB, us: float = 1.0) -> Segment:
    module = Module(bytes(32))
    module.estimate_us = us
    submission = Submission(issuer, [job] * count, lambda _first, _reports: None)
    return Segment(submission, 0, count, module)


def anyone(_head: Segment) -> bool:
    return True


def shape(chunk: list[Segment]) -> list[tuple[str, int, int]]:
    return [(part.issuer, part.start, part.stop) for part in chunk]


def test_a_submission_is_cut_where_the_module_changes() -> None:
    jobs = [msgspec.structs.replace(JOB, module_s256=bytes([n] * 32)) for n in b"aab"]
    found: list[bytes] = []

    def find(digest: bytes) -> Module:
        found.append(digest)
        return Module(digest)

    parts = segments_of(Submission("i", jobs, lambda *_: None), find)
    assert [(part.start, part.stop) for part in parts] == [(0, 2), (2, 3)]
    assert found == [b"a" * 32, b"b" * 32]


def test_issuers_take_turns_whatever_they_queued() -> None:
    queue = FairQueue(10)
    queue.push(segment("a", 25))
    queue.push(segment("b", 5))
    turns = []
    while chunk := queue.take(anyone):
        turns += shape(chunk)
    assert turns == [("a", 0, 10), ("b", 0, 5), ("a", 10, 20), ("a", 20, 25)]
    assert (queue.jobs, bool(queue)) == (0, False)


def test_an_issuer_that_may_not_go_is_passed_over() -> None:
    queue = FairQueue(10)
    queue.push(segment("a", 1))
    queue.push(segment("b", 1))
    assert shape(queue.take(lambda head: head.issuer == "b")) == [("b", 0, 1)]
    assert queue.take(lambda _head: False) == []
    assert not queue.others_wait("a")
    assert queue.others_wait("b")


def test_a_frame_holds_a_few_milliseconds_and_at_least_one_job() -> None:
    queue = FairQueue(256)
    queue.push(segment("a", 10, us=CHUNK_US / 3))
    assert shape(queue.take(anyone)) == [("a", 0, 3)]
    queue = FairQueue(256)
    queue.push(segment("a", 10, us=CHUNK_US * 9))
    assert shape(queue.take(anyone)) == [("a", 0, 1)]


def test_small_submissions_of_one_issuer_share_a_frame() -> None:
    queue = FairQueue(256)
    for _ in range(3):
        queue.push(segment("a", 2))
    assert shape(queue.take(anyone)) == [("a", 0, 2)] * 3


def test_a_frame_is_bounded_in_bytes_files_included() -> None:
    files = (("/a", bytes(CHUNK_BYTES // 2)),)
    large = guests.command(guests.CAT, wasi=WasiInput((), (), files))
    queue = FairQueue(256)
    queue.push(segment("a", 5, large))
    assert shape(queue.take(anyone)) == [("a", 0, 2)]
    huge = guests.run_bytes(guests.ECHO, bytes(CHUNK_BYTES + 1))
    queue = FairQueue(256)
    queue.push(segment("a", 2, huge))
    queue.push(segment("a", 1))
    assert shape(queue.take(anyone)) == [("a", 0, 1)]
    assert queue.jobs == 2


def test_suspects_run_alone_one_by_one() -> None:
    queue = FairQueue(256)
    suspect = segment("a", 3)
    suspect.crashes = 2
    queue.push(segment("a", 2))
    queue.push(suspect)
    assert shape(queue.take(anyone)) == [("a", 0, 2)]
    chunk = queue.take(anyone)
    assert shape(chunk) == [("a", 0, 1)]
    assert chunk[0].alone
    assert queue.jobs == 2


def test_what_is_put_back_comes_first_and_in_order() -> None:
    queue = FairQueue(256)
    tail = segment("a", 4)
    queue.push(tail)
    first, second = tail.part(0, 1), tail.part(1, 2)
    queue.push_front([first, second])
    assert shape(queue.take(anyone))[:2] == [("a", 0, 1), ("a", 1, 2)]
