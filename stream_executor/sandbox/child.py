"""The process that runs guests: frames in, frames out, and nothing else to reach.

Started by a fresh exec with an empty environment. It reads its configuration from
the first frame, locks itself down, proves its fast path on a known module, says
hello, and then runs batches in order, one job at a time, until the socket ends. The
number of the job that it starts is written to a page shared with the parent, from
which the parent counts deadlines. Reports leave when a batch is done, after a slow
job, and, while a job hangs, from the ticker thread.

Its imports hold no settings, keys or Kafka, which a test asserts. Logs do not exist
here; a failure is one line on standard error, which the parent reads.

Not here: what a job does (``guest``, ``abi``, ``wasi_host``).
"""

from __future__ import annotations

import array
import collections
import ctypes
import gc
import mmap
import os
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING

import msgspec

from stream_executor.model.codes import Code
from stream_executor.model.errors import ExecutorError
from stream_executor.sandbox import protocol
from stream_executor.sandbox.abi import bytes_runner
from stream_executor.sandbox.engine import Engine, config_s256
from stream_executor.sandbox.guest import TICK_MS, Guest, Run
from stream_executor.sandbox.harden import lock_down
from stream_executor.sandbox.inspect import ModuleShape
from stream_executor.sandbox.native import Native
from stream_executor.sandbox.outcome import refusal
from stream_executor.sandbox.probe import run_probe
from stream_executor.sandbox.wasi_files import FileTree
from stream_executor.sandbox.wasi_host import WasiHost

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stream_executor.model.job import Report

SLOW_US = 1_000
LARGE_BYTES = 16 * 1024
TICK_S = TICK_MS / 1000
IDLE_TICKS = 100  # then the ticker sleeps until the next batch
HUNG_TICKS = 2
READ_BYTES = 256 * 1024
MAX_FDS = 8

_NOT_ANNOUNCED = refusal(Code.INTERNAL, "the module was not announced")
_UNKNOWN_MODULE: tuple[Run, Run, Run] = (lambda _job: _NOT_ANNOUNCED,) * 3
_decode_shape = msgspec.msgpack.Decoder(ModuleShape).decode


class Inbox:
    """Blocking frames from the parent, with the descriptors that came with them."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._room = bytearray(READ_BYTES)
        self._frames = protocol.FrameBuffer(protocol.MAX_ORDER_BYTES)
        self.fds: collections.deque[int] = collections.deque()

    def bodies(self) -> Iterator[bytes]:
        """Give frame bodies until the parent closes its end."""
        view = memoryview(self._room)
        ancillary = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
        while True:
            length, controls, _, _ = self._link.recvmsg_into([self._room], ancillary)
            for level, kind, data in controls:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    self.fds.extend(array.array("i", data))
            if not length:
                return
            yield from self._frames.feed(view[:length])


class Outbox:
    """Reports on their way out; both threads may flush, only one adds."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._lock = threading.Lock()
        self._number = self._first = 0
        self.reports: list[Report] = []

    def begin(self, number: int) -> None:
        """Start a batch; the one before has been flushed as done."""
        with self._lock:  # the ticker may be about to flush
            self._number, self._first = number, 0

    def flush(self, *, done: bool = False) -> None:
        """Send what there is, in order. Blocks until the parent has taken it."""
        with self._lock:
            count = len(self.reports)
            reports = self.reports[:count]
            del self.reports[:count]
            reply = protocol.Reply(
                self._number, self._first, reports, done, time.process_time_ns()
            )
            self._first += count
            self._link.sendall(protocol.frame(reply))


def ticks_due(late_s: float, *, new_job: bool) -> int:
    """Give how many ticks to make up, one at least.

    Sleeps are late, by much on a busy machine; deadlines must not be. But time that
    passed before a job began is not its own: it would end before its deadline.
    """
    return 1 if new_job else max(1, int(late_s / TICK_S))


class Ticker:
    """Advance the engine's epoch while batches run; flush while a job hangs.

    It sleeps when nothing runs, so that an idle child costs nothing.
    """

    def __init__(
        self, engine: Engine, outbox: Outbox, started: ctypes.c_uint64
    ) -> None:
        self._advance = engine.native.quick.engine_increment_epoch
        self._engine, self._outbox, self._started = engine, outbox, started
        self._wake = threading.Event()
        self.busy = False
        threading.Thread(target=self._run, name="ticker", daemon=True).start()

    def begin(self) -> None:
        """Tick from now on; the order matters against ``_pause``."""
        self.busy = True
        self._wake.set()

    def _pause(self) -> None:
        self._wake.clear()
        if not self.busy:
            self._wake.wait()

    def _run(self) -> None:
        idle = same = 0
        last = -1
        ticked = time.monotonic()
        try:
            while True:
                time.sleep(TICK_S)
                started, now = self._started.value, time.monotonic()
                due = ticks_due(now - ticked, new_job=started != last)
                ticked = max(ticked + due * TICK_S, now - TICK_S)
                for _ in range(due):
                    self._advance(self._engine.address)
                idle = 0 if self.busy else idle + 1
                same = same + 1 if self.busy and started == last else 0
                last = started
                if same >= HUNG_TICKS and self._outbox.reports:
                    self._outbox.flush()
                if idle >= IDLE_TICKS:
                    self._pause()
                    idle, ticked = 0, time.monotonic()
        except OSError:
            pass  # the parent is gone; the main thread sees it too
        except BaseException as error:  # noqa: BLE001 - the boundary of a thread
            # Without ticks no deadline holds inside: better no process at all.
            fail("the ticker failed", error)


