"""What ``audit.log`` and its rotated files hold: each partition's sequence numbers.

Also the names of what lies beside it, and the form of its position.

Not here: who writes them, and where it goes on (``audit.log_file``).
"""

from __future__ import annotations

import glob
import gzip
import zlib
from typing import TYPE_CHECKING

import msgspec

from stream_executor.model.audit import Seal
from stream_executor.wire.avro import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

_SEAL = KINDS[Seal]
LOCK_SUFFIX = ".lock"
POSITION_SUFFIX = ".position"
DRAFT_SUFFIX = ".position.new"
COMPRESSED_SUFFIX = ".gz"
# What lies beside a log file and is none.
_BESIDE = (LOCK_SUFFIX, POSITION_SUFFIX, DRAFT_SUFFIX)


class Line(msgspec.Struct):
    """What a line says about its place; a line about the file itself has none."""

    partition: int | None
    seq: int = -1
    kind: str = ""
    audit_offset: int = -1
    log_id: str = ""


class Held(msgspec.Struct):
    """How far one audit partition is in the files.

    Attributes:
        seq: of the last leaf; -1 for none.
        offset: audit offset to read on from: the start of a segment.
        log_id: the log, lower hex; empty while unknown.
        beyond: first and last seq of what is there behind a hole.
    """

    seq: int = -1
    offset: int = 0
    log_id: str = ""
    beyond: list[tuple[int, int]] = []

    def has(self, seq: int) -> bool:
        """Whether the files have that leaf."""
        return seq <= self.seq or any(a <= seq <= b for a, b in self.beyond)

    def reach(self, seq: int) -> None:
        """Take note that the files have all up to that leaf that the topic has."""
        self.seq = max(self.seq, seq)
        self.beyond = [run for run in self.beyond if run[1] > self.seq]


class Position(msgspec.Struct):
    """The file ``.position``.

    Attributes:
        partitions: what is in the log file and the rotated ones.
        inode, size, tail: of the file that was written last; its whole lines' bytes,
            and the digest of the last of these bytes.
        saved: how often this was saved. The lock file, which no backup holds, says
            it too: a position that is older than that was put back from a backup.
    """

    partitions: dict[int, Held]
    inode: int = 0
    size: int = 0
    tail: str = ""
    saved: int = 0


class Run(msgspec.Struct, order=True):
    """Sequence numbers without a hole, and the last seal among them.

    Attributes:
        first, last: of them.
        offset: audit offset behind that seal; 0 without one.
    """

    first: int
    last: int
    offset: int = 0


class Runs:
    """The sequence numbers of one partition that some files hold.

    Memory is one entry a hole, whatever the files' size.

    Attributes:
        runs: in the lines' order.
    """

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self._log_id = ""

    def add(self, line: Line) -> None:
        """Take one line."""
        runs = self.runs
        if not runs or line.seq != runs[-1].last + 1:
            runs.append(Run(line.seq, line.seq))
        runs[-1].last = line.seq
        if line.kind == _SEAL:
            runs[-1].offset = line.audit_offset + 1
            self._log_id = line.log_id

    def merge(self, other: Runs) -> None:
        """Take another file's."""
        self.runs += other.runs
        self._log_id = self._log_id or other._log_id

    def raise_to_last(self, held: Held) -> None:
        """Take these in as what follows what was held before."""
        for run in self.runs:
            held.reach(run.last)
            held.offset = max(held.offset, run.offset)
        held.log_id = self._log_id or held.log_id

    def without_hole(self) -> Held:
        """Give how far these go without a hole, and what is beyond the first one."""
        held = Held(log_id=self._log_id)
        for run in sorted(self.runs):
            if held.beyond or (held.seq >= 0 and run.first > held.seq + 1):
                held.beyond.append((run.first, run.last))
                continue
            held.seq = max(held.seq, run.last)
            held.offset = max(held.offset, run.offset)
        return held


def is_log_name(name: str, log: str) -> bool:
    """Tell whether a name is a log file's, or one that logrotate makes of it."""
    rest = name.removeprefix(log)
    return name == log or (name != rest and rest[0] in "-." and rest not in _BESIDE)


def log_files(path: Path) -> list[Path]:
    """Give a log file and its rotated ones, as far as they are there."""
    return sorted(
        one
        for one in path.parent.glob(glob.escape(path.name) + "*")
        if is_log_name(one.name, path.name) and one.is_file()
    )


def read_held(path: Path, start: int = 0) -> tuple[dict[int, Runs], int]:
    """Read the whole lines of one file, gzip or not.

    Args:
        path: the file.
        start: where a line begins; bytes.

    Returns:
        What it holds by partition, and where its last whole line ends; what follows
        was torn by a crash, or is no log.

    Raises:
        OSError: it cannot be read.
    """
    held: dict[int, Runs] = {}
    size = start
    with _open(path) as file:
        file.seek(start)
        for text in _whole_lines(file):
            try:
                line = msgspec.json.decode(text, type=Line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                break  # blocks that a power cut left unwritten
            if line.partition is not None:
                held.setdefault(line.partition, Runs()).add(line)
            size += len(text)
    return held, size


def _open(path: Path) -> BinaryIO:
    if path.suffix == COMPRESSED_SUFFIX:
        return gzip.open(path)  # type: ignore[return-value]  # read only, as we do
    return path.open("rb")


def _whole_lines(file: BinaryIO) -> Iterator[bytes]:
    try:
        for text in file:
            if not text.endswith(b"\n"):
                return
            yield text
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return  # a damaged archive: the topic gives the rest
