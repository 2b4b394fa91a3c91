"""Have modules compiled: the parent's half of the compile child.

A child compiles one module and ends; the next one is started ahead. What it wrote is
sealed after its end and used for that module's digest only, because whoever compiled
a hostile module counts as hostile. Limits of memory and CPU time are the child's,
the wall clock is kept here; it stands while the child waits for a CPU, because a busy
host must not make an honest module look like a bomb.

Not here: remembering results (``modules``), the child (``compile_child``).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import structlog

from stream_executor.model.codes import Code
from stream_executor.model.errors import MalformedError, TransientError
from stream_executor.sandbox import protocol
from stream_executor.sandbox.engine import config_s256
from stream_executor.sandbox.process import ChildProcess, seal, sealed_memfd

if TYPE_CHECKING:
    from stream_executor.sandbox.config import SandboxConfig

_log = structlog.get_logger(__name__)

ENTRY = "stream_executor.sandbox.compile_child"
WHOLE_TIME_BYTES = 8 * 1024 * 1024
SMALLEST_SHARE = 0.25
MOST_STARVED = 4.0
"""So many times its time a compilation may take by the wall clock, whatever it gets."""
_LEAST_LOOK_S = 0.05


class Artefact(NamedTuple):
    """A compiled module: a sealed descriptor that its holder closes."""

    fd: int
    size: int
    shape: bytes


class Refusal(NamedTuple):
    """A module that cannot be run, and what every job on it is told."""

    code: Code
    message: str


def wall_s(most_s: float, size: int) -> float:
    """Give the seconds with a CPU that a module of ``size`` bytes may take to compile.

    A bomb is small and an honest small module is quick: a quarter up to 2 MiB, then
    in proportion, everything from 8 MiB on.
    """
    return most_s * min(max(size / WHOLE_TIME_BYTES, SMALLEST_SHARE), 1.0)


def left_s(seconds: float, wall: float, cpu: float) -> float:
    """Give how long a compilation may at least go on; 0 or less is its end.

    Args:
        seconds: with a CPU, that it may take.
        wall: seconds since it began.
        cpu: CPU seconds of all its threads since then. Less than ``wall`` means that
            it waited for a CPU; what it used grows no faster than the wall clock.
    """
    return min(seconds - min(wall, cpu), MOST_STARVED * seconds - wall)


def cpu_s(pid: int) -> float:
    """Give the CPU seconds of a process; 0 once it has ended.

    Source: clock_getcpuclockid(3), whose Linux encoding needs no library.
    """
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:
        return 0.0


class _Compilation:
    """One compile child: hello, one order, one answer, end."""

    def __init__(self, config: SandboxConfig) -> None:
        self._config = config
        self._expected = config_s256(config.max_stack_bytes)
        self.hello: protocol.Hello | None = None
        self._answer: protocol.Compiled | None = None
        self._why = ""
        self._watching: asyncio.TimerHandle
        self.process = ChildProcess(ENTRY, self._body, self._end)
        self.process.send(
            protocol.frame(
                protocol.ChildConfig(
                    max_stack_bytes=config.max_stack_bytes,
                    data_bytes=config.compile_data_bytes,
                    parent_pid=os.getpid(),
                    uid=config.uid,
                    gid=config.gid,
                    require_hardening=config.require_hardening,
                    cpu_s=config.compile_cpu_s,
                    file_bytes=config.max_artefact_bytes,
                )
            )
        )

    def _body(self, body: bytes) -> None:
        if self.hello is None:
            self.hello = protocol.decode_hello(body, self._expected)
        elif self._answer is None:
            limit = self._config.max_artefact_bytes
            self._answer = protocol.decode_compiled(body, limit)
        else:
            raise MalformedError("a compile child talks after its answer")

    def _end(self, why: str) -> None:
        self._why = why

    async def run(self, data: bytes) -> Artefact | Refusal:
        """Compile; returns after the process has ended.

        Raises:
            TransientError: the process failed before it got to the module.
        """
        loop = asyncio.get_running_loop()
        process = self.process
        artefact_fd = os.memfd_create("artefact", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            module_fd = sealed_memfd("module", data)
            try:
                order = protocol.frame(protocol.CompileOrder(len(data)))
                process.send(order, (module_fd, artefact_fd))
            finally:
                os.close(module_fd)
            seconds = wall_s(self._config.compile_wall_s, len(data))
            self._watch(seconds, loop.time(), cpu_s(process.pid))
            try:
                await process.ended.wait()
            finally:
                self._watching.cancel()
                process.kill("nobody waits for it")
            return self._result(artefact_fd)
        except BaseException:
            os.close(artefact_fd)
            raise

    def _watch(self, seconds: float, began: float, cpu_before_s: float) -> None:
        """Kill it when its time is over: ``seconds`` with a CPU."""
        loop = asyncio.get_running_loop()
        cpu = cpu_s(self.process.pid) - cpu_before_s
        left = left_s(seconds, loop.time() - began, cpu)
        if left <= 0:
            self.process.kill("compile time is over")
            return
        self._watching = loop.call_later(
            max(left, _LEAST_LOOK_S), self._watch, seconds, began, cpu_before_s
        )

    def _result(self, artefact_fd: int) -> Artefact | Refusal:
        answer = self._answer
        if answer is not None and answer.code is None:
            seal(artefact_fd)  # the writer is gone: nobody can have it mapped
            if os.fstat(artefact_fd).st_size == answer.size:
                return Artefact(artefact_fd, answer.size, answer.shape)
            answer = None
        if answer is None and self.hello is None:
            raise TransientError(f"the compile child did not start: {self._why}")
        os.close(artefact_fd)
        if answer is not None and answer.code is not None:
            return Refusal(Code(answer.code), answer.message)
        _log.warning("sandbox.compile_ended", pid=self.process.pid, why=self._why)
        return Refusal(
            Code.COMPILE_LIMIT, "compiling the module took more than is allowed"
        )


class Compiler:
    """Compile modules, at most ``config.compilers`` at a time and one an issuer."""

    def __init__(self, config: SandboxConfig) -> None:
        self._config = config
        self._slots = asyncio.Semaphore(config.compilers)
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._spare: _Compilation | None = None
        self._running: set[_Compilation] = set()
        self._stopped = False

    def start(self) -> None:
        """Start the first process ahead of need."""
        self._prepare()

    def _prepare(self) -> None:
        """Start a process for the next module; without one, that module waits."""
        try:
            self._spare = self._spare or _Compilation(self._config)
        except OSError:
            _log.exception("sandbox.spawn_failed")

    async def stop(self) -> None:
        """End all processes; compilations under way fail."""
        self._stopped = True
        compilations = [*self._running, *([self._spare] if self._spare else [])]
        for compilation in compilations:
            compilation.process.kill("the sandbox stops")
        for compilation in compilations:
            await compilation.process.ended.wait()

    async def compile(self, issuer: str, data: bytes) -> Artefact | Refusal:
        """Compile one module.

        The issuer waits for its own earlier modules, never for more than a slot of
        another's: a bomb costs its sender.

        Raises:
            TransientError: no compile process could do its work.
        """
        if not 0 < len(data) <= self._config.max_module_bytes:
            message = f"the module has {len(data)} bytes; the sandbox takes fewer"
            return Refusal(Code.COMPILE_LIMIT, message)
        async with self._turns[issuer], self._slots:
            if self._stopped:
                raise TransientError("the sandbox is stopped")
            compilation, self._spare = self._spare, None
            if compilation is None or compilation.process.ended.is_set():
                compilation = _Compilation(self._config)
            self._running.add(compilation)
            self._prepare()
            try:
                return await compilation.run(data)
            finally:
                self._running.discard(compilation)
