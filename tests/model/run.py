"""One history: a broker, the present owner, those before it, and what was asked.

A history is a list of steps, each a name and a number or two; the same list gives the
same history at every run. ``trace`` is what a failed one is read by.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache, partial
from itertools import count
from typing import TYPE_CHECKING, Literal, NamedTuple

from stream_executor.auth.sign import RequestSigner
from stream_executor.lane.damage import Damage
from stream_executor.lane.lane import Lane
from stream_executor.lane.suspicion import MAX_ATTEMPTS
from stream_executor.model.errors import ExecutorError, UnavailableError
from stream_executor.model.request import (
    Call,
    ExecutionRequest,
    InlineModule,
    ModuleName,
)
from stream_executor.model.scalars import ValueType, pack_value, unpack
from stream_executor.wire.requests import encode_json
from tests.history import PartitionHistory
from tests.lane_world import (
    AUDIENCE,
    AUDIT,
    REQUESTS,
    RESULTS,
    SECRET,
    add,
    begun_broker,
)
from tests.model.damage import KINDS, TRIMS, Damages
from tests.model.effects import Effects, Fate
from tests.model.incarnation import BANNED, Incarnation, stages
from tests.model.oracle import Asked, answers
from tests.model.virtual_time import VirtualTimeLoop, settle

if TYPE_CHECKING:
    from stream_executor.model.job import Job, Report
    from stream_executor.model.record import Record
    from tests.history import Counted

StepName = Literal[
    "submit", "banned", "named", "replay", "unsigned", "marker", "clock", "control",
    "fetch", "skip", "report", "settle", "wait", "fate", "kill", "takeover", "thaw",
    "deliver", "release", "deadly", "damage", "resume", "trim", "burst", "carry",
    "serve", "tear",
]  # fmt: skip
CLOCK_MS = (1_000, 40_000, 119_000, 131_000, 200_000, -20_000)
FATES = tuple(Fate)
# How many requests one transaction carries; the first unless a history says more.
CARRIED = (3, 1, 50)
BURST = 10
# Longer than a session timeout, a quiet seal and every retry.
WAIT_S = 16.0
FINISH_S = 600.0


class Step(NamedTuple):
    """One act; ``a`` and ``b`` say which, how many, where."""

    name: StepName
    a: int = 0
    b: int = 0

    def __str__(self) -> str:
        if self.name == "fate":
            return f"fate {FATES[self.b % len(FATES)]} at effect {self.a}"
        if self.name == "clock":
            return f"clock {CLOCK_MS[self.a % len(CLOCK_MS)]:+} ms"
        if self.name == "damage":
            return f"damage {KINDS[self.b % len(KINDS)]} {self.a}"
        if self.name == "trim":
            return f"trim {TRIMS[self.b % len(TRIMS)]} {self.a}"
        if self.name == "carry":
            return f"carry {CARRIED[self.a % len(CARRIED)]} a transaction"
        return f"{self.name} {self.a}"


class Owner(NamedTuple):
    """One incarnation and its lane."""

    lane: Lane
    world: Incarnation
    effects: Effects


class Run:
    """Does steps, then ``finish``, then says what it was like."""

    def __init__(self) -> None:
        self.broker = begun_broker()
        self.damages = Damages(self.broker)
        self.asked: dict[int, Asked] = {}
        self.tokens: list[tuple[bytes, tuple[tuple[str, bytes], ...], Asked]] = []
        self.control_end = min(stages())
        self.deadly: set[int] = set()
        self.carried = CARRIED[0]
        self.owners: list[Owner] = []
        self.trace: list[str] = []
        self._latest_ms = self.broker.now_ms
        self._numbers = count(1)
        self._skipped: set[tuple[int, int]] = set()
        self._releases: list[asyncio.Task[None]] = []
        self.own()

    @property
    def owner(self) -> Owner:
        """The present owner."""
        return self.owners[-1]

    def own(self) -> None:
        """A new incarnation takes the lane; the old one, if any, is not told."""
        number = len(self.owners)
        effects = Effects(self.trace.append, f"  worker {number}:")
        world = Incarnation(
            self.broker, lambda: self.control_end, effects, number, self.damages
        )
        world.sandbox.answer = partial(self._answer, effects)
        world.carry(self.carried)
        lane = Lane(0, world)
        self.owners.append(Owner(lane, world, effects))
        lane.start()

    def _answer(self, effects: Effects, job: Job) -> Report:
        """What a guest gives, if the worker lives to see it."""
        (number, *_) = [int(value) for _, value, _ in unpack(job.payload)]
        if number in self.deadly and effects.works:
            self.trace.append(f"{effects.name} dies of request {number}")
            effects.dead = True
        return add(job)

    # -- steps --------------------------------------------------------------------

    async def do(self, step: Step) -> None:
        """Do one thing."""
        self.trace.append(str(step))
        act = getattr(self, f"_{step.name}")
        done = act(step.a, step.b)
        if done is not None:
            await done
        if not self.owner.effects.works:
            # The group gives the partition to somebody else, told or not.
            await settle()
            self.own()

    def _submit(self, many: int, _: int) -> None:
        for _ in range(many % 4 + 1):
            self._append("agent-7", None)

    def _burst(self, many: int, _: int) -> None:
        """More than one transaction carries, or less, as ``carry`` says."""
        for _ in range(BURST + many % BURST):
            self._append("agent-7", None)

    def _carry(self, which: int, _: int) -> None:
        """This owner and those after it have other settings."""
        self.carried = CARRIED[which % len(CARRIED)]
        self.owner.world.carry(self.carried)

    def _deadly(self, *_: int) -> None:
        """A good request, but whoever runs its guest dies of it."""
        self._append("agent-7", None)
        self.deadly.add(self.tokens[-1][2].number)

    def _banned(self, *_: int) -> None:
        self._append(BANNED, None)

    def _named(self, version: int, _: int) -> None:
        self._append("agent-7", f"late@{version % 3 + 1}")

    def _append(self, subject: str, module: str | None) -> None:
        number, now_ms = next(self._numbers), self.broker.now_ms
        value = _request(number, module)
        header = (("authorization", _token(number, subject, module, now_ms // 1000)),)
        asked = Asked(number, str(number), now_ms, subject, module)
        self.tokens.append((value, header, asked))
        self.asked[self.broker.append(REQUESTS, 0, value, header)] = asked

    def _replay(self, which: int, _: int) -> None:
        if self.tokens:
            value, header, asked = self.tokens[which % len(self.tokens)]
            self.asked[self.broker.append(REQUESTS, 0, value, header)] = asked

    def _unsigned(self, many: int, _: int) -> None:
        for _ in range(many % 3 + 1):
            self.asked[self.broker.append(REQUESTS, 0, b"{}")] = Asked(0)

    def _marker(self, many: int, _: int) -> None:
        for _ in range(many % 2 + 1):
            self.broker.marker(REQUESTS, 0)

    def _clock(self, which: int, _: int) -> None:
        broker = self.broker
        moved = broker.now_ms + CLOCK_MS[which % len(CLOCK_MS)]
        # A leader further behind than its workers allow would halt the lane.
        broker.now_ms = max(moved, self._latest_ms - 40_000)
        self._latest_ms = max(self._latest_ms, broker.now_ms)

    def _control(self, *_: int) -> None:
        self.control_end = min(self.control_end + 1, max(stages()))
        # The follower of whoever works now hears of it at once.
        self.owner.world.known = self.control_end

    def _fetch(self, *_: int) -> None:
        """Everybody who believes to own the lane fetches, wrongly or not."""
        for lane, world, effects in self.owners:
            intake = lane.intake
            if effects.works and intake is not None and world.seeks:
                log = self.broker.log(REQUESTS, 0)
                start = intake.fetch_position
                if start < self.broker.begin(REQUESTS, 0):
                    intake.fail(UnavailableError(f"offset {start} is gone"))
                    continue
                intake.feed([r for r in log[start:] if r is not None])
                if not intake.inbox:
                    intake.reached(len(log))

    def _skip(self, many: int, _: int) -> None:
        """A client that forgets records, as forged offset deltas make it."""
        lane, world, effects = self.owner
        intake = lane.intake
        if effects.works and intake is not None and world.seeks:
            start = intake.fetch_position + many % 2 + 1
            log = self.broker.log(REQUESTS, 0)
            here = (len(self.owners), intake.fetch_position)
            # Twice at one place is no client's forgetting any more: it halts.
            if here not in self._skipped and start < len(log):
                self._skipped.add(here)
                intake.feed([r for r in log[start:] if r is not None][:1])

    def _report(self, order: int, _: int) -> None:
        """Guests end: all of them, only the latest batch, or only the first."""
        for owner in self.owners:
            if owner.effects.works:
                sandbox = owner.world.sandbox
                waiting = sandbox.waiting
                ending = (slice(None), slice(-1, None), slice(1))[order % 3]
                sandbox.waiting = waiting[ending]
                del waiting[ending]
                sandbox.run()
                sandbox.waiting = waiting

    async def _settle(self, *_: int) -> None:
        await settle()

    async def _serve(self, _: int, __: int) -> None:
        """What waits is fetched, runs and is committed."""
        for _again in range(2):
            self._fetch()
            await settle()
            self._report(0, 0)
            await settle()

    async def _wait(self, *_: int) -> None:
        await asyncio.sleep(WAIT_S)

    def _fate(self, after: int, fate: int) -> None:
        self.owner.effects.plan(after % 40 + 1, FATES[fate % len(FATES)])

    async def _kill(self, *_: int) -> None:
        self.owner.effects.dead = True
        await _end(self.owner.lane)

    async def _damage(self, many: int, kind: int) -> None:
        """The owner dies; before the next one comes, somebody harms the log."""
        await self._kill()
        self.damages.strike(KINDS[kind % len(KINDS)], many)

    def _trim(self, many: int, which: int) -> None:
        """Retention, or somebody with too many rights, removes a log's beginning."""
        self.damages.trim(TRIMS[which % len(TRIMS)], many)

    def _resume(self, *_: int) -> None:
        """The operator orders what the halted lane proposes, or waits and looks anew.

        Where time alone helps, what it proposes then is what is ordered next.
        """
        lane, world, _effects = self.owner
        if world.damaged is None:
            return
        self.trace.append(f"  {world.damaged}")
        if world.damaged.way_back is not None:
            self.damages.order(world.damaged)
        elif world.damaged.damage is Damage.REPLAY_WINDOW_LOST:
            self._clock(CLOCK_MS.index(40_000), 0)
        else:
            raise AssertionError(world.damaged)
        world.damaged = None
        lane.ordered()

    def _takeover(self, *_: int) -> None:
        self.own()

    def _thaw(self, *_: int) -> None:
        for owner in self.owners:
            owner.effects.thaw()

    def _deliver(self, *_: int) -> None:
        self.broker.deliver()

    async def _release(self, *_: int) -> None:
        lane, world, effects = self.owner
        world.sandbox.held = False
        world.sandbox.run()
        release = asyncio.create_task(lane.release("rebalance", 2.0))
        self._releases.append(release)
        await asyncio.wait({release}, timeout=10)
        if effects.works:
            effects.dead = True
            self.own()

    def _tear(self, *_: int) -> None:
        """Not a fault that a lane survives: what a checker must find."""
        log = self.broker.log(RESULTS, 0)
        del log[:1]

    # -- the end ------------------------------------------------------------------

    async def finish(self) -> None:
        """One last owner answers everything; earlier ones have died by then.

        An owner that was taken over while in doubt would fence the last one again:
        safe, but nobody's history would ever end.
        """
        self.trace.append("finish")
        for owner in self.owners:
            owner.effects.dead = True
            await _end(owner.lane)
        self.broker.deliver()
        async with asyncio.timeout(FINISH_S):
            while not await self._last_owner_finishes():
                pass  # it died of a request; the next one knows more
        await self.owner.lane.release("drain", 2.0)
        await settle()

    async def _last_owner_finishes(self) -> bool:
        """Let a new owner answer what it can; tell whether that was everything."""
        self.own()
        lane, world, effects = self.owner
        world.sandbox.held = False
        log = self.broker.log(REQUESTS, 0)
        while not _finished(lane, len(log)):
            assert not world.errors, world.errors
            self._resume()
            await asyncio.sleep(0.1)
            if not effects.works:
                await _end(lane)
                return False
            self._fetch()
        return effects.works

    async def close(self) -> None:
        """Leave nothing behind on the loop."""
        for release in self._releases:
            release.cancel()
        for owner in self.owners:
            await _end(owner.lane)

    def verify(self) -> Counted:
        """Hold what is in the log against what must be; give the counters.

        Raises:
            AssertionError: it says what is wrong.
        """
        broker = self.broker
        history = PartitionHistory(tolerated=frozenset({"quarantined"}))
        for record in broker.written(RESULTS, 0):
            history.result(record)
        for record in broker.written(AUDIT, 0):
            if record.offset not in self.damages.planted:
                history.leaf(record)
        # Whose events are lost, its answer and its token are no more than a rumour.
        lost = self.damages.lost()
        contexts = {o: e.control_offset for o, e in history.events.items()}
        requests = broker.written(REQUESTS, 0)
        log = [
            (r.offset, r.timestamp, self.asked[r.offset])
            for r in requests
            if r.offset not in lost
        ]
        said = [
            stages()[max(at, min(stages()))].says for at in range(max(stages()) + 1)
        ]
        expected = answers(log, contexts, said, self.damages.refused())

        def expected_of(record: Record) -> object:
            return expected.get(record.offset)

        history.expected = expected_of  # type: ignore[assignment]
        for record in requests:
            history.request(record)
        history.declared_lost(lost)
        counted = history.end()
        problems = {name: str(n) for name, n in counted.faults.items()}
        if counted.wrong:
            problems["wrong"] = "; ".join(
                f"{o}: expected {expected[o]}, got {history.answers[o].outcome}"
                for o in expected
                if o in history.answers
                and history.answers[o].outcome[:2] != expected[o][:2]
            )
        hasty = [
            offset
            for offset, event in history.events.items()
            if event.outcome.code == "quarantined"
            and history.attempts[offset] < MAX_ATTEMPTS
        ]
        if hasty:
            problems["quarantined too soon"] = str(hasty)
        if history.covered != len(broker.log(REQUESTS, 0)):
            problems["covered"] = f"{history.covered} of {len(broker.log(REQUESTS, 0))}"
        errors = [e for owner in self.owners for e in owner.world.errors]
        if errors:
            problems["halted"] = repr(errors)
        problems |= self._memory() | self.damages.verify()
        assert not problems, problems
        return counted

    def _memory(self) -> dict[str, str]:
        """The last owner gave everything back that it held."""
        world = self.owner.world
        held = {
            "replay memory": world.replay_budget.used_bytes,
            "inline modules": sum(world.inline.values()),
        }
        return {name: str(n) for name, n in held.items() if n}


