"""One lane: the actor that owns a requests partition while it may.

Decisions are pure functions elsewhere (``admission``, ``conclusion``, ``window``,
``recovery``); here their effects happen, in this order and no other:

acquire   1 fence   2 recover   3 lane.acquired as the first transaction   4 seek
request   5 admit in offset order   6 run   7 report into its slot
commit    8 conclude the longest finished prefix   9 one transaction, every send
          awaited   10 move the head   11 count
release   12 stop intake   13 commit what is finished, with lane.released   14 close

A crash between any two leaves either nothing or a committed transaction; the next
owner's step 2 tells which. After any failure of 9 nothing in memory is believed: the
lane goes back to 1. Three classes of failure, three ways on: fenced (wait to be
assigned anew), indefinite (again at once), refused by the broker or broken
integrity (blocked with back-off, or halted for good).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from stream_executor.audit.digests import Salter
from stream_executor.auth.replay import ReplayWindow
from stream_executor.auth.token import Place
from stream_executor.lane.admission import (
    Admission,
    AdmissionContext,
    Verified,
    quarantined,
)
from stream_executor.lane.conclusion import LaneIdentity, Transaction, conclude
from stream_executor.lane.entries import (
    Admitted,
    Attempt,
    ContextChange,
    Gap,
    Refused,
)
from stream_executor.lane.pace import CommitPace
from stream_executor.lane.recovery import Recovered, recover
from stream_executor.lane.suspicion import MAX_ATTEMPTS, Suspicion
from stream_executor.lane.window import InFlightWindow
from stream_executor.model.codes import Code
from stream_executor.model.errors import (
    BrokerRefusedError,
    ClockError,
    ExecutorError,
    FencedError,
    IntegrityError,
    MalformedError,
    TransientError,
)
from stream_executor.model.lanes import LaneState
from stream_executor.model.request import InlineModule

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from stream_executor.lane.audit_log import Expected
    from stream_executor.lane.head import LaneHead
    from stream_executor.lane.ports import TransactionalWriter
    from stream_executor.lane.world import LaneWorld
    from stream_executor.model.job import Job, Report
    from stream_executor.model.record import Record

# Jobs and their slots, by issuer: one issuer a batch.
Jobs = dict[str, tuple[list["Job"], list[int]]]
# A position that moved over markers alone is sealed when the lane is otherwise idle.
QUIET_SEAL_S = 10.0
_RETRY_S = (0.05, 0.2, 1.0, 3.0)
_BLOCKED_RETRY_S = 15.0
# A fenced lane that is still assigned tries again after a session timeout.
_FENCED_RETRY_S = 12.0
_SMALLEST_BATCH_BYTES = 16 * 1024
_BATCH_MARGIN_BYTES = 2 * 1024


class Lane:
    """Owns one partition from ``start`` until ``release`` returns.

    Not thread-safe: everything happens on the worker's loop.
    """

    def __init__(self, partition: int, world: LaneWorld) -> None:
        self.partition = partition
        self.state = LaneState.ACQUIRING
        self.reason = ""
        self.term = 0
        self.head: LaneHead | None = None
        self.window = InFlightWindow()
        self.inbox: deque[Record] = deque()
        self.expected = 0
        self._world = world
        self._admission: Admission | None = None
        self._replay: ReplayWindow | None = None
        self._identity: LaneIdentity | None = None
        self._context: AdmissionContext | None = None
        self._writer: TransactionalWriter | None = None
        self._wake = asyncio.Event()
        self._waiting: asyncio.Task[None] | None = None
        self._inbox_bytes = 0
        self._generation = 0
        self._retries = 0
        self._refetched_at = -1
        self._batch_bytes = world.settings.batch_bytes
        self._quiet_since: float | None = None
        self._closing: str | None = None
        self._failure: BaseException | None = None
        self._until_ms: int | None = None
        self._suspicion = Suspicion()
        self._announcing = self._announced = -1
        self._oldest = (0, 0.0)
        self._reassigned = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # -- life -----------------------------------------------------------------

    def start(self) -> None:
        """Begin to acquire; returns at once."""
        self._task = asyncio.create_task(self._live(), name=f"lane-{self.partition}")

    def reassigned(self) -> None:
        """Tell a fenced lane that the group gave it this partition anew."""
        self._reassigned.set()

    def ordered(self) -> None:
        """Tell a halted lane that the operator has said something about its log."""
        if self.state is LaneState.HALTED and self._closing is None:
            self._become(LaneState.ACQUIRING, self.reason)
            self.start()

    def look_at_clock(self) -> None:
        """Take a lane up again that halted over a record ahead of the clock, in time.

        Nothing was decided on that record, so nobody need order anything.
        """
        if self._until_ms is not None and self._world.now_ms() >= self._until_ms:
            self._until_ms = None
            self.ordered()

    @property
    def running(self) -> bool:
        """Whether records may be fed."""
        working = self.state in (LaneState.RUNNING, LaneState.SUSPICIOUS)
        return working and self._closing is None

    @property
    def congested(self) -> bool:
        """Whether intake should pause: too much in flight, by count or bytes."""
        settings = self._world.settings
        return (
            len(self.window) + len(self.inbox) >= settings.window_requests
            or self.window.size_bytes + self._inbox_bytes >= settings.window_bytes
        )

    @property
    def in_flight(self) -> int:
        """Records fetched and not yet committed."""
        return len(self.window) + len(self.inbox)

    @property
    def fetch_position(self) -> int:
        """The offset that the lane wants next from the broker."""
        return self.inbox[-1].offset + 1 if self.inbox else self.expected

    @property
    def oldest_ms(self) -> int:
        """Append time of the oldest request that it holds; 0 if it holds none."""
        waiting = self.inbox[0].timestamp if self.inbox else 0
        return self.window.oldest_ms or waiting

    def stuck_for(self, now: float) -> float:
        """Give for how many seconds the oldest request has not moved; 0 if none."""
        slot = self.window.first_slot
        if slot != self._oldest[0] or not self.in_flight or not self.running:
            self._oldest = (slot, now)
        return now - self._oldest[1]

    async def release(self, reason: str, budget_s: float) -> None:
        """Give the lane up: commit what finishes within the budget, then close.

        What is unfinished then is not answered here; the next owner runs it again.
        """
        self._closing = reason
        self.inbox.clear()
        self._wake.set()
        if self._task is not None:
            _, pending = await asyncio.wait({self._task}, timeout=budget_s)
            if pending:
                self._task.cancel()
                await asyncio.wait({self._task}, timeout=5.0)
        self._forget()
        await self._close_writer()
        self._become(LaneState.RELEASING, reason)

    async def _live(self) -> None:
        while True:
            try:
                await self._acquire()
                await self._commit_until_closed()
            except FencedError as error:
                self._world.news.gave_up(self, error)
                self._become(LaneState.WAITING, str(error))
                wait_s = _FENCED_RETRY_S
            except (IntegrityError, MalformedError) as error:
                # Bytes that nobody can read are no less wrong than a broken chain.
                self._until_ms = (
                    error.until_ms if isinstance(error, ClockError) else None
                )
                self._become(LaneState.HALTED, str(error))
                self._world.news.failed(self, error)
                self._forget()
                await self._close_writer()
                return
            except BrokerRefusedError as error:
                self._world.news.gave_up(self, error)
                self._become(LaneState.BLOCKED, str(error))
                wait_s = self._after_refusal(error)
            except TransientError as error:
                self._world.news.gave_up(self, error)
                self._become(LaneState.ACQUIRING, str(error))
                wait_s = _RETRY_S[min(self._retries, len(_RETRY_S) - 1)]
                self._retries += 1
            except Exception as error:  # our bug: say so, and stop the worker
                self._become(LaneState.HALTED, f"{type(error).__name__}: {error}")
                self._world.news.failed(self, error)
                raise
            else:
                return
            self._forget()
            await self._close_writer()
            if self._closing is not None:
                return
            await self._wait_to_retry(wait_s)

    def _after_refusal(self, error: BrokerRefusedError) -> float:
        """Never send the same thing again: smaller batches, or wait for a human."""
        if error.reason == "too_large" and self._batch_bytes > _SMALLEST_BATCH_BYTES:
            self._batch_bytes = max(self._batch_bytes // 2, _SMALLEST_BATCH_BYTES)
            return _RETRY_S[0]
        return _BLOCKED_RETRY_S

    async def _wait_to_retry(self, wait_s: float) -> None:
        if self.state is LaneState.WAITING:
            self._reassigned.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._reassigned.wait()
        else:
            await asyncio.sleep(wait_s)
        self._become_acquiring()

    # -- acquire --------------------------------------------------------------

    async def _acquire(self) -> None:
        world = self._world
        self._become_acquiring()
        writer = self._writer = world.writer(self.partition, self._batch_bytes)
        await world.hold_cluster()
        await writer.fence()  # 1
        await world.basis.confirm_view()
        expected = world.expected(self.partition)
        window = ReplayWindow(world.replay_budget, expected.horizon_ms)
        self._replay = window  # from here on its memory is this lane's to give back
        try:
            recovered = await recover(world.reader(), expected, window)  # 2
        except (IntegrityError, MalformedError):
            await world.hold_cluster()  # what does not fit may be another's
            raise
        context = world.basis.context()
        if context.digests.control_offset < recovered.head.control_offset:
            await world.basis.confirm_view()  # the seal may be younger than our look
            context = world.basis.context()
        self._context = context
        if context.digests.control_offset < recovered.head.control_offset:
            message = (
                f"the control topic ends at {context.digests.control_offset}, the last "
                f"seal had applied it up to {recovered.head.control_offset}"
            )
            raise IntegrityError(message)
        await self._open(recovered, expected, window)  # 3
        self._retries = 0
        self._suspicion = recovered.suspicion
        self._announcing = self._announced = -1
        self._become_running()
        assert self.head is not None  # noqa: S101 - set by _open
        world.seek(self.partition, self.head.next)  # 4

    async def _open(
        self, recovered: Recovered, expected: Expected, window: ReplayWindow
    ) -> None:
        world, head = self._world, recovered.head
        self.term = recovered.term + 1
        most = min(
            world.settings.max_result_bytes, self._batch_bytes - _BATCH_MARGIN_BYTES
        )
        self._identity = world.identity(
            self.partition, recovered.log_id, self.term, most
        )
        self._admission = Admission(
            Place(expected.requests_topic, self.partition),
            Salter(expected.secret, recovered.log_id),
            window,
            head.lane_time,
            recovered.refused,
        )
        self.head, self.expected = head, head.next
        # A term begins where the last seal left off; an order then moves it.
        sealed = msgspec.structs.replace(head, next=recovered.sealed_next)
        await self._publish(
            conclude(
                self._identity, world.process_key, head, (), (),
                world.opening(self.term, sealed),
                resumed=None if recovered.resume is None else recovered.resume.value,
            )
        )  # fmt: skip

    # -- requests -------------------------------------------------------------

    def feed(self, records: Sequence[Record]) -> None:
        """Take fetched records, in order; admits at once unless it must wait."""
        if not self.running:
            return
        self.inbox.extend(records)
        self._inbox_bytes += sum(len(r.value or b"") for r in records)
        if self._waiting is None:
            self._admit_inbox()

    def reached(self, position: int) -> None:
        """Take note that the fetch position is here although no record came.

        Offsets skipped by it must be proven empty before they may be sealed.
        """
        idle = self._waiting is None and not self.inbox and self.running
        if idle and position > self.expected:
            self._wait_for(self._prove(position))

    def unfetchable(self, error: ExecutorError) -> None:
        """Take note that this partition cannot be fetched from here."""
        self._fail(error)

    def do_without(self, s256: bytes, error: ExecutorError) -> None:
        """Give up if a request waits for this module, which cannot be had now.

        It is no request's fault, so none is answered for it; the log decides anew.
        """
        for entry in self.window.drain():
            if isinstance(entry, Admitted) and entry.job.module_s256 == s256:
                self._fail(error)
                return

    def _admit_inbox(self) -> None:
        """Admit until the inbox is empty or something must be waited for (5, 6)."""
        admission, inbox = self._admission, self.inbox
        if admission is None or self._failure is not None or self._closing is not None:
            return  # what is admitted now would be forgotten, its jti spent
        context = self._world.basis.context()
        if context is not self._context:
            self._note_context(context)
        now_ms = self._world.now_ms()
        jobs: Jobs = {}
        try:
            while inbox and self._admit_next(admission, context, now_ms, jobs):
                pass
        except Exception as error:  # noqa: BLE001 - this lane's, never the fetch loop's
            self._fail(error)
            return
        self._submit(jobs)
        if self.window.finished:
            self._wake.set()

    def _admit_next(
        self,
        admission: Admission,
        context: AdmissionContext,
        now_ms: int,
        jobs: Jobs,
    ) -> bool:
        """Admit the first record of the inbox; False if it must wait."""
        record = self.inbox[0]
        if record.offset != self.expected:
            if record.offset > self.expected:
                self._wait_for(self._prove(record.offset))
                return False
            self._pop_inbox()  # fetched once more, answered already
            return True
        if not self._announce(record.offset):
            return False
        decision = admission.verify(record, context, now_ms)
        if isinstance(decision, Verified):
            placed: Admitted | Refused | None
            if self._attempts_at(record.offset) > MAX_ATTEMPTS:
                placed = quarantined(decision)
            else:
                placed = admission.place_module(decision, context, view_confirmed=False)
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
        self._pop_inbox()
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

    def _pop_inbox(self) -> None:
        self._inbox_bytes -= len(self.inbox.popleft().value or b"")

    def _add(
        self,
        entry: Admitted | Refused,
        verified: Verified | None,
        jobs: Jobs,
    ) -> None:
        slot = self.window.add(entry)
        self.expected = entry.offset + 1
        if not isinstance(entry, Admitted):
            return
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
            self._world.sandbox.submit(
                issuer, batch, partial(self._reported, self._generation, slots)
            )

    def _reported(
        self, generation: int, slots: list[int], first: int, reports: list[Report]
    ) -> None:
        """Put reports into their slots (7); those of an earlier life are dropped."""
        if generation != self._generation:
            return
        if self.window.finish(slots[first : first + len(reports)], reports):
            self._wake.set()

    def _note_context(self, context: AdmissionContext) -> None:
        before, self._context = self._context, context
        if before is None or before.digests != context.digests:
            self.window.add(ContextChange(context.digests))

    # -- what admission must wait for ------------------------------------------

    def _wait_for(self, work: Awaitable[None]) -> None:
        generation = self._generation

        async def then_go_on() -> None:
            try:
                await work
                if generation == self._generation:
                    self._waiting = None
                    self._admit_inbox()
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001 - handed to the lane's task
                if generation == self._generation:
                    self._waiting = None
                    self._fail(error)

        self._waiting = asyncio.create_task(then_go_on())
        if isinstance(work, Coroutine):  # cancelled before it began, it is closed
            self._waiting.add_done_callback(lambda _: work.close())

    async def _place_later(self, verified: Verified) -> None:
        """Decide on a module that the control view does not know, once it is sure."""
        generation = self._generation
        await self._world.basis.confirm_view()
        if generation != self._generation or self._admission is None:
            return
        if self._closing is not None:
            return  # the inbox is gone: the next owner decides
        context = self._world.basis.context()
        if context is not self._context:
            self._note_context(context)
        placed = self._admission.place_module(verified, context, view_confirmed=True)
        assert placed is not None  # noqa: S101 - a confirmed view always decides
        jobs: Jobs = {}
        self._add(placed, verified, jobs)
        self._pop_inbox()
        self._submit(jobs)

    async def _prove(self, until: int) -> None:
        """Prove that [expected, until) holds no committed record; else fetch anew."""
        generation, start = self._generation, self.expected
        world = self._world
        topic = world.expected(self.partition).requests_topic
        try:
            ranges = await world.prover.prove_gap(topic, self.partition, start, until)
        except IntegrityError:
            if generation != self._generation or self._refetched_at == start:
                raise
            # The client skipped records that exist: once that may be its own state.
            self._refetched_at = start
            self.inbox.clear()
            self._inbox_bytes = 0
            world.seek(self.partition, start)
            return
        if generation != self._generation:
            return
        for found in ranges:
            self.window.add(Gap(found.start, found.end))
        self.expected = until
        if self._quiet_since is None:
            self._quiet_since = asyncio.get_running_loop().time()
        self._wake.set()

    # -- commit ---------------------------------------------------------------

    async def _commit_until_closed(self) -> None:
        """Commit whenever something is finished; at most as often as the pace says."""
        loop = asyncio.get_running_loop()
        pace = CommitPace(self._world.settings.most_floor_s)
        while True:
            await self._wait_for_work()
            await asyncio.sleep(0)
            while self._has_work() or self._closed_and_drained():
                delay_s = pace.delay(loop.time())
                if delay_s > 0 and self._closing is None:
                    await asyncio.sleep(delay_s)
                started = loop.time()
                closing = self._closing if self._closed_and_drained() else None
                count = await self._commit_once(closing)
                pace.committed(started, loop.time(), count)
                if closing is not None:
                    return

    async def _wait_for_work(self) -> None:
        timeout_s = QUIET_SEAL_S if self._quiet_since is not None else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        self._wake.clear()
        if self._failure is not None:
            raise self._failure

    def _fail(self, error: BaseException) -> None:
        self._failure = error
        self._wake.set()

    def _has_work(self) -> bool:
        """Whether the finished prefix is worth a transaction now."""
        if not self.window.finished:
            return False
        if self._closing is not None or any(
            isinstance(entry, Admitted | Refused | Attempt)
            for entry in self.window.peek()
        ):
            return True
        now = asyncio.get_running_loop().time()
        return self._quiet_since is not None and now - self._quiet_since >= QUIET_SEAL_S

    def _closed_and_drained(self) -> bool:
        """Whether the lane closes and nothing finished or running is left."""
        return self._closing is not None and len(self.window) == 0

    async def _commit_once(self, closing: str | None) -> int:
        assert self._identity is not None  # noqa: S101 - a running lane has one
        assert self.head is not None  # noqa: S101
        entries, reports = self.window.take(
            self._world.settings.commit_requests, self._world.settings.commit_bytes
        )
        transaction = conclude(
            self._identity, self._world.process_key, self.head, entries, reports,
            closing=closing,
        )  # fmt: skip  # 8
        started = asyncio.get_running_loop().time()
        self._quiet_since = None
        await self._publish(transaction)  # 9, 10
        for entry in entries:
            if isinstance(entry, Admitted) and entry.inline:
                self._world.modules.release_inline(entry.job.module_s256)
            elif isinstance(entry, Attempt):
                self._announced = entry.offset
        seconds = asyncio.get_running_loop().time() - started
        self._world.news.committed(self.partition, transaction.tally, seconds)  # 11
        if self.state is LaneState.SUSPICIOUS:
            self._become_running()
            if self._waiting is None:
                self._admit_inbox()
        return len(entries)

    async def _publish(self, transaction: Transaction) -> None:
        assert self._writer is not None  # noqa: S101 - set before every publish
        assert self._admission is not None  # noqa: S101
        asked_ms = self._world.now_ms()
        acknowledged = await self._writer.commit(transaction.results, transaction.audit)
        if acknowledged.appended_ms is not None:
            self._world.news.appended(acknowledged.appended_ms, asked_ms)
        base = acknowledged.audit_base
        assert base is not None  # noqa: S101 - every transaction has a seal
        self.head = transaction.head.acknowledged(base)
        self._admission.window.expire(self.head.lane_time)

    # -- state ----------------------------------------------------------------

    def _become(self, state: LaneState, reason: str) -> None:
        if (state, reason) != (self.state, self.reason):
            self.state, self.reason = state, reason
            self._world.news.changed(self)

    def _become_acquiring(self) -> None:
        """Try, but stay blocked until a try succeeds: each is no news."""
        if self.state is not LaneState.BLOCKED:
            self._become(LaneState.ACQUIRING, self.reason)

    def _become_running(self) -> None:
        assert self.head is not None  # noqa: S101 - a running lane has one
        until = self._suspicion.until
        if self.head.next >= until:
            self._become(LaneState.RUNNING, "")
        else:
            reason = f"workers died here: one at a time below offset {until}"
            self._become(LaneState.SUSPICIOUS, reason)

    def _forget(self) -> None:
        """Drop everything in memory: another life begins with the log."""
        for entry in self.window.drain():
            if isinstance(entry, Admitted) and entry.inline:
                self._world.modules.release_inline(entry.job.module_s256)
        self._generation += 1
        self._failure = None
        self.window = InFlightWindow()
        self.inbox.clear()
        self._inbox_bytes = 0
        if self._replay is not None:
            self._replay.discard()
        self._replay = self._admission = None
        self._quiet_since = None
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    async def _close_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.close()
