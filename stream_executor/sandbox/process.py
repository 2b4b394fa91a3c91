"""One child process from the parent's side: start, frames, standard error, end.

The child gets a fresh exec, an empty environment, a socket, and (a sandbox child) a
shared page: nothing else. Its end is always noticed, through a pidfd, and told
exactly once, after everything that it managed to send was handed over. No thread
waits for anything, and the event loop never does.

Not here: what frames mean (``pool``, ``compile``).

Source: pidfd_open(2), unix(7) SCM_RIGHTS, memfd_create(2). Linux only.
"""

from __future__ import annotations

import array
import asyncio
import collections
import contextlib
import ctypes
import fcntl
import mmap
import os
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import structlog

from stream_executor.model.errors import MalformedError
from stream_executor.sandbox import protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_log = structlog.get_logger(__name__)

SOCKET_BYTES = 1024 * 1024
READ_BYTES = 256 * 1024
STDERR_KEPT_BYTES = 2048
STDERR_READ_BYTES = 64 * 1024  # then it is closed: a flood costs us nothing more

_FIXED_SIZE = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW

# Only what a child needs can be imported there.
_PACKAGES = ("stream_executor", "msgspec", "wasmtime")


def import_roots() -> list[str]:
    """Give the folders from which a child imports; ours comes last."""
    roots: dict[str, None] = {}
    for name in reversed(_PACKAGES):
        spec = find_spec(name)
        if spec is not None and spec.origin is not None:
            roots[str(Path(spec.origin).parent.parent)] = None
    return list(roots)