class Modules:
    """The modules that the parent announced, by digest."""

    def __init__(self, engine: Engine, host: WasiHost, inbox: Inbox) -> None:
        self._engine, self._host, self._inbox = engine, host, inbox
        self._guests: dict[bytes, Guest] = {}
        self.runs: dict[bytes, tuple[Run, Run, Run]] = {}

    def announce(self, order: protocol.Announce) -> None:
        """Load a compiled module; one that does not load fails its jobs only."""
        fd = self._inbox.fds.popleft()
        try:
            with mmap.mmap(fd, order.size, access=mmap.ACCESS_COPY) as artefact:
                pinned = ctypes.c_char.from_buffer(artefact)
                shape = _decode_shape(order.shape)
                code = shape.bundle[0].at if shape.bundle else order.size
                place = (ctypes.addressof(pinned), min(code, order.size))
                guest = Guest(self._engine, shape, place, self._host.linker)
                del pinned
                files = [
                    (file.path, artefact[file.at : file.at + file.length])
                    for file in shape.bundle
                ]
                bundle = FileTree(tuple(files)) if files else None
        except (ExecutorError, msgspec.MsgspecError, ValueError, OSError) as error:
            say(f"module {order.s256.hex()} does not load", error)
            return
        finally:
            os.close(fd)
        # By InvocationKind: CALL, BYTES, WASI.
        runs = (guest.call, bytes_runner(guest), self._host.runner(guest, bundle))
        self._guests[order.s256] = guest
        self.runs[order.s256] = runs

    def forget(self, order: protocol.Forget) -> None:
        """Free a module."""
        guest = self._guests.pop(order.s256, None)
        if guest is not None:
            del self.runs[order.s256]
            guest.close()


def run_batch(
    batch: protocol.Batch,
    runs: dict[bytes, tuple[Run, Run, Run]],
    outbox: Outbox,
    started: ctypes.c_uint64,
    stop: ctypes.c_uint64,
) -> None:
    """Run a batch's jobs in order until the parent's stop number; report each."""
    outbox.begin(batch.number)
    number, find, append = batch.number, runs.get, outbox.reports.append
    for job in batch.jobs:
        if number >= stop.value:
            break
        started.value = number
        report = find(job.module_s256, _UNKNOWN_MODULE)[job.kind](job)
        append(report)
        if report.duration_us > SLOW_US or (
            len(report.output) + len(report.stderr) > LARGE_BYTES
        ):
            outbox.flush()
        number += 1
    outbox.flush(done=True)


def serve(link: socket.socket, page_fd: int) -> None:
    """Be a sandbox child on this socket and page until the socket ends."""
    inbox = Inbox(link)
    bodies = inbox.bodies()
    config = protocol.decode_config(next(bodies))
    page = mmap.mmap(page_fd, protocol.PAGE_BYTES)
    started = ctypes.c_uint64.from_buffer(page, protocol.STARTED_AT)
    stop = ctypes.c_uint64.from_buffer(page, protocol.STOP_AT)
    engine = Engine(Native(), config.max_stack_bytes, parallel=False)
    host = WasiHost(engine)
    applied = lock_down(config)
    run_probe(engine, host.linker)
    outbox = Outbox(link)
    ticker = Ticker(engine, outbox, started)
    modules = Modules(engine, host, inbox)
    gc.collect()
    gc.freeze()
    hello = protocol.Hello(applied, config_s256(config.max_stack_bytes))
    link.sendall(protocol.frame(hello))
    for body in bodies:
        order = protocol.decode_order(body)
        if isinstance(order, protocol.Batch):
            ticker.begin()
            run_batch(order, modules.runs, outbox, started, stop)
            ticker.busy = False
        elif isinstance(order, protocol.Announce):
            modules.announce(order)
        else:
            modules.forget(order)


def say(message: str, error: BaseException) -> None:
    """Write one line about a failure; the parent escapes and cuts it."""
    sys.stderr.write(f"{message}: {type(error).__name__}: {error}\n")
    sys.stderr.flush()


def fail(message: str, error: BaseException) -> None:
    """End the process with a line about why."""
    say(message, error)
    os._exit(70)


def main(socket_fd: int, page_fd: int) -> None:
    """Entry of the process; never returns."""
    try:
        serve(socket.socket(fileno=socket_fd), page_fd)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the parent is gone
    except BaseException as error:  # noqa: BLE001 - the boundary of the process
        fail("the sandbox child failed", error)
    # No finalizers: the engine's and the interpreter's may wait for each other.
    os._exit(0)
