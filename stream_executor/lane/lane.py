"""One lane: the actor that owns a requests partition while it may.

Decisions are pure functions elsewhere (``admission``, ``conclusion``, ``window``,
``recovery``); here and in ``intake`` (5 to 7) their effects happen, in this order and
no other:

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
from typing import TYPE_CHECKING

import msgspec

from stream_executor.audit.digests import Salter
from stream_executor.auth.replay import ReplayWindow
from stream_executor.auth.token import Place
from stream_executor.lane.admission import Admission
from stream_executor.lane.conclusion import LaneIdentity, Transaction, conclude
from stream_executor.lane.crosschecks import hold_control
from stream_executor.lane.damage import resume_with
from stream_executor.lane.intake import Intake
from stream_executor.lane.pace import CommitPace
from stream_executor.lane.recovery import Recovered, recover
from stream_executor.model.errors import (
    BrokerRefusedError,
    ClockError,
    FencedError,
    HoleError,
    IntegrityError,
    MalformedError,
    TransientError,
)
from stream_executor.model.lanes import LaneState

if TYPE_CHECKING:
    from stream_executor.lane.head import LaneHead
    from stream_executor.lane.ports import TransactionalWriter
    from stream_executor.lane.world import LaneWorld

_RETRY_S = (0.05, 0.2, 1.0, 3.0)
_BLOCKED_RETRY_S = 15.0
# A fenced lane that is still assigned tries again after a session timeout.
_FENCED_RETRY_S = 12.0
_SMALLEST_BATCH_BYTES = 16 * 1024
_BATCH_MARGIN_BYTES = 2 * 1024


class Lane:
    """Owns one partition from ``start`` until ``release`` returns.

    Not thread-safe: everything happens on the worker's loop.

    Attributes:
        intake: where records are fed to, as long as it is open; None between two lives.
    """

    def __init__(self, partition: int, world: LaneWorld) -> None:
        self.partition = partition
        self.state = LaneState.ACQUIRING
        self.reason = ""
        self.term = 0
        self.head: LaneHead | None = None
        self.intake: Intake | None = None
        self._world = world
        self._replay: ReplayWindow | None = None
        self._identity: LaneIdentity | None = None
        self._writer: TransactionalWriter | None = None
        self._retries = 0
        self._batch_bytes = world.settings.batch_bytes
        self._closing: str | None = None
        self._until_ms: int | None = None
        self._alone_until = -1
        self._retry_ends = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # -- life -----------------------------------------------------------------

    def start(self) -> None:
        """Begin to acquire; returns at once."""
        self._task = asyncio.create_task(self._live(), name=f"lane-{self.partition}")

    def reassigned(self) -> None:
        """Tell a fenced lane that the group gave it this partition anew."""
        if self.state is LaneState.WAITING:
            self._retry_ends.set()

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
        return self.intake is not None and self.intake.open

    @property
    def in_flight(self) -> int:
        """Records fetched and not yet committed."""
        return 0 if self.intake is None else self.intake.in_flight

    @property
    def oldest_ms(self) -> int:
        """Append time of the oldest request that it holds; 0 if it holds none."""
        return 0 if self.intake is None else self.intake.oldest_ms

    def stuck_for(self, now: float) -> float:
        """Give for how many seconds the oldest request has not moved; 0 if none."""
        return 0.0 if self.intake is None else self.intake.stuck_for(now)

    async def release(self, reason: str, budget_s: float) -> None:
        """Give the lane up: commit what finishes within the budget, then close.

        What is unfinished then is not answered here; the next owner runs it again.
        """
        self._closing = reason
        self._retry_ends.set()
        if self.intake is not None:
            self.intake.close()
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
                await self._live_once()
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
            if self._closing is None:
                await self._wait_to_retry(wait_s)
            if self._closing is not None:
                return

    async def _live_once(self) -> None:
        """Acquire and serve the lane; returns once it is closed."""
        try:
            await self._commit_until_closed(await self._acquire())
        except (IntegrityError, MalformedError) as error:
            await self._world.hold_cluster()  # what does not fit may be another's
            if isinstance(error, HoleError):
                message = f"{error}: requests were lost; {resume_with(self.partition)}"
                raise IntegrityError(message) from error
            raise

    def _after_refusal(self, error: BrokerRefusedError) -> float:
        """Never send the same thing again: smaller batches, or wait for a human."""
        if error.reason == "too_large" and self._batch_bytes > _SMALLEST_BATCH_BYTES:
            self._batch_bytes = max(self._batch_bytes // 2, _SMALLEST_BATCH_BYTES)
            return _RETRY_S[0]
        return _BLOCKED_RETRY_S

    async def _wait_to_retry(self, wait_s: float) -> None:
        """Wait so long, or until it was given this partition anew, or it closes."""
        self._retry_ends.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._retry_ends.wait()
        self._become_acquiring()

    # -- acquire --------------------------------------------------------------

    async def _acquire(self) -> Intake:
        world = self._world
        self._become_acquiring()
        writer = self._writer = world.writer(self.partition, self._batch_bytes)
        await world.hold_cluster()
        await writer.fence()  # 1
        await world.basis.confirm_view()
        expected = world.expected(self.partition)
        window = ReplayWindow(world.replay_budget, expected.horizon_ms)
        self._replay = window  # from here on its memory is this lane's to give back
        recovered = await recover(world.reader(), expected, window)  # 2
        context = world.basis.context()
        if context.digests.control_offset < recovered.head.control_offset:
            await world.basis.confirm_view()  # the seal may be younger than our look
            context = world.basis.context()
        hold_control(recovered, self.partition, context.digests.control_offset)
        await self._open(recovered)  # 3
        self._retries = 0
        place = Place(expected.requests_topic, self.partition)
        admission = Admission(
            place,
            Salter(expected.secret, recovered.log_id),
            window,
            recovered.head.lane_time,
            recovered.refused,
        )
        start, suspicion = recovered.head.next, recovered.suspicion
        intake = Intake(world, place, admission, context, suspicion, start)
        if self._closing is not None:
            intake.close()
        self.intake, self._alone_until = intake, suspicion.until
        self._become_running()
        world.seek(self.partition, start)  # 4
        return intake

    async def _open(self, recovered: Recovered) -> None:
        world, head = self._world, recovered.head
        self.term = recovered.term + 1
        most = min(
            world.settings.max_result_bytes, self._batch_bytes - _BATCH_MARGIN_BYTES
        )
        self._identity = world.identity(
            self.partition, recovered.log_id, self.term, most
        )
        self.head = head
        # A term begins where the last seal left off; an order then moves it.
        sealed = msgspec.structs.replace(head, next=recovered.sealed_next)
        await self._publish(
            conclude(
                self._identity, world.process_key, head, (), (),
                world.opening(self.term, sealed),
                resumed=None if recovered.resume is None else recovered.resume.value,
            )
        )  # fmt: skip

    # -- commit ---------------------------------------------------------------

    async def _commit_until_closed(self, intake: Intake) -> None:
        """Commit whenever something is finished; at most as often as the pace says."""
        loop = asyncio.get_running_loop()
        settings = self._world.settings
        pace = CommitPace(settings.most_floor_s)
        while True:
            await intake.wait()
            await asyncio.sleep(0)
            while intake.has_work or intake.drained:
                # What is in flight fills more than a transaction.
                behind = intake.in_flight > settings.commit_requests
                delay_s = pace.delay(loop.time(), behind=behind)
                if delay_s > 0 and self._closing is None:
                    await asyncio.sleep(delay_s)
                started = loop.time()
                closing = self._closing if intake.drained else None
                count = await self._commit_once(intake, closing)
                pace.committed(started, loop.time(), count)
                if closing is not None:
                    return

    async def _commit_once(self, intake: Intake, closing: str | None) -> int:
        assert self._identity is not None  # noqa: S101 - a running lane has one
        assert self.head is not None  # noqa: S101
        entries, reports = intake.take()
        transaction = conclude(
            self._identity, self._world.process_key, self.head, entries, reports,
            closing=closing,
        )  # fmt: skip  # 8
        started = asyncio.get_running_loop().time()
        await self._publish(transaction)  # 9, 10
        intake.settled(entries)
        seconds = asyncio.get_running_loop().time() - started
        self._world.news.committed(self.partition, transaction.tally, seconds)  # 11
        if self.state is LaneState.SUSPICIOUS:
            self._become_running()
            intake.go_on()
        return len(entries)

    async def _publish(self, transaction: Transaction) -> None:
        assert self._writer is not None  # noqa: S101 - set before every publish
        assert self._replay is not None  # noqa: S101
        asked_ms = self._world.now_ms()
        acknowledged = await self._writer.commit(transaction.results, transaction.audit)
        if acknowledged.appended_ms is not None:
            self._world.news.appended(acknowledged.appended_ms, asked_ms)
        base = acknowledged.audit_base
        assert base is not None  # noqa: S101 - every transaction has a seal
        self.head = transaction.head.acknowledged(base)
        self._replay.expire(self.head.lane_time)

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
        until = self._alone_until
        if self.head.next >= until:
            self._become(LaneState.RUNNING, "")
        else:
            reason = f"workers died here: one at a time below offset {until}"
            self._become(LaneState.SUSPICIOUS, reason)

    def _forget(self) -> None:
        """Drop everything in memory: another life begins with the log."""
        if self.intake is not None:
            self.intake.end()
            self.intake = None
        if self._replay is not None:
            self._replay.discard()
            self._replay = None

    async def _close_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.close()
