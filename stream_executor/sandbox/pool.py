"""The sandbox from outside: hand in jobs, get each one's report exactly once.

``SandboxPool`` owns the processes. It sends frames of one issuer's jobs to children,
at most two ahead; takes reports; watches, by its own clock, how long the job that a
child says it started has been running; and when a process ends, decides what that
means for each job that it held:

- killed for a deadline: that job is ``timeout``, the others run again elsewhere;
- ended for any other reason: the job it was at runs once more, alone; if its process
  ends again it is ``sandbox_crashed``; the others run again, no attempt counted.

A job that hangs does not hold others back: what was queued behind it is given to
other children while it runs. Jobs are pure functions of their bytes, so running one
twice is harmless; reporting it twice is what never happens.

Not here: fairness (``schedule``), compiling (``modules``), frames (``protocol``), when
a child is at fault (``pool_child``).

Cost: a few µs a frame and under 1 µs a job; nothing is awaited for a job.
"""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import TYPE_CHECKING

import structlog

from stream_executor.model.codes import Code
from stream_executor.model.errors import ConfigError, MisuseError
from stream_executor.model.job import ChildEnd, Report
from stream_executor.sandbox import protocol
from stream_executor.sandbox.compile import Compiler
from stream_executor.sandbox.engine import (
    config_s256,
    engine_identity,
    validate_stack_bytes,
)
from stream_executor.sandbox.modules import Module, ModuleStore
from stream_executor.sandbox.pool_child import Child
from stream_executor.sandbox.process import ChildProcess
from stream_executor.sandbox.schedule import (
    FairQueue,
    Segment,
    Submission,
    segments_of,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stream_executor.model.job import Job
    from stream_executor.sandbox.artefact_cache import ArtefactCache
    from stream_executor.sandbox.config import SandboxConfig

_log = structlog.get_logger(__name__)

ENTRY = "stream_executor.sandbox.child"
WATCH_S = 0.025
MAX_RESTART_DELAY_S = 5.0
MIN_RESTART_DELAY_S = 0.05
MAX_ATTEMPTS = 2
AHEAD = "\0ahead"  # an issuer that no token can name


class SandboxPool:
    """Run jobs in sandbox children; see the module's docstring.

    Args:
        config: limits and sizes.
        load_module: gives a module's bytes by its SHA-256; ``LookupError`` becomes
            ``module_not_found``, any other exception ``internal``.
        cache: compiled modules on disk; opened and closed here. None for none.

    Attributes:
        hardening: what every child reported as applied, sorted.
        engine: identity of the native engine.
        engine_config_s256: digest of the engine's configuration.
        ended: children that ended by themselves or were killed, by cause.

    Raises:
        ConfigError: the configuration cannot work (also from ``start``).
    """

    def __init__(
        self,
        config: SandboxConfig,
        load_module: Callable[[bytes], Awaitable[bytes]],
        cache: ArtefactCache | None = None,
    ) -> None:
        if config.children < 1:
            raise ConfigError("a sandbox needs at least one child")
        validate_stack_bytes(config.max_stack_bytes)
        self._config = config
        self.engine = engine_identity()
        self.engine_config_s256 = config_s256(config.max_stack_bytes)
        self.hardening: tuple[str, ...] = ()
        self.ended = dict.fromkeys(ChildEnd, 0)
        self._compiler = Compiler(config)
        self._modules = ModuleStore(
            config.artefact_cache_bytes, self._compiler, load_module, self._settled,
            cache,
        )  # fmt: skip
        self._cache = cache
        self._queue = FairQueue(protocol.MAX_BATCH_JOBS)
        self._children: list[Child] = []
        self._started: asyncio.Future[None] | None = None
        self._watching: asyncio.TimerHandle | None = None
        self._restarts: set[asyncio.TimerHandle] = set()
        self._restart_delay = MIN_RESTART_DELAY_S
        self._stopping = False

    # -- the public side ------------------------------------------------------------

    @property
    def running(self) -> int:
        """How many children run a guest now."""
        return sum(child.busy for child in self._children)

    @property
    def capacity(self) -> int:
        """How many guests can run at once; below ``children`` while some start."""
        ready = sum(child.hello is not None for child in self._children)
        return min(ready, self._config.children)

    async def start(self) -> None:
        """Start the children; returns when all are locked down and have proven to work.

        Raises:
            ConfigError: a child does not start here.
        """
        self._started = asyncio.get_running_loop().create_future()
        self._compiler.start()
        for _ in range(self._config.children + 1):
            self._spawn()
        try:
            if self._cache is not None:  # while the children start
                await self._cache.open(self._config, self.engine)
            await self._started
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End every process. Jobs without a report get none: their caller stops too."""
        self._stopping = True
        for handle in self._restarts:
            handle.cancel()
        self._restarts.clear()
        if self._watching is not None:
            self._watching.cancel()
        children = list(self._children)
        for child in children:
            child.process.kill("the sandbox stops")
        await self._modules.stop()
        await self._compiler.stop()
        if self._cache is not None:
            await self._cache.close()
        for child in children:
            await child.process.ended.wait()

    def submit(
        self,
        issuer: str,
        jobs: list[Job],
        on_reports: Callable[[int, list[Report]], None],
    ) -> None:
        """Hand in jobs; returns at once.

        Args:
            issuer: whose turn and share these jobs use.
            jobs: in the caller's order; not changed or copied: leave them alone.
            on_reports: called on the loop with ``(first index, reports)``, any number
                of times, together each index of ``jobs`` exactly once. Never from
                within ``submit``.

        Raises:
            MisuseError: the pool was not started or is stopping.
        """
        if self._started is None or self._stopping:
            raise MisuseError("the sandbox is not running")
        if not jobs:
            return
        submission = Submission(issuer, jobs, on_reports)
        for segment in segments_of(submission, lambda s: self._modules.find(s, issuer)):
            module = segment.module
            module.users += len(segment)
            if module.artefact is not None:
                self._queue.push(segment)
            elif module.refusal is not None:
                asyncio.get_running_loop().call_soon(self._refuse, segment)
            else:
                module.waiting.append(segment)
        self._dispatch()

    async def prepare(self, s256: bytes) -> None:
        """Compile a module before its first job comes; at most one slot is used.

        Whoever waits for it is whoever calls: one after the other is meant. Returns
        when the module is ready or refused; never raises.
        """
        await self._modules.prepare(s256, AHEAD)

    @property
    def compiled(self) -> int:
        """How many modules went through the compiler."""
        return self._modules.compiled

    @property
    def artefact_bytes(self) -> int:
        """Bytes of compiled modules in memory."""
        return self._modules.artefact_bytes

    def forget_refusals(self) -> None:
        """Try modules again that the cache was told to forget; call now and then."""
        self._modules.forget_refusals()

    def withdraw(self, modules: frozenset[bytes], code: Code, message: str) -> None:
        """Report every job on these modules (digests) that no child is at yet.

        What already runs ends by its own limits; jobs on other modules go on.
        """
        for child in self._children:
            if child.busy and child.ledger.holds(modules):
                self._queue.push_front(child.take_back())
        report = Report(code=code, message=message)
        for segment in self._queue.remove(modules):
            self._deliver(segment, 0, [report] * len(segment))
        for module in self._modules.waited_for(modules):
            waiting, module.waiting = module.waiting, []
            for segment in waiting:
                self._deliver(segment, 0, [report] * len(segment))
        self._dispatch()

    # -- modules --------------------------------------------------------------------

    def _settled(self, module: Module) -> None:
        waiting, module.waiting = module.waiting, []
        for segment in waiting:
            if module.artefact is not None:
                self._queue.push(segment)
            else:
                self._refuse(segment)
        self._dispatch()

    def _refuse(self, segment: Segment) -> None:
        refusal = segment.module.refusal
        if refusal is None:
            raise MisuseError("a segment is refused whose module is not")
        report = Report(code=refusal.code, message=refusal.message)
        self._deliver(segment, 0, [report] * len(segment))

    def _deliver(self, segment: Segment, offset: int, reports: list[Report]) -> None:
        """Tell the caller; its failure is its own, but never silent."""
        segment.module.users -= len(reports)
        try:
            segment.submission.on_reports(segment.start + offset, reports)
        except Exception:  # noqa: BLE001 - the caller's callback
            _log.exception("sandbox.callback_failed", issuer=segment.issuer)

    # -- sending --------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Send frames as long as somebody may send and some child can take."""
        while self._queue and not self._stopping:
            idle = self._idle_child()
            child = idle or self._busy_child()
            if child is None:
                return
            chunk = self._queue.take(partial(self._may, child))
            if not chunk and idle is not None:
                # Everybody who waits has a full share: nobody gains from idleness.
                chunk = self._queue.take(lambda _head: True)
            if not chunk:
                return
            self._send(child, chunk)

    def _idle_child(self) -> Child | None:
        """Give the idle child used last, unless ``children`` of them run already."""
        if self.running >= self._config.children:
            return None
        idle = [child for child in self._children if child.idle]
        return max(idle, key=lambda child: child.seen_at, default=None)

    def _busy_child(self) -> Child | None:
        """Give the child whose running frame is oldest, of those with room behind it.

        Whose frame runs there does not matter: what waits behind a slow job is taken
        back.
        """
        room = [child for child in self._children if child.ledger.open]
        return min(room, key=lambda c: c.ledger.frames[0].since, default=None)

    def _may(self, child: Child, head: Segment) -> bool:
        """Whether an issuer may have this child now: half of them while others wait."""
        if head.alone and child.busy:
            return False
        if not self._queue.others_wait(head.issuer):
            return True
        held = {id(c) for c in self._children if c.ledger.serves(head.issuer)}
        held.add(id(child))
        return len(held) <= max(1, self._config.children // 2)

    def _send(self, child: Child, chunk: list[Segment]) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for segment in chunk:
            child.announce(segment.module, self._config)
        if not child.busy:
            child.seen_at = now
        frame = child.ledger.add(chunk, now)
        child.process.send(protocol.frame(protocol.Batch(frame.number, frame.jobs)))
        if self._watching is None:
            self._watching = loop.call_later(WATCH_S, self._watch)

    # -- receiving ------------------------------------------------------------------

    def _body(self, child: Child, body: bytes) -> None:
        """Take one frame from a child; whatever is wrong with it is its end."""
        if child.hello is None:
            child.hello = protocol.decode_hello(body, self.engine_config_s256)
            self._ready(child.hello)
            return
        reply = protocol.decode_reply(body)
        now = asyncio.get_running_loop().time()
        deliveries = child.ledger.accept(reply, now)
        child.cpu_ns = reply.cpu_ns
        for segment, offset, reports in deliveries:
            total_us = sum([report.duration_us for report in reports])
            segment.module.measured(total_us / len(reports))
            self._deliver(segment, offset, reports)
        if reply.done:
            child.seen_at = now
            if not child.busy:
                child.process.stop.value = protocol.NEVER
            self._dispatch()

    def _ready(self, hello: protocol.Hello) -> None:
        self._restart_delay = MIN_RESTART_DELAY_S
        self.hardening = tuple(hello.hardening)
        wanted = self._config.children + 1
        ready = sum(child.hello is not None for child in self._children)
        if self._started is not None and not self._started.done() and ready >= wanted:
            self._started.set_result(None)
        self._dispatch()

    # -- watching -------------------------------------------------------------------

    def _watch(self) -> None:
        """Look at every busy child's marker; kill, take back, and come again."""
        loop = asyncio.get_running_loop()
        self._watching = None
        now = loop.time()
        for child in self._children:
            if child.busy and child.look(now, self._config.grace_ms):
                self._queue.push_front(child.take_back())
                self._dispatch()
        if self.running and not self._stopping:
            self._watching = loop.call_later(WATCH_S, self._watch)

    # -- processes ------------------------------------------------------------------

    def _spawn(self) -> None:
        child = Child()
        config = self._config
        child.process = ChildProcess(
            ENTRY,
            lambda body: self._body(child, body),
            lambda why: self._ended(child, why),
        )
        self._children.append(child)
        child.process.send(
            protocol.frame(
                protocol.ChildConfig(
                    max_stack_bytes=config.max_stack_bytes,
                    data_bytes=config.child_data_bytes,
                    parent_pid=os.getpid(),
                    uid=config.uid,
                    gid=config.gid,
                    require_hardening=config.require_hardening,
                )
            )
        )
        loop = asyncio.get_running_loop()
        loop.call_later(config.start_timeout_s, self._check_started, child)

    @staticmethod
    def _check_started(child: Child) -> None:
        if child.hello is None:
            child.process.kill("it did not start in time")

    def _ended(self, child: Child, why: str) -> None:
        """Decide for each job that an ended process held, and replace the process."""
        self._children.remove(child)
        if self._stopping:
            return
        started = self._started
        if child.hello is None and started is not None and not started.done():
            started.set_exception(ConfigError(f"a sandbox child does not start: {why}"))
            return
        late = child.killed_for is not None
        self.ended[ChildEnd.DEADLINE if late else ChildEnd.CRASH] += 1
        _log.warning("sandbox.child_ended", pid=child.process.pid, why=why)
        if child.busy:
            self._decide(child)
        self._respawn(failed=child.hello is None)
        self._dispatch()

    def _respawn(self, *, failed: bool) -> None:
        """Start a new process, at once unless starting itself is what fails."""
        loop = asyncio.get_running_loop()
        delay = 0.0
        if failed:
            delay = self._restart_delay
            self._restart_delay = min(2 * delay, MAX_RESTART_DELAY_S)

        def spawn() -> None:
            self._restarts.discard(handle)
            try:
                self._spawn()
            except OSError:
                _log.exception("sandbox.spawn_failed")
                self._respawn(failed=True)

        handle = loop.call_later(delay, spawn)
        self._restarts.add(handle)

    def _decide(self, child: Child) -> None:
        """Report or queue again everything that a dead child held."""
        verdict = child.ledger.close(child.process.started.value, child.killed_for)
        again = verdict.again
        if verdict.blamed is not None:
            again = self._blame(verdict.blamed, child) + again
        self._queue.push_front(again)

    def _blame(self, segment: Segment, child: Child) -> list[Segment]:
        """Judge the one job that a dead child was at; give it back if it runs again."""
        if child.killed_for is not None:
            waited_s = asyncio.get_running_loop().time() - child.seen_at
            report = Report(
                code=Code.TIMEOUT,
                message="the guest ran past its deadline and was stopped",
                fuel_exact=False,
                duration_us=int(waited_s * 1e6),
            )
        else:
            segment.attempts += 1
            if segment.attempts < MAX_ATTEMPTS:
                return [segment]
            report = Report(
                code=Code.SANDBOX_CRASHED,
                message="the sandbox process ended while it ran this request, twice",
                fuel_exact=False,
            )
        self._deliver(segment, 0, [report])
        return []