def sealed_memfd(name: str, content: bytes) -> int:
    """Give a descriptor of an unchangeable copy of ``content``; the caller's."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view, at = memoryview(content), 0
        while at < len(content):
            at += os.write(fd, view[at:])
        seal(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def seal(fd: int) -> None:
    """Make a memfd unchangeable for everybody who holds it.

    Raises:
        OSError: somebody has it mapped for writing.
    """
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _FIXED_SIZE | fcntl.F_SEAL_WRITE)


class ChildProcess:
    """A started child.

    Args:
        entry: module whose ``main(socket_fd, page_fd)`` is the process.
        on_body: gets each frame's body, on the loop; ``MalformedError`` from it
            kills the child, any other exception too, after a log line.
        on_end: told once why the process ended, after its last frame.
        max_reply_bytes: longest frame that is accepted from it.

    Attributes:
        page: shared page for markers (``protocol.STARTED_AT``, ``STOP_AT``).
        started, stop: the two numbers in it.
    """

    def __init__(
        self,
        entry: str,
        on_body: Callable[[bytes], None],
        on_end: Callable[[str], None],
        max_reply_bytes: int = protocol.MAX_REPLY_BYTES,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_body, self._on_end = on_body, on_end
        self._frames = protocol.FrameBuffer(max_reply_bytes)
        self._backlog: collections.deque[tuple[memoryview, list[int]]] = (
            collections.deque()
        )
        self._reason = ""
        self._reading, self._waiting = True, False
        self._stderr = b""
        self._stderr_seen = 0
        self.ended = asyncio.Event()
        self._start(entry)

    def _start(self, entry: str) -> None:
        page_fd = os.memfd_create("page", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(page_fd, protocol.PAGE_BYTES)
        # Whoever shortens a file ends those who have it mapped, and that is us.
        fcntl.fcntl(page_fd, fcntl.F_ADD_SEALS, _FIXED_SIZE)
        self.page = mmap.mmap(page_fd, protocol.PAGE_BYTES)
        self.started = ctypes.c_uint64.from_buffer(self.page, protocol.STARTED_AT)
        self.stop = ctypes.c_uint64.from_buffer(self.page, protocol.STOP_AT)
        self.stop.value = protocol.NEVER
        ours, theirs = socket.socketpair()
        try:
            for end in (ours, theirs):
                for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                    end.setsockopt(socket.SOL_SOCKET, option, SOCKET_BYTES)
            ours.setblocking(False)
            code = (
                f"import sys; sys.path += {import_roots()!r}; "
                f"from {entry} import main; main({theirs.fileno()}, {page_fd})"
            )
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", code],
                env={},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(), page_fd),
                start_new_session=True,  # a terminal's Ctrl-C is for the parent
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(page_fd)
        self._socket = ours
        self.pid = self._process.pid
        self._pidfd = os.pidfd_open(self.pid)
        self._errors = cast("IO[bytes]", self._process.stderr)  # PIPE was asked for
        os.set_blocking(self._errors.fileno(), False)
        self._loop.add_reader(self._socket.fileno(), self._readable)
        self._loop.add_reader(self._errors.fileno(), self._stderr_readable)
        self._loop.add_reader(self._pidfd, self._exited)

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send a frame, later if the child is not reading; descriptors are copied.

        A child that is gone takes nothing: its end is told through ``on_end``.
        """
        self._backlog.append((memoryview(data), [os.dup(fd) for fd in fds]))
        if not self._waiting:
            self._write()

    def kill(self, reason: str) -> None:
        """End the process now; ``on_end`` comes when the kernel has ended it.

        The first reason counts. Idempotent.
        """
        if not self._reason:
            self._reason = reason
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)

    def _write(self) -> None:
        """Write what goes; descriptors go with the first byte of their frame."""
        while self._backlog:
            view, fds = self._backlog[0]
            try:
                if fds:
                    rights = array.array("i", fds)
                    control = (socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)
                    sent = self._socket.sendmsg([view], [control])
                else:
                    sent = self._socket.send(view)
            except BlockingIOError:
                if not self._waiting:
                    self._waiting = True
                    self._loop.add_writer(self._socket.fileno(), self._write)
                return
            except OSError:
                sent = len(view)  # gone
            _close_all(fds)
            if sent == len(view):
                self._backlog.popleft()
            else:
                self._backlog[0] = (view[sent:], [])
        if self._waiting:
            self._waiting = False
            self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> bool:
        """Take what there is; False if there is nothing more."""
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if data:
            self._take(data)
        elif self._reading:
            self._stop_reading()
            self.kill("")  # without its socket it can do nothing more for us
        return self._reading

    def _take(self, data: bytes) -> None:
        try:
            for body in self._frames.feed(data):
                self._on_body(body)
        except MalformedError as error:
            self._distrust(f"malformed reply: {error}")
        except Exception as error:  # noqa: BLE001 - the boundary to hostile bytes
            _log.exception("sandbox.reader_failed", pid=self.pid)
            self._distrust(f"reader failed: {type(error).__name__}")

    def _distrust(self, reason: str) -> None:
        """Read nothing more from this process and end it."""
        self._stop_reading()
        self.kill(reason)

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._socket.fileno())

    def _stderr_readable(self) -> bool:
        try:
            data = os.read(self._errors.fileno(), READ_BYTES)
        except BlockingIOError:
            return False
        self._stderr = (self._stderr + data)[-STDERR_KEPT_BYTES:]
        self._stderr_seen += len(data)
        if not data or self._stderr_seen > STDERR_READ_BYTES:
            self._close_errors()
        return bool(data)

    def _close_errors(self) -> None:
        self._loop.remove_reader(self._errors.fileno())
        self._errors.close()

    def _exited(self) -> None:
        """The kernel has ended it: hand over what it sent, then tell the end."""
        self._loop.remove_reader(self._pidfd)
        while self._reading and self._readable():
            pass
        self._stop_reading()
        while not self._errors.closed and self._stderr_readable():
            pass
        if not self._errors.closed:
            self._close_errors()
        status = self._process.wait()  # returns at once
        os.close(self._pidfd)
        if self._waiting:
            self._loop.remove_writer(self._socket.fileno())
        for _, fds in self._backlog:
            _close_all(fds)
        self._backlog.clear()
        self._socket.close()
        text = self._stderr.decode("ascii", "backslashreplace").strip()
        reason = self._reason or _describe(status)
        self.ended.set()
        self._on_end(f"{reason}: {text!a}" if text else reason)


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
    fds.clear()


def _describe(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"
