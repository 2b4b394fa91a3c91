"""``audit.log`` on disk: each sealed leaf's line once, whatever dies between two calls.

Lines are fsynced before the position that speaks of them. A crash between the two
leaves lines beyond the recorded size; opening takes their sequence numbers in, so they
are not written again, and cuts a torn tail off, so it is. Where file and position do
not fit together (a restored backup, an emptied file, a lost position), the files
themselves say what they hold.
Source: docs/wire-format.md, "audit.log"; ADR 0026.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from typing import TYPE_CHECKING, Self

import msgspec

from stream_executor.audit.log_lines import (
    DRAFT_SUFFIX,
    LOCK_SUFFIX,
    POSITION_SUFFIX,
    Held,
    Position,
    Runs,
    log_files,
    read_held,
)
from stream_executor.audit.project import utc
from stream_executor.model.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import TracebackType

_MODE = 0o640
_COUNTER_DIGITS = 20
_TAIL_BYTES = 512
RESTORED = "audit_log.restored"


class Chunk(msgspec.Struct, frozen=True):
    """Whole sealed segments of one audit partition.

    Attributes:
        partition: audit partition.
        log_id: the log that they belong to, lower hex.
        lines: sequence number and line, newline included, in the log's order.
        read_from: audit offset behind the last segment.
    """

    partition: int
    log_id: str
    lines: list[tuple[int, bytes]]
    read_from: int


class AuditLogFile:
    """The one writer of a log file; open until `close`.

    Args:
        path: the log file; ``.lock`` and ``.position`` lie beside it.
        now_ms: the clock for the file's own lines, milliseconds since 1970.
        write: `os.write`, or a test's.

    Attributes:
        restored: why the files were read anew when this was opened or reopened;
            empty where file and position fitted. The file has a line about it.

    Raises:
        BlockingIOError: another process writes this file.
        OSError: the file, or its folder, cannot be used.
    """

    def __init__(
        self,
        path: Path,
        now_ms: Callable[[], int],
        write: Callable[[int, bytes], int] = os.write,
    ) -> None:
        self.restored = ""
        self._path = path
        self._now_ms = now_ms
        self._write = write
        self._position_path = path.with_name(path.name + POSITION_SUFFIX)
        self._fd = -1
        self._lock = _open(path.with_name(path.name + LOCK_SUFFIX), 0)
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
        return self._position.partitions.get(partition, Held()).offset

    def missing_before(self, chunk: Chunk) -> range:
        """Give the first sequence numbers before a chunk that the files do not have."""
        held = self._position.partitions.get(chunk.partition, Held())
        ends = [chunk.lines[0][0], *(first for first, _ in held.beyond)]
        return range(held.seq + 1, min(ends))

    def append(self, chunks: Sequence[Chunk]) -> int:
        """Write leaves that are not written yet; give how many those were.

        After an `OSError`, say of a full disk, the file is as before and the same call
        may be made again.

        Raises:
            IntegrityError: the file holds lines of another log; nothing is written.
            OSError: the disk did not take it.
        """
        reached = self._position.partitions
        fresh: list[bytes] = []
        for chunk in chunks:
            held = reached.get(chunk.partition, Held())
            if held.log_id not in ("", chunk.log_id):
                message = (
                    f"{self._path} holds partition {chunk.partition} of the log "
                    f"{held.log_id}, but the topic's is {chunk.log_id}: move the file, "
                    "its rotated ones and .position elsewhere, or set AUDIT_LOG_PATH"
                )
                raise IntegrityError(message)
            fresh += [line for seq, line in chunk.lines if not held.has(seq)]
        if not fresh:
            return 0
        self._extend(b"".join(fresh))
        for chunk in chunks:
            held = reached.setdefault(chunk.partition, Held())
            held.log_id, held.offset = chunk.log_id, chunk.read_from
            held.reach(chunk.lines[-1][0])
        self._save()
        return len(fresh)

    @property
    def moved(self) -> bool:
        """Whether the name leads to another file by now, or to a shorter one."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return True
        position = self._position
        return status.st_ino != position.inode or status.st_size < position.size

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
        self.restored = self._misfit()
        if self.restored:
            position.inode = os.fstat(opened).st_ino
            self._read_files()
        else:
            position.size = self._take_in(self._path, position.size)
        self._save()

    def _misfit(self) -> str:
        """Say why file and position do not fit together; empty if now they do."""
        position = self._position
        inode = os.fstat(self._fd).st_ino
        if not position.inode:
            position.inode = inode
            filled = any(one.stat().st_size for one in log_files(self._path))
            return "no position was kept" if filled else ""
        counter = os.pread(self._lock, _COUNTER_DIGITS, 0)
        if not counter.isdigit() or int(counter) > position.saved:
            return "a position from before was put back"
        if self._is_last_written(self._path):
            position.inode = inode  # a copy with the same bytes may have the name now
            return ""
        rotated = [one for one in log_files(self._path) if one != self._path]
        newest = max(rotated, key=lambda one: one.stat().st_mtime_ns, default=None)
        if (
            newest is None
            or os.fstat(self._fd).st_size
            or not self._is_last_written(newest)
        ):
            return "the file that was written last is not there as it was"
        self._take_in(newest, position.size)
        position.inode, position.size = inode, 0
        return ""

    def _is_last_written(self, path: Path) -> bool:
        """Whether the position speaks of this file: by its bytes, if there are any."""
        position = self._position
        if not position.size:
            return path.stat().st_ino == position.inode
        with path.open("rb") as file:
            return _tail(file.fileno(), position.size) == position.tail

    def _take_in(self, path: Path, start: int) -> int:
        """Take in the whole lines from `start` on, cut the rest; give the size."""
        found, size = read_held(path, start)
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            if size != os.fstat(fd).st_size:
                os.ftruncate(fd, size)
            os.fsync(fd)
        finally:
            os.close(fd)
        for partition, runs in found.items():
            runs.raise_to_last(self._position.partitions.setdefault(partition, Held()))
        return size

    def _read_files(self) -> None:
        """Have the files say what they hold, and write that this was done.

        The topic is read again from the first hole on; what they hold is passed over.
        """
        position = self._position
        found, position.size = read_held(self._path)
        os.ftruncate(self._fd, position.size)
        for other in log_files(self._path):
            if other != self._path:
                for partition, runs in read_held(other)[0].items():
                    found.setdefault(partition, Runs()).merge(runs)
        position.partitions = {
            partition: runs.without_hole() for partition, runs in sorted(found.items())
        }
        record = {
            "time": utc(self._now_ms()),
            "kind": RESTORED,
            "partition": None,
            "reason": self.restored,
            "reached": [[p, held.seq] for p, held in position.partitions.items()],
        }
        self._extend(msgspec.json.encode(record) + b"\n")

    def _extend(self, data: bytes) -> None:
        """Put bytes behind what was written, on disk when this returns."""
        rest = memoryview(data)
        try:
            if os.fstat(self._fd).st_size > self._position.size:
                # Somebody else's: behind them, our lines would not be where we say.
                os.ftruncate(self._fd, self._position.size)
            while rest:
                rest = rest[self._write(self._fd, bytes(rest)) :]
            os.fsync(self._fd)
        except OSError:
            # Whoever reads the file meanwhile finds whole lines.
            os.ftruncate(self._fd, self._position.size)
            raise
        self._position.size += len(data)

    def _load(self) -> Position:
        try:
            return msgspec.json.decode(self._position_path.read_bytes(), type=Position)
        except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
            return Position({})  # the files say it

    def _save(self) -> None:
        position = self._position
        position.tail = _tail(self._fd, position.size)
        position.saved += 1
        draft = self._path.with_name(self._path.name + DRAFT_SUFFIX)
        with draft.open("wb") as file:
            # It says what the log holds: whoever may not read that may not read this.
            os.fchmod(file.fileno(), stat.S_IMODE(os.fstat(self._fd).st_mode))
            file.write(msgspec.json.encode(position))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._position_path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        # Not fsynced: a counter that a power cut made older accuses nobody.
        os.pwrite(self._lock, b"%0*d" % (_COUNTER_DIGITS, position.saved), 0)


def _open(path: Path, flags: int = os.O_APPEND) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | flags, _MODE)


def _tail(fd: int, size: int) -> str:
    """Give the digest of the last bytes before a file's size."""
    start = max(0, size - _TAIL_BYTES)
    return hashlib.sha256(os.pread(fd, size - start, start)).hexdigest()
