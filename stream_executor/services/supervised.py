"""A process below the supervisor: start it, read its reports, start it anew.

Each incarnation is a fresh exec with an empty environment. Orders go down standard
input, reports come up a pipe. It has a session of its own: a terminal's Ctrl-C reaches
the supervisor only, and whatever it leaves behind is killed with its process group.

Not here: what it is told and what its reports mean (``worker_process``,
``audit_log_process``), and signals (``supervisor``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec
import structlog

from stream_executor.model.errors import ConfigError, MalformedError
from stream_executor.services.reports import (
    EXIT_CONFIGURATION,
    AuditLogState,
    Fault,
    Report,
    WorkerState,
    read_frames,
)
from stream_executor.services.worker_settings import Message, Reload, encode_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stream_executor.http.tally import Totals

# All that such a process may see of our environment: no secret is among these names.
INHERITED = (
    "PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV",
    "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip
_REAP_S = 5.0

State = TypeVar("State", WorkerState, AuditLogState)

log = structlog.get_logger()


class Patience(msgspec.Struct, frozen=True):
    """How long the supervisor waits for what, in seconds.

    Attributes:
        first_s, most_s: before a start anew; doubles from the one to the other.
        steady_s: a process that lived so long starts again at ``first_s``.
        silence_s: a process that sends no report for so long is killed: its loop hangs.
    """

    first_s: float = 1.0
    most_s: float = 30.0
    steady_s: float = 60.0
    silence_s: float = 60.0


class SupervisedProcess(ABC, Generic[State]):
    """One process that is kept running, from ``run`` until it returns.

    Args:
        name: for the log.
        command: how to start it.
        state: the kind of state that it reports.
        totals: where its counts are added up.
        patience: the waits.

    Attributes:
        reported: set once it has sent a report.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        state: type[State],
        totals: Totals,
        patience: Patience,
    ) -> None:
        self.name = name
        self.reported = asyncio.Event()
        self._command = tuple(command)
        self._state_type: type[State] = state
        self._totals = totals
        self._patience = patience
        self._stopping = asyncio.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._orders: asyncio.WriteTransport | None = None
        self._state: State | None = None
        self._restarts = 0
        self._last_end = ""

    @abstractmethod
    def orders(self, report_fd: int) -> Message:
        """Give the first line of a new incarnation's standard input.

        Args:
            report_fd: what it writes its reports to.
        """

    def restarted(self) -> None:
        """Take note that it ended by itself and is started anew."""

    def refused(self, why: str) -> None:
        """Take note that it refused its configuration.

        Raises:
            ConfigError: always, unless it is worth starting anew all the same.
        """
        raise ConfigError(why)

    @property
    def pid(self) -> int | None:
        """Its process id; None while it waits for its next start."""
        return None if self._process is None else self._process.pid

    async def run(self) -> None:
        """Keep it running until ``drain`` or ``kill``.

        Raises:
            ConfigError: it refused its configuration; starting it anew could not help.
        """
        delay_s = self._patience.first_s
        while not self._stopping.is_set():
            started = time.monotonic()
            code, why = await self._live()
            if self._stopping.is_set():
                return
            if code == EXIT_CONFIGURATION:
                self.refused(why or f"{self.name} refused to start")
            if time.monotonic() - started >= self._patience.steady_s:
                delay_s = self._patience.first_s
            self._restarts += 1
            self.restarted()
            self._last_end = f"ended with {_name(code)}" + (f": {why}" if why else "")
            log.error(
                "process.ended", process=self.name, code=code, reason=why,
                wait_s=delay_s,
            )  # fmt: skip
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay_s)
            delay_s = min(delay_s * 2, self._patience.most_s)

    def reload(self, message: Reload) -> None:
        """Have it take what can be taken now."""
        self._tell(message)

    def drain(self) -> None:
        """Ask it to finish what runs and end; ``run`` returns when it has."""
        self._stopping.set()
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once; its successor goes on where its last effect was."""
        self._stopping.set()
        self._signal(signal.SIGKILL)

    async def _live(self) -> tuple[int, str]:
        """Run one incarnation; give its exit code and its last word."""
        reading, writing = os.pipe()
        try:
            self._process = process = subprocess.Popen(  # noqa: ASYNC220 - a fork
                self._command,
                stdin=subprocess.PIPE,
                pass_fds=[writing],
                env={
                    name: os.environ[name] for name in INHERITED if name in os.environ
                },
                start_new_session=True,
            )
        except OSError as error:
            os.close(reading)
            return 127, f"cannot start {self._command[0]}: {error.strerror}"
        finally:
            os.close(writing)
        log.info("process.started", process=self.name, pid=process.pid)
        reports = asyncio.create_task(self._follow(reading))
        try:
            await self._give_orders(process, writing)
            code = await _ended(process)
        finally:
            # Nothing that it started may outlive it and hold its pipes.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            self._process = None
        try:
            why = await asyncio.wait_for(reports, _REAP_S)
        except TimeoutError:
            why = ""
        if self._orders is not None:
            self._orders.close()
            self._orders = None
        return code, why

    async def _give_orders(
        self, process: subprocess.Popen[bytes], report_fd: int
    ) -> None:
        loop = asyncio.get_running_loop()
        self._orders, _ = await loop.connect_write_pipe(
            asyncio.BaseProtocol, process.stdin
        )
        self._tell(self.orders(report_fd))
        if self._stopping.is_set():  # told to stop before there was a process
            self._signal(signal.SIGTERM)

    def _tell(self, message: Message) -> None:
        if self._orders is not None and not self._orders.is_closing():
            self._orders.write(encode_line(message))

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    async def _follow(self, fd: int) -> str:
        """Take in reports until the pipe ends; give its last word."""
        loop = asyncio.get_running_loop()
        stream = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream),
            os.fdopen(fd, "rb", buffering=0),
        )
        frames = read_frames(stream)
        last_word = ""
        try:
            while True:
                async with asyncio.timeout(self._patience.silence_s):
                    frame = await anext(frames, None)
                if isinstance(frame, Report):
                    if isinstance(frame.state, self._state_type):
                        self._state = frame.state
                    self._totals.absorb(stream, frame.deltas)
                    self.reported.set()
                elif isinstance(frame, Fault):
                    last_word = frame.message
                else:
                    return last_word
        except MalformedError as error:
            self._signal(signal.SIGKILL)
            return str(error)
        except TimeoutError:
            self._signal(signal.SIGKILL)
            return f"no report for {self._patience.silence_s:g} s"
        finally:
            self._state = None
            self._totals.forget(stream)
            transport.close()


async def _ended(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process in a thread of its own.

    asyncio's own way waits for the pipes, too, which a grandchild might hold.
    """
    waiter = ThreadPoolExecutor(1, "wait")
    try:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(waiter, process.wait)
    finally:
        waiter.shutdown(wait=False)


def _name(code: int) -> str:
    """Give an exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
