"""Whose jobs run next: queues by issuer, fair turns, frames of a few milliseconds.

Values and one data structure, no clock and no I/O. A ``Submission`` is what a caller
handed in; a ``Segment`` is a run of its jobs on one module; a chunk is a list of
segments of one issuer that fill one frame.

Not here: processes (``pool``), compiling (``modules``).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream_executor.model.job import Job, Report
    from stream_executor.sandbox.modules import Module

CHUNK_US = 3_000
"""Estimated work of one frame: far above a hop's cost, below anyone's patience."""
CHUNK_BYTES = 4 * 1024 * 1024
SUSPECT_CRASHES = 2


class Submission:
    """Jobs that were handed in together, and whom to tell.

    Attributes:
        on_reports: ``(first index, reports)``, each index exactly once.
    """

    __slots__ = ("issuer", "jobs", "on_reports")

    def __init__(
        self,
        issuer: str,
        jobs: list[Job],
        on_reports: Callable[[int, list[Report]], None],
    ) -> None:
        self.issuer, self.jobs, self.on_reports = issuer, jobs, on_reports


class Segment:
    """Jobs [start, stop) of a submission, all on one module.

    Attributes:
        attempts: how often its one job died alone with its process.
        crashes: how often a frame that held it died; from ``SUSPECT_CRASHES`` on its
            jobs run alone, so that blame cannot be shifted for ever.
    """

    __slots__ = ("attempts", "crashes", "module", "start", "stop", "submission")

    def __init__(
        self,
        submission: Submission,
        start: int,
        stop: int,
        module: Module,
        crashes: int = 0,
        attempts: int = 0,
    ) -> None:
        self.submission, self.start, self.stop = submission, start, stop
        self.module, self.crashes, self.attempts = module, crashes, attempts

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def issuer(self) -> str:
        """Whose it is."""
        return self.submission.issuer

    @property
    def alone(self) -> bool:
        """Whether each of its jobs needs a frame and a process of its own."""
        return self.attempts > 0 or self.crashes >= SUSPECT_CRASHES

    @property
    def jobs(self) -> list[Job]:
        """The jobs themselves."""
        return self.submission.jobs[self.start : self.stop]

    def part(self, start: int, stop: int) -> Segment:
        """Give the jobs [start, stop) of the submission, with the same history."""
        return Segment(
            self.submission, start, stop, self.module, self.crashes, self.attempts
        )


def segments_of(
    submission: Submission, find: Callable[[bytes], Module]
) -> list[Segment]:
    """Cut a submission into runs of one module each, in order."""
    segments: list[Segment] = []
    jobs = submission.jobs
    start, digest = 0, jobs[0].module_s256
    for index, job in enumerate(jobs):
        if job.module_s256 != digest:
            segments.append(Segment(submission, start, index, find(digest)))
            start, digest = index, job.module_s256
    segments.append(Segment(submission, start, len(jobs), find(digest)))
    return segments


class FairQueue:
    """Segments by issuer; issuers take turns, each gets one chunk a turn.

    Attributes:
        jobs: how many jobs wait in it.
    """

    def __init__(self, max_jobs: int) -> None:
        self._queues: dict[str, deque[Segment]] = {}  # in the order of their turns
        self._max_jobs = max_jobs
        self.jobs = 0

    def __bool__(self) -> bool:
        return bool(self._queues)

    def push(self, segment: Segment) -> None:
        """Add to the end of its issuer's queue."""
        self.jobs += len(segment)
        self._queues.setdefault(segment.issuer, deque()).append(segment)

    def push_front(self, segments: list[Segment]) -> None:
        """Put segments back, in order, before everything else of their issuers."""
        for segment in reversed(segments):
            self.jobs += len(segment)
            self._queues.setdefault(segment.issuer, deque()).appendleft(segment)

    def remove(self, modules: frozenset[bytes]) -> list[Segment]:
        """Take out everything on these modules (digests), in no promised order."""
        removed: list[Segment] = []
        for issuer, queue in list(self._queues.items()):
            kept = deque(s for s in queue if s.module.s256 not in modules)
            removed += [s for s in queue if s.module.s256 in modules]
            if kept:
                self._queues[issuer] = kept  # keeps its turn
            else:
                del self._queues[issuer]
        self.jobs -= sum(map(len, removed))
        return removed

    def others_wait(self, issuer: str) -> bool:
        """Whether anybody but this issuer has something queued."""
        return len(self._queues) > (issuer in self._queues)

    def take(self, may: Callable[[Segment], bool]) -> list[Segment]:
        """Give the next chunk, [] if no issuer may go.

        Args:
            may: asked with the first segment of each issuer, in turn order.
        """
        queue = next((q for q in self._queues.values() if may(q[0])), None)
        if queue is None:
            return []
        issuer = queue[0].issuer
        chunk = self._cut(queue)
        del self._queues[issuer]
        if queue:
            self._queues[issuer] = queue  # behind the others
        self.jobs -= sum(map(len, chunk))
        return chunk

    def _cut(self, queue: deque[Segment]) -> list[Segment]:
        """Take segments off the front until the chunk is full."""
        if queue[0].alone:
            return [_split(queue, 1)]
        chunk: list[Segment] = []
        time_us, room, size = float(CHUNK_US), self._max_jobs, CHUNK_BYTES
        while queue and room and size > 0:
            head = queue[0]
            fit = int(time_us / head.module.estimate_us)
            if chunk and (fit < 1 or head.alone):
                break
            count, size = _fitting(head, min(max(fit, 1), room), size, first=not chunk)
            if not count:
                break
            chunk.append(_split(queue, count))
            room -= count
            time_us -= count * head.module.estimate_us
        return chunk


def _fitting(head: Segment, most: int, size: int, *, first: bool) -> tuple[int, int]:
    """Give how many jobs of a segment fit in ``size`` bytes, and what is then left.

    The very first job of a chunk always fits.
    """
    count = min(most, len(head))
    start = head.start
    for taken, job in enumerate(head.submission.jobs[start : start + count]):
        size -= len(job.payload)
        if job.wasi is not None:
            size -= sum(len(data) for _, data in job.wasi.files)
        if size < 0:
            return (1 if first and not taken else taken), 0
    return count, size


def _split(queue: deque[Segment], count: int) -> Segment:
    """Take ``count`` jobs off the queue's first segment."""
    head = queue[0]
    if count == len(head):
        return queue.popleft()
    part = head.part(head.start, head.start + count)
    head.start += count
    return part
