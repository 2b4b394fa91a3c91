"""Processes to their supervisor: frames on an inherited pipe.

A frame is a big-endian u32 length and that many bytes of MessagePack, one of two kinds:
``Report`` twice a second and after big events, ``Fault`` once, just before
a worker gives up. The worker side never waits: while the pipe is full nothing is taken
from the tally, so nothing is lost, only late. The supervisor side trusts the length no
further than ``MAX_FRAME_BYTES``. Typed frames, no pickle: a worker must not be able to
make the supervisor, which holds the fleet key, run anything.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from stream_executor.http.status import LaneStatus
from stream_executor.http.tally import Deltas, Tally
from stream_executor.model.conditions import Trouble
from stream_executor.model.errors import MalformedError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator

# How a process ends whose configuration is wrong: the supervisor starts no other.
EXIT_CONFIGURATION = 4
# Between reports of one process; a worker watches its lanes at the same pace.
REPORT_INTERVAL_S = 0.5
# 10,000 lanes of 100 bytes fit; a worker that sends more is broken.
MAX_FRAME_BYTES = 4 * 1024 * 1024
_LENGTH_BYTES = 4


class WorkerState(msgspec.Struct, frozen=True, tag="worker"):
    """What a worker says of itself; absolute, each report replaces the last.

    Attributes:
        ready: member of the group, views read to their ends.
        audit_writable: False while no transaction can be completed (the brokers are
            away, or refuse); lanes that are halted one by one do not count.
        note: what the worker waits for, in words; empty when it just works.
        engine: native engine identity.
        audience: the aud that tokens must have; empty until the cluster id is known.
        hardening: what was applied to the sandbox children.
        troubles: what it finds wrong with the world around it.
        lanes: every lane that it owns now.
    """

    ready: bool = False
    audit_writable: bool = True
    note: str = ""
    engine: str = ""
    audience: str = ""
    hardening: tuple[str, ...] = ()
    troubles: tuple[Trouble, ...] = ()
    lanes: tuple[LaneStatus, ...] = ()


class AuditLogState(msgspec.Struct, frozen=True, tag="audit_log"):
    """What the process that writes ``audit.log`` says of itself.

    Attributes:
        writing: it is the file's one writer and has written all that it could read.
        standby: another process on this host writes the file.
        note: what it waits for, or why it cannot write, in words.
    """

    writing: bool = False
    standby: bool = False
    note: str = ""


State = WorkerState | AuditLogState


class Report(msgspec.Struct, frozen=True, tag="report"):
    """One regular frame."""

    state: State
    deltas: Deltas


class Fault(msgspec.Struct, frozen=True, tag="fault"):
    """Why the process is about to exit, for the supervisor's log and exit message."""

    message: str


Frame = Report | Fault
_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Frame] = msgspec.msgpack.Decoder(Frame)


class ReportWriter:
    """The worker's end.

    Args:
        fd: the inherited pipe; owned from here on, made non-blocking.
        tally: what is counted; taken only when a report really goes out.
    """

    def __init__(self, fd: int, tally: Tally) -> None:
        os.set_blocking(fd, False)
        os.set_inheritable(fd, False)  # no sandbox child gets it
        self._fd = fd
        self._tally = tally
        self._pending = b""

    def send(self, state: State) -> bool:
        """Send a report unless an earlier one still waits for room.

        Returns:
            False if nothing was taken from the tally; the next call tries again.

        Raises:
            BrokenPipeError: the supervisor is gone; the worker must end.
        """
        if not self._flush():
            return False
        self._pending = encode_frame(Report(state, self._tally.take()))
        self._flush()
        return True

    def fault(self, message: str) -> None:
        """Say why the worker is about to exit; waits for room. Never raises.

        A supervisor that does not listen any more cannot be told anything.
        """
        frame = self._pending + encode_frame(Fault(message))
        self._pending = b""
        os.set_blocking(self._fd, True)
        try:
            while frame:
                frame = frame[os.write(self._fd, frame) :]
        except OSError:
            return

    def close(self) -> None:
        """Close the pipe; what still waits for room is dropped."""
        os.close(self._fd)

    def _flush(self) -> bool:
        """Write what is pending as far as there is room; tell whether all went."""
        try:
            while self._pending:
                written = os.write(self._fd, self._pending)
                self._pending = self._pending[written:]
        except BlockingIOError:
            return False
        return True


def encode_frame(frame: Frame) -> bytes:
    """Give a frame's bytes, length included."""
    body = _ENCODER.encode(frame)
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


async def read_frames(stream: asyncio.StreamReader) -> AsyncIterator[Frame]:
    """Give frames until the pipe ends; a frame torn by the worker's death is dropped.

    Raises:
        MalformedError: a length beyond the cap, or bytes that are no frame.
    """
    while True:
        head = await _exactly(stream, _LENGTH_BYTES)
        if head is None:
            return
        length = int.from_bytes(head, "big")
        if length > MAX_FRAME_BYTES:
            raise MalformedError(f"a report of {length} bytes from a worker")
        body = await _exactly(stream, length)
        if body is None:
            return
        try:
            yield _DECODER.decode(body)
        except msgspec.DecodeError as error:
            raise MalformedError(f"a worker's report: {error}") from error


async def _exactly(stream: asyncio.StreamReader, count: int) -> bytes | None:
    """Read so many bytes, or None if the stream ends before."""
    try:
        return await stream.readexactly(count)
    except EOFError:  # asyncio.IncompleteReadError
        return None
