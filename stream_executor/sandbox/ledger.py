"""What a child holds, and what becomes of each job when it answers, stalls or dies.

Pure bookkeeping over frames: every index of every frame ends in exactly one of three
ways: its report is delivered, it is taken back to run elsewhere, or it is blamed.
The only outside fact besides replies is the marker, the number of the job that the
child says it started last; it comes from a process that may be hostile, so it is
clamped to what the child can hold, and can only move blame within the oldest frame,
whose jobs are all one issuer's.

Not here: clocks, processes, and what a blamed job is told (``pool``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stream_executor.model.errors import MalformedError
from stream_executor.sandbox.protocol import Reply, validate_reply

if TYPE_CHECKING:
    from stream_executor.model.job import Job, Report
    from stream_executor.sandbox.schedule import Segment

AHEAD = 2
"""Frames that a child holds at most: one runs, one waits in its socket."""


class Frame:
    """One batch on its way through a child.

    Attributes:
        number: of its first job, as the child counts.
        reported: how many of its jobs have a report.
        keep: jobs from here on were taken back; their reports are dropped.
        since: when it became the child's oldest (the pool's clock).
    """

    __slots__ = ("issuer", "jobs", "keep", "number", "reported", "segments", "since")

    def __init__(self, number: int, segments: list[Segment], since: float) -> None:
        self.number, self.segments, self.since = number, segments, since
        self.issuer = segments[0].issuer
        self.jobs: list[Job] = []
        for segment in segments:
            self.jobs += segment.jobs
        self.reported, self.keep = 0, len(self.jobs)

    def between(self, start: int, stop: int) -> list[Segment]:
        """Give its jobs [start, stop), by index in the frame, as segments."""
        found, at = [], 0
        for segment in self.segments:
            first, last = max(start, at), min(stop, at + len(segment))
            if first < last:
                offset = segment.start - at
                found.append(segment.part(first + offset, last + offset))
            at += len(segment)
        return found


class Delivery(NamedTuple):
    """Reports of consecutive jobs of one segment, from job ``offset`` of it on."""

    segment: Segment
    offset: int
    reports: list[Report]


class Verdict(NamedTuple):
    """What a child's death means: at most one job is blamed, others run again."""

    blamed: Segment | None
    again: list[Segment]


class Ledger:
    """Everything that one child holds, oldest first.

    Attributes:
        next_number: of the next job that it will be sent.
        cut: it holds taken-back jobs and gets nothing more until it is through.
        exclusive: its only frame must stay alone.
    """

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.next_number = 1
        self.cut = self.exclusive = False

    @property
    def open(self) -> bool:
        """Whether one more frame can wait behind the running one."""
        return 0 < len(self.frames) < AHEAD and not (self.cut or self.exclusive)

    def serves(self, issuer: str) -> bool:
        """Whether it holds anything of this issuer."""
        return any(frame.issuer == issuer for frame in self.frames)

    def holds(self, modules: frozenset[bytes]) -> bool:
        """Whether it holds a job on one of these modules (digests)."""
        return any(
            segment.module.s256 in modules
            for frame in self.frames
            for segment in frame.segments
        )

    def add(self, segments: list[Segment], now: float) -> Frame:
        """Take in a chunk; give the frame to send."""
        frame = Frame(self.next_number, segments, now)
        self.next_number += len(frame.jobs)
        self.exclusive = segments[0].alone
        self.frames.append(frame)
        return frame

    def accept(self, reply: Reply, now: float) -> list[Delivery]:
        """Validate a reply and book it; give what to deliver.

        Raises:
            MalformedError: the reply is not what an honest child sends now.
        """
        if not self.frames:
            raise MalformedError("a reply without a batch")
        frame = self.frames[0]
        validate_reply(reply, frame.number, frame.jobs, frame.reported)
        first = frame.reported
        last = first + len(reply.reports)
        if reply.done and last < frame.keep:
            raise MalformedError(f"{last} reports end a longer batch")
        frame.reported = last
        if reply.done:
            self.frames.pop(0)
            if self.frames:
                self.frames[0].since = now
            else:
                self.cut = self.exclusive = False
        wanted = max(first, min(last, frame.keep))
        return _deliveries(frame, first, wanted, reply.reports)

    def current(self, marker: int) -> int:
        """Give the index in the oldest frame of the job that the child is at.

        It is clamped to the frame; equal to its length if the marker says that the
        frame is behind it (its last reply is then on its way).
        """
        frame = self.frames[0]
        index = max(marker - frame.number, frame.reported)
        return min(index, len(frame.jobs))

    def take_back(self, index: int) -> list[Segment]:
        """Take everything behind job ``index`` of the oldest frame back, in order."""
        frame = self.frames[0]
        keep = min(frame.keep, max(index + 1, frame.reported))
        behind = frame.between(keep, frame.keep)
        frame.keep = keep
        for later in self.frames[1:]:
            behind += later.between(later.reported, later.keep)
            later.keep = later.reported
        self.cut = self.cut or bool(behind)
        return behind

    def close(self, marker: int, killed_for: int | None) -> Verdict:
        """Decide for every job after the child's death; the ledger is empty then.

        Args:
            marker: the last one, read after the end.
            killed_for: number of the job for whose deadline it was killed, if so. If
                the child had gone on just before, nobody is blamed.
        """
        if not self.frames:
            return Verdict(None, [])
        frame, *later = self.frames
        index = min(self.current(marker), len(frame.jobs) - 1)
        crashed = killed_for is None
        blame = frame.reported <= index < frame.keep
        blame = blame and (crashed or frame.number + index == killed_for)
        if blame:
            again = frame.between(frame.reported, index)
            again += frame.between(index + 1, frame.keep)
            (blamed,) = frame.between(index, index + 1)
        else:
            again, blamed = frame.between(frame.reported, frame.keep), None
        if crashed:
            for segment in again:
                segment.crashes += 1
        for follower in later:
            again += follower.between(follower.reported, follower.keep)
        self.frames = []
        return Verdict(blamed, again)


def _deliveries(
    frame: Frame, first: int, last: int, reports: list[Report]
) -> list[Delivery]:
    """Give the reports of jobs [first, last) by segment."""
    if len(frame.segments) == 1:
        wanted = reports if last - first == len(reports) else reports[: last - first]
        return [Delivery(frame.segments[0], first, wanted)] if wanted else []
    found, at = [], 0
    for segment in frame.segments:
        start, stop = max(first, at), min(last, at + len(segment))
        if start < stop:
            part = reports[start - first : stop - first]
            found.append(Delivery(segment, start - at, part))
        at += len(segment)
    return found