def _finished(lane: Lane, end: int) -> bool:
    """Whether all up to the end is; proven gaps are sealed with the release."""
    intake = lane.intake
    if intake is None or not intake.open or intake.expected != end:
        return False
    return intake.window.finished == len(intake.window)


async def _end(lane: Lane) -> None:
    waiting = None if lane.intake is None else lane.intake._waiting
    for task in (lane._task, waiting):
        if task is not None:
            task.cancel()
            await asyncio.wait({task})


async def play(steps: list[Step]) -> tuple[Counted, list[str]]:
    """Run one history to its end; give its counters and its trace.

    Raises:
        HistoryError: a property does not hold; the message is the trace.
    """
    run = Run()
    loop = asyncio.get_running_loop()
    if isinstance(loop, VirtualTimeLoop):
        loop.driver = asyncio.current_task()
    try:
        for step in steps:
            await run.do(step)
        await run.finish()
        counted = run.verify()
    except (
        AssertionError,
        TimeoutError,
        ExecutorError,
        asyncio.CancelledError,
    ) as error:
        raise HistoryError(steps, run.trace, error) from error
    finally:
        await run.close()
    return counted, [p for owner in run.owners for p in owner.effects.reached]


class HistoryError(AssertionError):
    """A history in which a property does not hold."""

    def __init__(
        self, steps: list[Step], trace: list[str], cause: BaseException
    ) -> None:
        self.steps = steps
        lines = "\n".join(trace)
        super().__init__(
            f"{type(cause).__name__}: {cause}\n"
            f"steps: {[tuple(step) for step in steps]}\n{lines}"
        )


# -- what is costly and pure is done once for all histories ----------------------------


@lru_cache(maxsize=4096)
def _request(number: int, module: str | None) -> bytes:
    args = pack_value(ValueType.I32, number) + pack_value(ValueType.I32, 1)
    ref = ModuleName(*module.split("@")) if module else InlineModule(b"m")
    return encode_json(ExecutionRequest(f"r-{number}", ref, Call("f", args)))


@lru_cache(maxsize=1 << 14)
def _token(number: int, subject: str, module: str | None, now_s: int) -> bytes:
    signer = RequestSigner.from_secret(
        SECRET, issuer="tests", subject=subject, audience=AUDIENCE
    )
    jti = f"jti-of-request-{number:08}"
    value = _request(number, module)
    return b"Bearer " + signer.sign(REQUESTS, 0, value, now_s=now_s, jti=jti)
