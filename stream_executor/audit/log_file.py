"""``audit.log`` on disk: each sealed leaf's line once, whatever dies between two calls.

Data are fsynced before the position that speaks of them. A crash between the two
leaves lines beyond the recorded size; opening takes their sequence numbers in, so
they are not written again, and cuts a torn tail off, so it is.
Source: docs/wire-format.md, "audit.log".
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, Self

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import TracebackType

_MODE = 0o640


class _Reached(msgspec.Struct):
    """How far one audit partition is written."""

    seq: int = -1  # of the last leaf in the file
    offset: int = 0  # audit offset to read on from: the start of a segment


class _Position(msgspec.Struct):
    partitions: dict[int, _Reached] = {}
    inode: int = 0  # of the file that `size` speaks of
    size: int = 0  # bytes, whole lines


class _Line(msgspec.Struct):
    """What a line says about its place."""

    partition: int
    seq: int


class AuditLogFile:
    """The one writer of a log file; open until `close`.

    Args:
        path: the log file; ``.lock`` and ``.position`` lie beside it.
        write: `os.write`, or a test's.

    Raises:
        BlockingIOError: another process writes this file.
        OSError: the file, or its folder, cannot be used.
        msgspec.DecodeError: the position file is damaged.
    """

    def __init__(
        self, path: Path, write: Callable[[int, bytes], int] = os.write
    ) -> None:
        self._path = path
        self._write = write
        self._position_path = path.with_name(path.name + ".position")
        self._fd = -1
        self._lock = _open(path.with_name(path.name + ".lock"))
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._position = self._load()
            self.reopen()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another process write."""
        for fd in (self._fd, self._lock):
            if fd >= 0:
                os.close(fd)
        self._fd = self._lock = -1

    def read_from(self, partition: int) -> int:
        """Give the audit offset from which `append` needs a partition's leaves."""
        return self._position.partitions.get(partition, _Reached()).offset

    def append(
        self, partition: int, lines: Sequence[tuple[int, bytes]], read_from: int
    ) -> int:
        """Write leaves that are not written yet; give how many those were.

        After an `OSError`, say of a full disk, the same call may be made again: a
        part of a line is cut off first and nothing comes twice.

        Args:
            partition: audit partition.
            lines: sequence number and line, newline included, in the log's order.
            read_from: audit offset behind the segments that these leaves end.

        Raises:
            OSError: the disk did not take it.
        """
        position = self._position
        reached = position.partitions.setdefault(partition, _Reached())
        fresh = [(seq, line) for seq, line in lines if seq > reached.seq]
        if fresh:
            data = b"".join(line for _, line in fresh)
            # Less, if somebody emptied the file: to extend it would write zeros.
            position.size = min(position.size, os.fstat(self._fd).st_size)
            os.ftruncate(self._fd, position.size)
            rest = memoryview(data)
            while rest:
                rest = rest[self._write(self._fd, bytes(rest)) :]
            os.fsync(self._fd)
            position.size += len(data)
            reached.seq = fresh[-1][0]
        reached.offset = read_from
        self._save()
        return len(fresh)

    def reopen(self) -> None:
        """Go on in the file that has the name now: logrotate moved the other one.

        Raises:
            OSError: it cannot be opened; the old file stays in use.
        """
        opened = _open(self._path)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = opened
        position = self._position
        inode = os.fstat(opened).st_ino
        if inode != position.inode:
            for other in self._path.parent.glob(self._path.name + "*"):
                if other.stat().st_ino == position.inode:
                    self._repair_at(other, position.size)
            position.inode, position.size = inode, 0
        position.size = self._repair(opened, position.size)
        self._save()

    def _repair_at(self, path: Path, start: int) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._repair(fd, start)
        finally:
            os.close(fd)

    def _repair(self, fd: int, start: int) -> int:
        """Take in the whole lines from `start` on, cut the rest; give the size."""
        if os.fstat(fd).st_size < start:
            start = 0  # somebody emptied it
        size = start
        with os.fdopen(os.dup(fd), "rb") as file:
            file.seek(start)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                try:
                    place = msgspec.json.decode(line, type=_Line)
                except msgspec.DecodeError:
                    break  # blocks that a power cut left unwritten
                reached = self._position.partitions.setdefault(
                    place.partition, _Reached()
                )
                reached.seq = max(reached.seq, place.seq)
                size += len(line)
        if size != os.fstat(fd).st_size:
            os.ftruncate(fd, size)
        os.fsync(fd)
        return size

    def _load(self) -> _Position:
        try:
            data = self._position_path.read_bytes()
        except FileNotFoundError:
            return _Position()
        return msgspec.json.decode(data, type=_Position)

    def _save(self) -> None:
        draft = self._position_path.with_name(self._position_path.name + ".new")
        with draft.open("wb") as file:
            file.write(msgspec.json.encode(self._position))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._position_path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, _MODE)
