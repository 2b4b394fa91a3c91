"""``audit.log`` holds each line once, wherever its writer died."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING

import pytest

from stream_executor.audit.log_file import AuditLogFile

if TYPE_CHECKING:
    from pathlib import Path


def lines(first: int, last: int, partition: int = 0) -> list[tuple[int, bytes]]:
    return [
        (seq, json.dumps({"partition": partition, "seq": seq}).encode() + b"\n")
        for seq in range(first, last + 1)
    ]


def seqs(*paths: Path) -> list[int]:
    text = "".join(path.read_text() for path in paths)
    return [json.loads(line)["seq"] for line in text.splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


def test_goes_on_where_it_stopped_in_each_partition(path: Path) -> None:
    with AuditLogFile(path) as log:
        assert log.append(0, lines(0, 2), 4) == 3
        assert log.append(1, lines(0, 0, partition=1), 2) == 1
    with AuditLogFile(path) as log:
        assert (log.read_from(0), log.read_from(1), log.read_from(2)) == (4, 2, 0)
        assert log.append(0, lines(2, 3), 6) == 1
    assert seqs(path) == [0, 1, 2, 0, 3]


@pytest.mark.parametrize("rotated", [False, True])
def test_a_crash_within_or_between_lines_before_the_position(
    path: Path, *, rotated: bool
) -> None:
    with AuditLogFile(path) as log:
        log.append(0, lines(0, 1), 3)
    before = path.read_bytes()
    position = path.with_name("audit.log.position")
    recorded = position.read_bytes()
    batch = b"".join(line for _, line in lines(2, 4))
    old = path.with_name("audit.log.1")
    whole = len(batch) // 3
    for cut in (0, 1, whole - 1, whole, whole + 1, 2 * whole, 3 * whole - 1, 3 * whole):
        with path.open("r+b") as file:  # the same inode, as the crash left it
            file.truncate()
            file.write(before + batch[:cut])
        position.write_bytes(recorded)
        if rotated:
            path.rename(old)
        with AuditLogFile(path) as log:
            assert log.read_from(0) == 3
            log.append(0, lines(2, 4), 7)
        if rotated:
            assert seqs(old, path) == [0, 1, 2, 3, 4]
            path.unlink()
            old.rename(path)
        else:
            assert seqs(path) == [0, 1, 2, 3, 4]


def test_a_crash_before_the_rename_of_the_position(path: Path) -> None:
    with AuditLogFile(path) as log:
        log.append(0, lines(0, 1), 3)
    path.with_name("audit.log.position.new").write_bytes(b'{"parti')
    with AuditLogFile(path) as log:
        log.append(0, lines(0, 2), 5)
    assert seqs(path) == [0, 1, 2]


def test_a_lost_position_costs_no_double(path: Path) -> None:
    with AuditLogFile(path) as log:
        log.append(0, lines(0, 1), 3)
    path.with_name("audit.log.position").unlink()
    with AuditLogFile(path) as log:
        assert log.read_from(0) == 0
        assert log.append(0, lines(0, 2), 5) == 1
    assert seqs(path) == [0, 1, 2]


def test_reopens_after_a_rotation(path: Path) -> None:
    old = path.with_name("audit.log.1")
    with AuditLogFile(path) as log:
        log.append(0, lines(0, 1), 3)
        path.rename(old)
        log.append(0, lines(2, 2), 5)
        log.reopen()
        log.append(0, lines(3, 3), 7)
    assert (seqs(old), seqs(path)) == ([0, 1, 2], [3])


def test_goes_on_in_a_file_that_somebody_emptied(path: Path) -> None:
    with AuditLogFile(path) as log:
        log.append(0, lines(0, 1), 3)
        os.truncate(path, 0)
        log.append(0, lines(2, 2), 5)
        assert seqs(path) == [2]
    os.truncate(path, 0)
    with AuditLogFile(path) as log:
        log.append(0, lines(3, 3), 7)
    assert seqs(path) == [3]


def test_a_second_writer_is_refused_until_the_first_ends(path: Path) -> None:
    with AuditLogFile(path), pytest.raises(BlockingIOError):
        AuditLogFile(path)
    AuditLogFile(path).close()


def test_a_full_disk_leaves_no_part_and_no_double(path: Path) -> None:
    room = [20]

    def write(fd: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "full")
        written = os.write(fd, data[: room[0]])
        room[0] -= written
        return written

    with AuditLogFile(path, write) as log:
        for _ in range(2):
            with pytest.raises(OSError, match="full"):
                log.append(0, lines(0, 3), 5)
            assert log.read_from(0) == 0
        room[0] = 1000
        assert log.append(0, lines(0, 3), 5) == 4
    assert seqs(path) == [0, 1, 2, 3]
