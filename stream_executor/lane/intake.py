"""What a lane has taken in during one life: fetched, admitted, running, finished.

The middle of the lane's order of effects (``lane``), with the same numbers: 5 admit in
offset order, 6 run, 7 report into its slot. Each life of a lane, from one recovery to
the next, has an intake of its own; what comes for one that has ended is dropped.

Not here: decisions (``admission``), order (``window``), and the lane's life and commits
(``lane``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING

from stream_executor.lane.admission import Verified, quarantined
from stream_executor.lane.entries import (
    Admitted,
    Attempt,
    ContextChange,
    Entry,
    Gap,
    Refused,
)
from stream_executor.lane.suspicion import MAX_ATTEMPTS
from stream_executor.lane.window import InFlightWindow
from stream_executor.model.codes import Code
from stream_executor.model.errors import HoleError, IntegrityError
from stream_executor.model.record import EmptyRun, end_of, held_bytes
from stream_executor.model.request import InlineModule

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from stream_executor.auth.token import Place
    from stream_executor.lane.admission import Admission, AdmissionContext
    from stream_executor.lane.suspicion import Suspicion
    from stream_executor.lane.world import LaneWorld
    from stream_executor.model.errors import ExecutorError
    from stream_executor.model.job import Job, Report
    from stream_executor.model.record import Range, Record

# Jobs and their slots, by issuer: one issuer a batch.
Jobs = dict[str, tuple[list["Job"], list[int]]]
# A gap or a change of context without an answer is sealed when the lane is idle.
QUIET_SEAL_S = 10.0


class Intake:
    """Takes a partition's records in; gives what may be committed.

    Not thread-safe: everything happens on the worker's loop.

    Args:
        world: the worker.
        place: the requests partition.
        admission: of this life.
        context: what decisions rested on when the life began.
        suspicion: what is to be tried alone.
        expected: the first offset that is not answered.

    Attributes:
        expected: the next offset to admit.
        failure: why this life must end.
        open: whether records are still taken.
        wake: set when something finished, failed or closed.
    """

    def __init__(
        self,
        world: LaneWorld,
        place: Place,
        admission: Admission,
        context: AdmissionContext,
        suspicion: Suspicion,
        expected: int,
    ) -> None:
        self.expected = expected
        self.failure: BaseException | None = None
        self.open = True
        self.wake = asyncio.Event()
        self.window = InFlightWindow()
        self.inbox: deque[Record] = deque()
        self._world = world
        self._place = place
        self._admission = admission
        self._context = context
        self._suspicion = suspicion
        self._waiting: asyncio.Task[None] | None = None
        self._ended = False
        self._refetched_at = -1
        self._quiet_since: float | None = None
        self._announcing = self._announced = -1
        self._committing = False
        self._all_settled = asyncio.Event()
        self._oldest = (-1, 0.0)

    # -- how it stands --------------------------------------------------------

    @property
    def congested(self) -> bool:
        """Whether fetching should pause: too much in flight, by count or bytes."""
        settings = self._world.settings
        if self.in_flight >= settings.window_requests:
            return True
        # Empty unless admission waits, so it is cheaper to count it than to keep count.
        inbox_bytes = sum(map(held_bytes, self.inbox))
        return self.window.size_bytes + inbox_bytes >= settings.window_bytes

    @property
    def in_flight(self) -> int:
        """Records fetched and not yet committed."""
        return len(self.window) + len(self.inbox)

    @property
    def fetch_position(self) -> int:
        """The offset that is wanted next from the broker."""
        return end_of(self.inbox[-1]) if self.inbox else self.expected

    @property
    def oldest_ms(self) -> int:
        """Append time of the oldest request that is held; 0 if there is none."""
        waiting = self.inbox[0].timestamp if self.inbox else 0
        return self.window.oldest_ms or waiting

    def stuck_for(self, now: float) -> float:
        """Give for how many seconds the oldest request has not moved; 0 if none."""
        slot = self.window.first_slot
        if slot != self._oldest[0] or not self.in_flight or not self.open:
            self._oldest = (slot, now)
        return now - self._oldest[1]

    # -- requests -------------------------------------------------------------

    def feed(self, records: Sequence[Record]) -> None:
        """Take fetched records, in order; admits at once unless it must wait."""
        if not self.open:
            return
        self.inbox.extend(records)
        self.go_on()

    def reached(self, position: int) -> None:
        """Take note that the fetch position is here although no record came.

        Offsets skipped by it must be proven empty before they may be sealed.
        """
        idle = self._waiting is None and not self.inbox and self.open
        if idle and position > self.expected:
            self._wait_for(self._prove(position))

    def fail(self, error: BaseException) -> None:
        """End this life: the partition cannot be fetched, or a decision failed."""
        self.failure = error
        self.wake.set()

    def do_without(self, s256: bytes, error: ExecutorError) -> None:
        """Give up if a request waits for this module, which cannot be had now.

        It is no request's fault, so none is answered for it; the log decides anew.
        """
        for entry in self.window.held:
            if isinstance(entry, Admitted) and entry.job.module_s256 == s256:
                self.fail(error)
                return

    def _admit_inbox(self) -> None:
        """Admit until the inbox is empty or something must be waited for (5, 6)."""
        if self.failure is not None or not self.open:
            return  # what is admitted now would be forgotten, its jti spent
        # Without a record nothing rests on a new context yet.
        context = self._look_at_context() if self.inbox else self._context
        now_ms = self._world.now_ms()
        jobs: Jobs = {}
        try:
            while self.inbox and self._admit_next(context, now_ms, jobs):
                pass
        except Exception as error:  # noqa: BLE001 - this lane's, never the fetch loop's
            self.fail(error)
            return
        self._submit(jobs)
        if self.window.finished:
            self.wake.set()

    def _admit_next(self, context: AdmissionContext, now_ms: int, jobs: Jobs) -> bool:
        """Admit the first record of the inbox; False if it must wait."""
        record = self.inbox[0]
        if record.offset != self.expected:
            if record.offset > self.expected:
                self._wait_for(self._prove(record.offset))
                return False
            self._drop_answered()  # fetched once more
            return True
        if not self._announce(record.offset):
            return False
        decision = self._admission.verify(record, context, now_ms)
        if isinstance(decision, Verified):
            placed: Admitted | Refused | None
            if self._attempts_at(record.offset) > MAX_ATTEMPTS:
                placed = quarantined(decision)
            else:
                placed = self._admission.place_module(
                    decision, context, view_confirmed=False
                )
            if placed is None:
                self._wait_for(self._place_later(decision))
                return False
            self._add(placed, decision, jobs)
        else:
            if decision.code == Code.AUTH_UNKNOWN_KEY:
                refresh = self._world.basis.refresh_keys(context)
                if refresh is not None:  # a key published a moment ago: look again
                    self._wait_for(refresh)
                    return False
            self._add(decision, None, jobs)
        self._drop_answered()
        return True

    def _attempts_at(self, offset: int) -> int:
        """Give which attempt at this request this would be; 0 if it is no suspect."""
        suspicion = self._suspicion
        return suspicion.number_of(offset) if offset < suspicion.until else 0

    def _announce(self, offset: int) -> bool:
        """Whether this request may be tried now; a suspect is announced first.

        It goes alone: behind what is finished, before anything else.
        """
        number = self._attempts_at(offset)
        if not 0 < number <= MAX_ATTEMPTS or self._announced == offset:
            return True
        alone = self.window.finished == len(self.window)
        if alone and self._announcing != offset:
            self._announcing = offset
            self.window.add(Attempt(offset, number))
        return False

    def _drop_answered(self) -> None:
        """Drop the first record of the inbox, or what is answered of a run."""
        record = self.inbox.popleft()
        if isinstance(record, EmptyRun) and record.end > self.expected:
            self.inbox.appendleft(record.since(self.expected))

    def _add(
        self, entry: Admitted | Refused, verified: Verified | None, jobs: Jobs
    ) -> None:
        slot = self.window.add(entry)
        if not isinstance(entry, Admitted):
            self.expected = entry.offset + entry.count
            return
        self.expected = entry.offset + 1
        if entry.inline and verified is not None:
            module = verified.request.module
            assert isinstance(module, InlineModule)  # noqa: S101 - what inline means
            self._world.modules.hold_inline(entry.job.module_s256, module.bytes)
        of_issuer = jobs.get(entry.principal.iss)
        if of_issuer is None:
            of_issuer = jobs[entry.principal.iss] = ([], [])
        of_issuer[0].append(entry.job)
        of_issuer[1].append(slot)

    def _submit(self, jobs: Jobs) -> None:
        for issuer, (batch, slots) in jobs.items():
            self._world.sandbox.submit(issuer, batch, partial(self._reported, slots))

    def _reported(self, slots: list[int], first: int, reports: list[Report]) -> None:
        """Put reports into their slots (7); once it has ended nobody looks there."""
        if self.window.finish(slots[first : first + len(reports)], reports):
            self.wake.set()

    def _look_at_context(self) -> AdmissionContext:
        """Give what decisions rest on now; the log hears of a change before them."""
        before, now = self._context, self._world.basis.context()
        self._context = now
        if now is not before and now.digests != before.digests:
            self._add_quietly(ContextChange(now.digests))
        return now

    # -- what admission must wait for ------------------------------------------

    def _wait_for(self, work: Awaitable[None]) -> None:
        async def then_go_on() -> None:
            try:
                await work
                if not self._ended:
                    self._waiting = None
                    self._admit_inbox()
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001 - handed to the lane's task
                if not self._ended:
                    self._waiting = None
                    self.fail(error)

        self._waiting = asyncio.create_task(then_go_on())
        if isinstance(work, Coroutine):  # cancelled before it began, it is closed
            self._waiting.add_done_callback(lambda _: work.close())

    async def _place_later(self, verified: Verified) -> None:
        """Decide on a module that the control view does not know, once it is sure."""
        await self._world.basis.confirm_view()
        if not self.open:
            return  # the inbox is gone: the next owner decides
        context = self._look_at_context()
        placed = self._admission.place_module(verified, context, view_confirmed=True)
        assert placed is not None  # noqa: S101 - a confirmed view always decides
        jobs: Jobs = {}
        self._add(placed, verified, jobs)
        self.inbox.popleft()
        self._submit(jobs)

    async def _prove(self, until: int) -> None:
        """Prove that [expected, until) holds no committed record; else fetch anew."""
        start, world = self.expected, self._world
        topic, partition = self._place.topic, self._place.partition
        try:
            ranges = await world.prover.prove_gap(topic, partition, start, until)
        except IntegrityError as error:
            if self._ended:
                raise
            if self._refetched_at == start:
                if isinstance(error, HoleError):
                    await self._settle_before(error)
                raise
            # The client skipped records that exist: once that may be its own state.
            self._refetched_at = start
            self.inbox.clear()
            world.seek(partition, start)
            return
        if not self._ended:
            self._pass(ranges, until)

    def _pass(self, ranges: Sequence[Range], until: int) -> None:
        for found in ranges:
            self._add_quietly(Gap(found.start, found.end))
        self.expected = until
        self.wake.set()

    async def _settle_before(self, hole: HoleError) -> None:
        """Commit all that lies before a hole: there the lane's way back begins."""
        topic, partition = self._place.topic, self._place.partition
        ranges = await self._world.prover.prove_gap(
            topic, partition, self.expected, hole.start
        )
        self._pass(ranges, hole.start)
        while len(self.window) or self._committing:
            self._all_settled.clear()
            await self._all_settled.wait()

    def _add_quietly(self, entry: Gap | ContextChange) -> None:
        """Add what is sealed with the next answer, or alone after a while."""
        self.window.add(entry)
        if self._quiet_since is None:
            self._quiet_since = asyncio.get_running_loop().time()

    # -- what the lane commits ----------------------------------------------------

    async def wait(self) -> None:
        """Return when there may be something to commit.

        Raises:
            BaseException: why this life must end.
        """
        timeout_s = QUIET_SEAL_S if self._quiet_since is not None else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.wake.wait()
        self.wake.clear()
        if self.failure is not None:
            raise self.failure

    @property
    def has_work(self) -> bool:
        """Whether the finished prefix is worth a transaction now."""
        if not self.window.finished:
            return False
        if not self.open or any(
            isinstance(entry, Admitted | Refused | Attempt)
            for entry in self.window.peek()
        ):
            return True
        now = asyncio.get_running_loop().time()
        return self._quiet_since is not None and now - self._quiet_since >= QUIET_SEAL_S

    @property
    def drained(self) -> bool:
        """Whether it is closed and nothing finished or running is left."""
        return not self.open and len(self.window) == 0

    def take(self) -> tuple[list[Entry], list[Report]]:
        """Take the finished prefix, as much as one transaction carries."""
        settings = self._world.settings
        self._committing = True
        taken = self.window.take(settings.commit_requests, settings.commit_bytes)
        # What one transaction did not carry may be a gap that no answer comes after.
        left = self.window.finished > 0
        self._quiet_since = asyncio.get_running_loop().time() if left else None
        return taken

    def settled(self, entries: Sequence[Entry]) -> None:
        """Take note that these are committed."""
        self._committing = False
        self._all_settled.set()
        for entry in entries:
            if isinstance(entry, Admitted) and entry.inline:
                self._world.modules.release_inline(entry.job.module_s256)
            elif isinstance(entry, Attempt):
                self._announced = entry.offset

    def go_on(self) -> None:
        """Admit what had to wait for a commit."""
        if self._waiting is None:
            self._admit_inbox()

    # -- its end ----------------------------------------------------------------

    def close(self) -> None:
        """Take nothing more; what runs may finish."""
        self.open = False
        self.inbox.clear()
        self.wake.set()

    def end(self) -> None:
        """Drop everything: another life begins with the log."""
        self.close()
        self._ended = True
        for entry in self.window.held:
            if isinstance(entry, Admitted) and entry.inline:
                self._world.modules.release_inline(entry.job.module_s256)
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
