"""Open ``audit.log``, its rotated files and its position, as they are at one moment.

The position is read before the files are opened and is never newer than their lines.
Bytes up to the size that it names never change; behind them a failed write may have
left others, which the writer cuts off, and they are not taken. Files that it does not
speak of are not written to any more. Source: ``audit.log_file``; ADR 0026.
"""

from __future__ import annotations

import os
from io import BytesIO
from typing import IO, TYPE_CHECKING

import msgspec

from stream_executor.audit.log_lines import (
    COMPRESSED_SUFFIX,
    POSITION_SUFFIX,
    Position,
    is_log_name,
)
from stream_executor.services.backup_files import open_regular

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

_CHUNK_BYTES = 64 * 1024


class LogChangedError(Exception):
    """logrotate, or a repair of the log, came in between; try again."""


class Source(msgspec.Struct, frozen=True):
    """An opened file, and how many of its bytes are taken: whole lines."""

    name: str
    file: IO[bytes]
    size: int
    status: os.stat_result


class OpenedLog(msgspec.Struct, frozen=True):
    """The log at one moment.

    Attributes:
        folder: of its folder.
        log_ids: audit partition → log, as far as the position says it.
        sources: the position, if there is one that can be read, then the files.
    """

    folder: os.stat_result
    log_ids: dict[int, str]
    sources: list[Source]


def open_log(path: Path, stack: ExitStack) -> OpenedLog:
    """Open a log.

    Args:
        path: ``AUDIT_LOG_PATH``.
        stack: closes what was opened.

    Raises:
        LogChangedError: the files changed meanwhile.
        BackupError: a file of the log's name is no regular file.
        OSError: something cannot be read.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, folder)
    position, sources = _read_position(path.name, folder)
    names = _listing(path.name, folder)
    for name in sorted(names):
        try:
            file = stack.enter_context(os.fdopen(open_regular(name, folder), "rb"))
        except FileNotFoundError:
            raise LogChangedError from None
        status = os.fstat(file.fileno())
        size = status.st_size
        if not name.endswith(COMPRESSED_SUFFIX):
            size = _whole_lines(file.fileno(), size)
        if status.st_ino == position.inode:
            covered = position.size
            # A restored position may speak of another file that had this inode.
            if covered == _whole_lines(file.fileno(), covered):
                size = min(size, covered)
        sources.append(Source(name, file, size, status))
    after, _ = _read_position(path.name, folder)
    if names != _listing(path.name, folder) or position.inode != after.inode:
        raise LogChangedError
    log_ids = {number: held.log_id for number, held in position.partitions.items()}
    return OpenedLog(os.fstat(folder), log_ids, sources)


def _read_position(log: str, folder: int) -> tuple[Position, list[Source]]:
    """Give the position; without one that can be read, the lines say it, too."""
    name = log + POSITION_SUFFIX
    try:
        descriptor = open_regular(name, folder)
    except FileNotFoundError:
        return Position({}), []
    with os.fdopen(descriptor, "rb") as file:
        data, status = file.read(), os.fstat(descriptor)
    try:
        position = msgspec.json.decode(data, type=Position)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Position({}), []
    return position, [Source(name, BytesIO(data), len(data), status)]


def _listing(log: str, folder: int) -> dict[str, int]:
    """Give the log's files and their inodes."""
    with os.scandir(folder) as entries:
        inodes = {
            entry.name: entry.inode()
            for entry in entries
            if is_log_name(entry.name, log) and not entry.is_dir(follow_symlinks=False)
        }
    # logrotate removes the plain file when the compressed one is complete.
    unfinished = {name + COMPRESSED_SUFFIX for name in inodes}
    return {name: inodes[name] for name in inodes.keys() - unfinished}


def _whole_lines(descriptor: int, size: int) -> int:
    """Give where the last newline before `size` ends."""
    while size:
        start = max(0, size - _CHUNK_BYTES)
        at = os.pread(descriptor, size - start, start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        size = start
    return 0
