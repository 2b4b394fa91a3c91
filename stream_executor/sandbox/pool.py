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

Not here: fairness (``schedule``), compiling (``modules``), frames (``protocol``).

Cost: a few µs a frame and under 1 µs a job; nothing is awaited for a job.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from typing import TYPE_CHECKING

import structlog

from stream_executor.model.codes import Code
from stream_executor.model.errors import ConfigError, MalformedError, MisuseError
from stream_executor.model.job import Job, Report
from stream_executor.sandbox import protocol
from stream_executor.sandbox.compile import Compiler
from stream_executor.sandbox.engine import (
    config_s256,
    engine_identity,
    validate_stack_bytes,
)
from stream_executor.sandbox.modules import Module, ModuleStore
from stream_executor.sandbox.process import ChildProcess
from stream_executor.sandbox.schedule import (
    FairQueue,
    Segment,
    Submission,
    segments_of,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stream_executor.sandbox.config import SandboxConfig

_log = structlog.get_logger(__name__)

ENTRY = "stream_executor.sandbox.child"
AHEAD = 2  # frames that a child holds: one runs, one waits in its socket
WATCH_S = 0.025
STALL_S = 0.05  # a job that runs longer gets its followers taken away
MAX_RESTART_DELAY_S = 5.0
MIN_RESTART_DELAY_S = 0.05
MAX_ATTEMPTS = 2

_TIMED_OUT = "deadline"


class Frame:
    """One batch on its way through a child.

    Attributes:
        number: of its first job, as the child counts.
        reported: how many of its jobs have a report.
        keep: jobs from here on were taken back and belong to nobody here.
    """

    __slots__ = ("issuer", "jobs", "keep", "number", "reported", "segments", "since")

    def __init__(self, number: int, segments: list[Segment]) -> None:
        self.number, self.segments = number, segments
        self.issuer = segments[0].issuer
        self.jobs: list[Job] = [job for segment in segments for job in segment.jobs]
        self.reported, self.keep, self.since = 0, len(self.jobs), 0.0

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


class Child:
    """A sandbox process as the pool knows it.

    Attributes:
        frames: what it holds, oldest first; reports come in this order.
        loaded: modules it has, least recently used first, with their sizes.
        seen, seen_at: last marker that was observed, and when it changed.
        killed_at: number of the job that it was killed for, if for a deadline.
        cut: it holds taken-back jobs; nothing is sent until it is through.
    """

    def __init__(self) -> None:
        self.process: ChildProcess
        self.hello: protocol.Hello | None = None
        self.frames: list[Frame] = []
        self.loaded: OrderedDict[bytes, int] = OrderedDict()
        self.loaded_bytes = 0
        self.next_number = 1
        self.seen, self.seen_at = 0, 0.0
        self.killed_at: int | None = None
        self.cut = self.exclusive = False
        self.cpu_ns = 0

    @property
    def idle(self) -> bool:
        """Whether it can take a frame that must be alone."""
        return self.hello is not None and not self.frames

    def open_to(self, issuer: str) -> bool:
        """Whether one more frame can wait behind its current one."""
        del issuer  # any: what waits behind a slow job is taken back
        return 0 < len(self.frames) < AHEAD and not (self.cut or self.exclusive)


class SandboxPool:
    """Run jobs in sandbox children; see the module's docstring.

    Args:
        config: limits and sizes.
        load_module: gives a module's bytes by its SHA-256; ``LookupError`` becomes
            ``module_not_found``, any other exception ``internal``.

    Attributes:
        hardening: what every child reported as applied, sorted.
        engine: identity of the native engine.
        engine_config_s256: digest of the engine's configuration.

    Raises:
        ConfigError: the configuration cannot work (also from ``start``).
    """

    def __init__(
        self,
        config: SandboxConfig,
        load_module: Callable[[bytes], Awaitable[bytes]],
    ) -> None:
        if config.children < 1:
            raise ConfigError("a sandbox needs at least one child")
        validate_stack_bytes(config.max_stack_bytes)
        self._config = config
        self.engine = engine_identity()
        self.engine_config_s256 = config_s256(config.max_stack_bytes)
        self.hardening: tuple[str, ...] = ()
        self._compiler = Compiler(config)
        self._modules = ModuleStore(
            config.artefact_cache_bytes, self._compiler, load_module, self._settled
        )
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
        return sum(bool(child.frames) for child in self._children)

    @property
    def capacity(self) -> int:
        """How many guests can run at the same time; below ``children`` while some start."""
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
        except Exception:
            _log.exception("sandbox_callback_failed", issuer=segment.issuer)

    # -- sending --------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Send frames as long as somebody may send and some child can take."""
        while self._queue and not self._stopping:
            idle = self._idle_child()
            busy = self._busy_child()
            if idle is None and busy is None:
                return

            def may(head: Segment, idle: Child | None = idle) -> bool:
                return self._may(head, idle)

            chunk = self._queue.take(may)
            if not chunk:
                return
            child = idle or busy
            if child is None:
                raise MisuseError("a chunk was taken for no child")
            self._send(child, chunk)

    def _idle_child(self) -> Child | None:
        """Give the idle child used last, unless ``children`` of them run already."""
        if self.running >= self._config.children:
            return None
        idle = [child for child in self._children if child.idle]
        return max(idle, key=lambda child: child.seen_at, default=None)

    def _busy_child(self) -> Child | None:
        open_children = [c for c in self._children if c.open_to("")]
        return min(open_children, key=lambda c: c.frames[0].since, default=None)

    def _may(self, head: Segment, idle: Child | None) -> bool:
        """Whether this issuer may have a child now."""
        if head.alone and idle is None:
            return False
        if not self._queue.others_wait(head.issuer):
            return True
        held = sum(
            any(frame.issuer == head.issuer for frame in child.frames)
            for child in self._children
        )
        return held < max(1, self._config.children // 2)

    def _send(self, child: Child, chunk: list[Segment]) -> None:
        now = asyncio.get_running_loop().time()
        for segment in chunk:
            self._announce(child, segment.module)
        frame = Frame(child.next_number, chunk)
        child.next_number += len(frame.jobs)
        child.exclusive = chunk[0].alone
        frame.since = now
        if not child.frames:
            child.seen_at = now
        child.frames.append(frame)
        child.process.send(protocol.frame(protocol.Batch(frame.number, frame.jobs)))
        if self._watching is None:
            loop = asyncio.get_running_loop()
            self._watching = loop.call_later(WATCH_S, self._watch)

    def _announce(self, child: Child, module: Module) -> None:
        """Make sure that the child has a module; drop others to stay in bounds."""
        if module.s256 in child.loaded:
            child.loaded.move_to_end(module.s256)
            return
        artefact = module.artefact
        if artefact is None:
            raise MisuseError("a module is announced that is not compiled")
        config = self._config
        while child.loaded and (
            len(child.loaded) >= config.child_modules
            or child.loaded_bytes + artefact.size > config.child_modules_bytes
        ):
            s256, size = child.loaded.popitem(last=False)
            child.loaded_bytes -= size
            child.process.send(protocol.frame(protocol.Forget(s256)))
        child.loaded[module.s256] = artefact.size
        child.loaded_bytes += artefact.size
        order = protocol.Announce(module.s256, artefact.shape, artefact.size)
        child.process.send(protocol.frame(order), (artefact.fd,))

    # -- receiving ------------------------------------------------------------------

    def _body(self, child: Child, body: bytes) -> None:
        """Take one frame from a child; whatever is wrong with it is its end."""
        if child.hello is None:
            child.hello = protocol.decode_hello(body, self.engine_config_s256)
            self._ready(child.hello)
            return
        if not child.frames:
            raise MalformedError("a reply without a batch")
        frame = child.frames[0]
        reply = protocol.decode_reply(body)
        protocol.validate_reply(reply, frame.number, frame.jobs, frame.reported)
        child.cpu_ns = reply.cpu_ns
        if reply.reports:
            self._reports(frame, reply.reports)
        if not reply.done:
            return
        if frame.reported < frame.keep:
            raise MalformedError(f"{frame.reported} reports end a longer batch")
        child.frames.pop(0)
        child.seen_at = asyncio.get_running_loop().time()
        if child.frames:
            child.frames[0].since = child.seen_at
        else:
            child.exclusive = child.cut = False
            child.process.stop.value = protocol.NEVER
        self._dispatch()

    def _reports(self, frame: Frame, reports: list[Report]) -> None:
        """Hand reports to their submissions, except those of taken-back jobs."""
        first = frame.reported
        frame.reported += len(reports)
        wanted = reports[: max(0, frame.keep - first)]
        at = 0
        for segment in frame.segments:
            start, stop = max(first, at), min(first + len(wanted), at + len(segment))
            if start < stop:
                part = wanted[start - first : stop - first]
                segment.module.measured(sum([r.duration_us for r in part]) / len(part))
                self._deliver(segment, start - at, part)
            at += len(segment)

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
            if child.frames:
                self._watch_child(child, now)
        if self.running and not self._stopping:
            self._watching = loop.call_later(WATCH_S, self._watch)

    def _watch_child(self, child: Child, now: float) -> None:
        frame = child.frames[0]
        started = child.process.started.value
        if started != child.seen:
            child.seen, child.seen_at = started, now
        index = self._current(frame, started)
        if index >= len(frame.jobs):
            if started >= child.next_number:
                child.process.kill("its marker is ahead of its jobs")
            index = len(frame.jobs) - 1  # it is done; the reply is on its way
        waited = now - child.seen_at
        grace = self._config.grace_ms
        allowed = (frame.jobs[index].limits.deadline_ms + grace) / 1000
        if waited > allowed and child.killed_at is None:
            child.killed_at = frame.number + index
            child.process.kill(_TIMED_OUT)
        elif waited > STALL_S and not child.cut:
            self._take_back(child, index)
        elif now - frame.since > allowed:
            # Markers that move but no end: the sum of all deadlines is the bound.
            total = sum(job.limits.deadline_ms + grace for job in frame.jobs) / 1000
            if now - frame.since > total + allowed:
                child.process.kill("its batch takes longer than all its jobs may")

    @staticmethod
    def _current(frame: Frame, started: int) -> int:
        """Give the index of the job that a child is at, by its marker, clamped."""
        return max(started - frame.number, frame.reported)

    def _take_back(self, child: Child, index: int) -> None:
        """Take everything behind job ``index`` of a stalled child's frame back."""
        frame = child.frames[0]
        behind = frame.between(max(index + 1, frame.reported), frame.keep)
        for later in child.frames[1:]:
            behind += later.between(later.reported, later.keep)
            later.keep = later.reported
        frame.keep = min(frame.keep, max(index + 1, frame.reported))
        if not behind:
            return
        child.cut = True
        child.process.stop.value = frame.number + index + 1
        self._queue.push_front(behind)
        self._dispatch()

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
        _log.warning("sandbox_child_ended", pid=child.process.pid, why=why)
        if child.frames:
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
                _log.exception("sandbox_spawn_failed")
                self._respawn(failed=True)

        handle = loop.call_later(delay, spawn)
        self._restarts.add(handle)

    def _decide(self, child: Child) -> None:
        """Report or re-queue everything that a dead child held."""
        frame = child.frames[0]
        index = self._current(frame, child.process.started.value)
        again: list[Segment] = []
        timed_out = child.killed_at is not None
        blamed = index < frame.keep
        if timed_out and frame.number + index != child.killed_at:
            blamed = False  # it went on just before the kill
        stop = index if blamed else frame.keep
        before = frame.between(frame.reported, min(stop, frame.keep))
        after = frame.between(index + 1, frame.keep) if blamed else []
        if not timed_out:
            for segment in (*before, *after):
                segment.crashes += 1
        if blamed:
            (segment,) = frame.between(index, index + 1)
            again += self._blame(segment, child, timed_out=timed_out)
        again += before + after
        for later in child.frames[1:]:
            again += later.between(later.reported, later.keep)
        child.frames.clear()
        self._queue.push_front(again)

    def _blame(
        self, segment: Segment, child: Child, *, timed_out: bool
    ) -> list[Segment]:
        """Judge the one job that a dead child was at; give it back if it runs again."""
        if timed_out:
            waited = asyncio.get_running_loop().time() - child.seen_at
            report = Report(
                code=Code.TIMEOUT,
                message="the guest ran past its deadline and was stopped",
                fuel_exact=False,
                duration_us=int(waited * 1e6),
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
