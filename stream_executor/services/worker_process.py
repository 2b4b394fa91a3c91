"""One worker slot: start a process, read its reports, start it anew when it ends.

Each incarnation is a fresh exec with an Ed25519 key of its own, certified by the fleet
key, which never leaves the supervisor. Orders go down standard input, reports come up
a pipe. Workers have their own session: a terminal's Ctrl-C reaches the supervisor only,
and whatever a worker leaves behind is killed with its process group.

Not here: which slots there are, signals, what the reports mean (``supervisor``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stream_executor.audit.signing import certify, public_bytes
from stream_executor.http import metrics
from stream_executor.http.status import WorkerStatus
from stream_executor.model.errors import ConfigError, MalformedError
from stream_executor.services.reports import (
    WorkerFault,
    WorkerReport,
    WorkerState,
    read_frames,
)
from stream_executor.services.worker_settings import (
    Message,
    Reload,
    WorkerIdentity,
    WorkerOrders,
    WorkerSettings,
    encode_line,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stream_executor.http.tally import Tally, Totals

WORKER_COMMAND = (sys.executable, "-m", "stream_executor.services.worker")
EXIT_CONFIGURATION = 4
# All that a worker may see of our environment: no secret is among these names.
INHERITED = (
    "PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV",
    "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip
# A worker's last commit may have begun just before its drain budget ended.
DRAIN_MARGIN_S = 5.0
_REAP_S = 5.0

log = structlog.get_logger()


class Patience(msgspec.Struct, frozen=True):
    """How long the supervisor waits for what, in seconds.

    Attributes:
        first_s, most_s: before a start anew; doubles from the one to the other.
        steady_s: a worker that lived so long starts again at ``first_s``.
        silence_s: a worker that sends no report for so long is killed: its loop hangs.
    """

    first_s: float = 1.0
    most_s: float = 30.0
    steady_s: float = 60.0
    silence_s: float = 60.0


class WorkerSlot:
    """One slot, from ``run`` until it returns.

    Args:
        number: the slot's number, held by ``slots.Slots``.
        instance: the instance id that the slot's number is added to.
        settings: what every worker is told.
        fleet_key: certifies each incarnation's key.
        totals: where reports are added up.
        own: the supervisor's counts.
        command: how to start a worker.
        patience: the waits.
    """

    def __init__(
        self,
        number: int,
        instance: str,
        settings: WorkerSettings,
        fleet_key: Ed25519PrivateKey,
        totals: Totals,
        own: Tally,
        command: Sequence[str],
        patience: Patience,
    ) -> None:
        self.number = number
        self.name = f"{instance}-{number}"
        self.reported = asyncio.Event()
        self._settings = settings
        self._fleet_key = fleet_key
        self._totals = totals
        self._own = own
        self._command = tuple(command)
        self._patience = patience
        self._stopping = asyncio.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._orders: asyncio.WriteTransport | None = None
        self._state: WorkerState | None = None
        self._restarts = 0
        self._last_end = ""

    @property
    def status(self) -> WorkerStatus:
        """What is known of this slot now."""
        state = self._state or WorkerState(note=self._last_end)
        return WorkerStatus(
            slot=self.number,
            instance=self.name,
            pid=None if self._process is None else self._process.pid,
            reporting=self._state is not None,
            ready=state.ready,
            audit_writable=state.audit_writable,
            note=state.note,
            restarts=self._restarts,
            engine=state.engine,
            audience=state.audience,
            hardening=state.hardening,
            lanes=state.lanes,
        )

    async def run(self) -> None:
        """Keep a worker running until ``drain`` or ``kill``.

        Raises:
            ConfigError: the worker refused its configuration; starting it anew could
                not help.
        """
        delay_s = self._patience.first_s
        while not self._stopping.is_set():
            started = time.monotonic()
            code, why = await self._live()
            if self._stopping.is_set():
                return
            if code == EXIT_CONFIGURATION:
                raise ConfigError(why or f"worker {self.name} refused to start")
            if time.monotonic() - started >= self._patience.steady_s:
                delay_s = self._patience.first_s
            self._restarts += 1
            self._own.add(metrics.WORKER_RESTARTS)
            self._last_end = f"ended with {_name(code)}" + (f": {why}" if why else "")
            log.error(
                "worker.ended", worker=self.name, code=code, reason=why, wait_s=delay_s
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay_s)
            delay_s = min(delay_s * 2, self._patience.most_s)

    def reload(self, log_level: str) -> None:
        """Have this worker, and those that follow it, take what can be taken now."""
        self._settings = msgspec.structs.replace(self._settings, log_level=log_level)
        self._tell(Reload(log_level))

    def drain(self) -> None:
        """Ask the worker to finish what runs and end; ``run`` returns when it has."""
        self._stopping.set()
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the worker at once; the next owner of its lanes recovers."""
        self._stopping.set()
        self._signal(signal.SIGKILL)

    async def _live(self) -> tuple[int, str]:
        """Run one incarnation; give its exit code and its last word."""
        reading, writing = os.pipe()
        incarnation = secrets.token_bytes(16)
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
        log.info("worker.started", worker=self.name, pid=process.pid)
        reports = asyncio.create_task(self._follow(reading, incarnation))
        try:
            await self._give_orders(process, incarnation, writing)
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
        self, process: subprocess.Popen[bytes], incarnation: bytes, report_fd: int
    ) -> None:
        """Make the incarnation's key and certificate; send the first line."""
        key = Ed25519PrivateKey.generate()
        now_ms = time.time_ns() // 1_000_000
        identity = WorkerIdentity(
            instance=self.name,
            slot=self.number,
            incarnation=incarnation,
            process_secret_key=key.private_bytes_raw(),
            certificate=certify(public_bytes(key), self._fleet_key, now_ms),
        )
        loop = asyncio.get_running_loop()
        self._orders, _ = await loop.connect_write_pipe(
            asyncio.BaseProtocol, process.stdin
        )
        self._tell(WorkerOrders(self._settings, identity, os.getpid(), report_fd))
        if self._stopping.is_set():  # told to stop before there was a process
            self._signal(signal.SIGTERM)

    def _tell(self, message: Message) -> None:
        if self._orders is not None and not self._orders.is_closing():
            self._orders.write(encode_line(message))

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    async def _follow(self, fd: int, incarnation: bytes) -> str:
        """Take in reports until the pipe ends; give the worker's last word."""
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
                if isinstance(frame, WorkerReport):
                    self._state = frame.state
                    self._totals.absorb(incarnation, frame.deltas)
                    self.reported.set()
                elif isinstance(frame, WorkerFault):
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
            self._totals.forget(incarnation)
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
