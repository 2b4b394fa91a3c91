"""Every job of every frame ends exactly once, through any order of events."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stream_executor.model.job import Report
from stream_executor.sandbox.ledger import AHEAD, Ledger
from stream_executor.sandbox.modules import Module
from stream_executor.sandbox.protocol import MAX_BATCH_JOBS, Reply
from stream_executor.sandbox.schedule import FairQueue, Segment, Submission
from tests.integration.sandbox import guests

JOB = guests.call(guests.ADD, "add", guests.i32(1, 2))
REPORT = Report(output=guests.i32(3), fuel_consumed=4)


class LedgerMachine(RuleBasedStateMachine):
    """A child that answers, stalls and dies against a queue that feeds it.

    The model is a count: each index of each submission is in the queue, in the
    ledger's keeping, or ended, and it is in one of these places once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.queue = FairQueue(MAX_BATCH_JOBS)
        self.ledger = Ledger()
        self.module = Module(bytes(32))
        self.ended: Counter[tuple[str, int]] = Counter()
        self.submitted: Counter[tuple[str, int]] = Counter()
        self.count = 0

    def end(self, segment: Segment, first: int, count: int) -> None:
        for index in range(first, first + count):
            self.ended[(segment.issuer, index)] += 1

    @rule(issuer=st.sampled_from("ab"), count=st.integers(1, 40))
    def submit(self, issuer: str, count: int) -> None:
        self.count += 1
        submission = Submission(f"{issuer}{self.count}", [JOB] * count, lambda *_: None)
        self.queue.push(Segment(submission, 0, count, self.module))
        self.submitted.update((submission.issuer, index) for index in range(count))

    @precondition(lambda self: self.queue and not self.ledger.cut)
    @rule()
    def send(self) -> None:
        if len(self.ledger.frames) < AHEAD and not self.ledger.exclusive:
            busy = bool(self.ledger.frames)
            chunk = self.queue.take(lambda head: not (head.alone and busy))
            if chunk:
                self.ledger.add(chunk, 0.0)

    @precondition(lambda self: self.ledger.frames)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        frame = self.ledger.frames[0]
        left = len(frame.jobs) - frame.reported
        least = max(frame.keep - frame.reported, 0)
        done = data.draw(st.booleans())
        count = data.draw(st.integers(least if done else 0, left))
        reply = Reply(frame.number, frame.reported, [REPORT] * count, done, 0)
        for segment, offset, reports in self.ledger.accept(reply, 0.0):
            self.end(segment, segment.start + offset, len(reports))

    @precondition(lambda self: self.ledger.frames and not self.ledger.cut)
    @rule(data=st.data())
    def stall(self, data: st.DataObject) -> None:
        frame = self.ledger.frames[0]
        index = data.draw(st.integers(0, len(frame.jobs) - 1))
        self.queue.push_front(self.ledger.take_back(index))

    @precondition(lambda self: self.ledger.frames)
    @rule(data=st.data(), timed_out=st.booleans())
    def die(self, data: st.DataObject, timed_out: bool) -> None:  # noqa: FBT001
        frame = self.ledger.frames[0]
        marker = data.draw(st.integers(0, self.ledger.next_number + 2))
        index = min(self.ledger.current(marker), len(frame.jobs) - 1)
        killed_for = frame.number + index if timed_out else None
        verdict = self.ledger.close(marker, killed_for)
        if verdict.blamed is not None:
            verdict.blamed.attempts += 1
            if timed_out or verdict.blamed.attempts > 1:
                assert len(verdict.blamed) == 1
                self.end(verdict.blamed, verdict.blamed.start, 1)
            else:
                verdict.again.insert(0, verdict.blamed)
        self.queue.push_front(verdict.again)
        self.ledger = Ledger()

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        places = Counter(self.ended)
        for queue in self.queue._queues.values():
            for segment in queue:
                span = range(segment.start, segment.stop)
                places.update((segment.issuer, i) for i in span)
        for frame in self.ledger.frames:
            for segment in frame.between(frame.reported, frame.keep):
                span = range(segment.start, segment.stop)
                places.update((segment.issuer, i) for i in span)
        assert places == self.submitted
        assert self.queue.jobs == sum(
            len(segment) for queue in self.queue._queues.values() for segment in queue
        )


LedgerMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestLedger = LedgerMachine.TestCase
