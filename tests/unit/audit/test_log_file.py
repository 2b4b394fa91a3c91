"""``audit.log`` holds each line once, wherever its writer died."""

from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
import stat
from typing import TYPE_CHECKING

import pytest

from stream_executor.audit.log_file import RESTORED, AuditLogFile, Chunk
from stream_executor.audit.project import utc
from stream_executor.model.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

LOG_ID = "ab" * 16
NOW_MS = 1_700_000_000_000
SEAL_EVERY = 3  # every third leaf is a seal; offsets are seq + 1 (a marker is skipped)


def opened(path: Path, write: Callable[[int, bytes], int] = os.write) -> AuditLogFile:
    return AuditLogFile(path, lambda: NOW_MS, write)


def line(seq: int, partition: int) -> bytes:
    fields: dict[str, object] = {
        "partition": partition,
        "seq": seq,
        "audit_offset": seq,
    }
    if seq % SEAL_EVERY == SEAL_EVERY - 1:
        fields |= {"kind": "seal", "log_id": LOG_ID}
    return json.dumps(fields).encode() + b"\n"


def chunk(first: int, last: int, partition: int = 0, log_id: str = LOG_ID) -> Chunk:
    """Leaves from first to last, as if each chunk ended with its seal."""
    lines = [(seq, line(seq, partition)) for seq in range(first, last + 1)]
    return Chunk(partition, log_id, lines, last + 1)


def append(log: AuditLogFile, first: int, last: int) -> int:
    return log.append([chunk(first, last)])


def seqs(*paths: Path) -> list[int]:
    text = "".join(path.read_text() for path in paths)
    rows = [json.loads(one) for one in text.splitlines()]
    return [row["seq"] for row in rows if row["partition"] is not None]


def restores(*paths: Path) -> list[dict[str, object]]:
    rows = [json.loads(one) for path in paths for one in path.read_text().splitlines()]
    return [row for row in rows if row.get("kind") == RESTORED]


def compress(path: Path) -> None:
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


def test_goes_on_where_it_stopped_in_each_partition(path: Path) -> None:
    with opened(path) as log:
        assert log.append([chunk(0, 2), chunk(0, 0, partition=1)]) == 4
    with opened(path) as log:
        assert [log.read_from(partition) for partition in range(3)] == [3, 1, 0]
        assert append(log, 2, 3) == 1
    assert seqs(path) == [0, 1, 2, 0, 3]
    assert not restores(path)


@pytest.mark.parametrize("rotated", [False, True])
def test_a_crash_within_or_between_lines_before_the_position(
    path: Path, *, rotated: bool
) -> None:
    with opened(path) as log:
        append(log, 0, 2)
    before = path.read_bytes()
    position, lock = (
        path.with_name(f"audit.log.{end}") for end in ("position", "lock")
    )
    recorded, counter = position.read_bytes(), lock.read_bytes()
    batch = [one for _, one in chunk(3, 7).lines]
    old = path.with_name("audit.log.1")
    edges = [sum(map(len, batch[:n])) for n in range(len(batch) + 1)]
    for cut in sorted({max(0, edge + by) for edge in edges for by in (-1, 0, 1)}):
        with path.open("r+b") as file:  # the same inode, as the crash left it
            file.truncate()
            file.write(before + b"".join(batch)[:cut])
        position.write_bytes(recorded)
        lock.write_bytes(counter)
        if rotated:
            path.rename(old)
        with opened(path) as log:
            # Behind the last seal that came through whole.
            assert log.read_from(0) == (6 if cut >= edges[3] else 3)
            append(log, 3, 7)
        if rotated:
            assert seqs(old, path) == list(range(8))
            path.unlink()
            old.rename(path)
        else:
            assert seqs(path) == list(range(8))
        assert not restores(path)


def test_a_crash_before_the_rename_of_the_position(path: Path) -> None:
    with opened(path) as log:
        append(log, 0, 1)
    path.with_name("audit.log.position.new").write_bytes(b'{"parti')
    with opened(path) as log:
        append(log, 0, 2)
    assert seqs(path) == [0, 1, 2]


@pytest.mark.parametrize("how", ["lost", "damaged"])
def test_without_a_position_the_files_say_where_to_go_on(path: Path, how: str) -> None:
    with opened(path) as log:
        append(log, 0, 4)
    position = path.with_name("audit.log.position")
    position.unlink() if how == "lost" else position.write_bytes(b'{"partitions":')
    with opened(path) as log:
        assert log.restored
        assert log.read_from(0) == 3  # behind the seal
        assert append(log, 3, 5) == 1
    assert seqs(path) == [0, 1, 2, 3, 4, 5]
    [record] = restores(path)
    assert record["reached"] == [[0, 4]]
    assert record["time"] == utc(NOW_MS)


def test_the_position_may_be_read_by_whoever_may_read_the_log(path: Path) -> None:
    position = path.with_name("audit.log.position")
    for last, mode in enumerate(
        (0o640, 0o600)
    ):  # as logrotate may have created the next one
        with opened(path) as log:
            path.chmod(mode)
            append(log, 0, last)
        assert stat.S_IMODE(position.stat().st_mode) == mode


def test_reopens_after_a_rotation(path: Path) -> None:
    old = path.with_name("audit.log.1")
    with opened(path) as log:
        append(log, 0, 1)
        path.rename(old)
        assert log.moved
        append(log, 2, 2)
        log.reopen()
        assert not log.moved
        append(log, 3, 3)
    assert (seqs(old), seqs(path)) == ([0, 1, 2], [3])
    assert not restores(path)


def test_a_file_that_somebody_emptied_is_filled_again(path: Path) -> None:
    with opened(path) as log:
        append(log, 0, 4)
        os.truncate(path, 0)
        assert log.moved
        log.reopen()
        assert log.read_from(0) == 0
        append(log, 0, 5)
    assert seqs(path) == [0, 1, 2, 3, 4, 5]
    assert len(restores(path)) == 1


def test_copytruncate_and_compression_lose_and_double_nothing(path: Path) -> None:
    old = path.with_name("audit.log-20261127")
    with opened(path) as log:
        append(log, 0, 4)
        shutil.copy(path, old)
        os.truncate(path, 0)
        log.reopen()
        assert not log.restored
        assert append(log, 3, 5) == 1
    assert seqs(path) == [5]
    compress(old)
    path.rename(path.with_name("audit.log-20261128"))
    compress(path.with_name("audit.log-20261128"))
    with opened(path) as log:  # the file that it wrote last is compressed
        assert log.read_from(0) == 6
        append(log, 3, 6)
    assert seqs(path) == [6]


def test_an_older_state_is_filled_up_from_where_it_ends(path: Path) -> None:
    """A backup from before, put back over what came after, with or without position."""
    position = path.with_name("audit.log.position")
    with opened(path) as log:
        append(log, 0, 2)
        shutil.copy(path, path.with_name("backup"))
        shutil.copy(position, path.with_name("backup.position"))
        append(log, 3, 8)
    for with_position in (True, False):
        path.unlink()
        shutil.copy(path.with_name("backup"), path)
        if with_position:
            shutil.copy(path.with_name("backup.position"), position)
        with opened(path) as log:
            assert log.restored
            assert log.read_from(0) == 3
            assert append(log, 3, 8) == 6
        assert seqs(path) == list(range(9))
        assert len(restores(path)) == 1


def test_a_restored_file_beside_younger_rotated_ones_doubles_nothing(
    path: Path,
) -> None:
    with opened(path) as log:
        append(log, 0, 2)
        backup = path.read_bytes()
        append(log, 3, 5)
        path.rename(path.with_name("audit.log-1"))
        log.reopen()
        append(log, 6, 8)
    path.unlink()
    path.write_bytes(backup)
    with opened(path) as log:
        assert log.read_from(0) == 6
        assert append(log, 6, 8) == 3


def test_a_damaged_archive_is_filled_up_from_the_topic(path: Path) -> None:
    old = path.with_name("audit.log-1.gz")
    with opened(path) as log:
        append(log, 0, 5)
    old.write_bytes(gzip.compress(path.read_bytes())[:-20])
    path.unlink()
    with opened(path) as log:
        assert log.read_from(0) <= 3
        append(log, log.read_from(0), 8)
    assert set(seqs(path)) >= {6, 7, 8}


def test_bytes_that_are_no_text_count_as_damage(path: Path) -> None:
    """In the position, and in a line behind what the position covers."""
    with opened(path) as log:
        append(log, 0, 2)
    position = path.with_name("audit.log.position")
    position.write_bytes(
        position.read_bytes().replace(b'"log_id":"', b'"log_id":"\xff')
    )
    with path.open("ab") as file:
        file.write(b'{"partition":0,"seq":3,"kind":"\xff"}\n')
    with opened(path) as log:
        assert log.restored
        append(log, 0, 5)
    assert seqs(path) == list(range(6))


def test_another_logs_lines_are_not_mixed_in(path: Path) -> None:
    with opened(path) as log:
        append(log, 0, 2)
        with pytest.raises(IntegrityError, match="AUDIT_LOG_PATH"):
            log.append([chunk(0, 5, log_id="cd" * 16)])
    with opened(path) as log:
        assert log.read_from(0) == 3
    assert seqs(path) == [0, 1, 2]


def test_a_second_writer_is_refused_until_the_first_ends(path: Path) -> None:
    with opened(path), pytest.raises(BlockingIOError):
        opened(path)
    opened(path).close()


def test_a_full_disk_leaves_no_part_and_no_double(path: Path) -> None:
    room = [20]

    def write(fd: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "full")
        written = os.write(fd, data[: room[0]])
        room[0] -= written
        return written

    chunks: Sequence[Chunk] = [chunk(0, 3)]
    with opened(path, write) as log:
        for _ in range(2):
            with pytest.raises(OSError, match="full"):
                log.append(chunks)
            assert log.read_from(0) == 0
        room[0] = 1000
        assert log.append(chunks) == 4
    assert seqs(path) == [0, 1, 2, 3]


def test_names_with_pattern_characters(tmp_path: Path) -> None:
    path = tmp_path / "audit[1].log"
    with opened(path) as log:
        append(log, 0, 1)
        path.rename(tmp_path / "audit[1].log.1")
    with opened(path) as log:
        assert append(log, 0, 2) == 1
        assert not log.restored


def test_a_copy_under_the_name_is_opened_once(path: Path) -> None:
    with opened(path) as log:
        append(log, 0, 2)
        copy = path.with_name("copy")
        shutil.copy2(path, copy)
        copy.replace(path)
        assert log.moved
        log.reopen()
        assert not log.moved
        append(log, 3, 5)
    assert seqs(path) == list(range(6))
    assert not restores(path)


def test_what_somebody_else_appended_costs_no_line_of_ours(path: Path) -> None:
    with opened(path) as log:
        append(log, 0, 2)
        with path.open("ab") as other:
            other.write(b"a note of an operator")
        append(log, 3, 5)
    with opened(path) as log:
        append(log, 6, 8)
    assert seqs(path) == list(range(9))


@pytest.mark.parametrize("where", ["audit.log", "audit.log.position"])
def test_bytes_that_are_no_text_are_no_end(path: Path, where: str) -> None:
    with opened(path) as log:
        append(log, 0, 2)
    with path.with_name(where).open("r+b") as file:
        content = file.read().replace(b'"seal"', b'"\xff\xfe\xff\xfe"')
        content = content.replace(b'"tail":"', b'"tail":"\xff')
        file.seek(0)
        file.write(content)
    with opened(path) as log:
        assert log.restored
        append(log, 0, 5)
    assert seqs(path) == list(range(6))


def test_a_hole_is_filled_and_nothing_beyond_it_doubled(path: Path) -> None:
    files = [path.with_name(f"audit.log-{day}") for day in range(4)]
    with opened(path) as log:
        for day, file in enumerate(files):
            append(log, 3 * day, 3 * day + 2)
            path.rename(file)
            log.reopen()
    files[1].unlink()
    path.with_name("audit.log.position").unlink()
    with opened(path) as log:
        assert log.read_from(0) == 3
        append(log, 3, 4)  # then a crash, in the hole
    with opened(path) as log:
        append(log, 3, 9)
    with opened(path) as log:
        append(log, 6, 14)
    assert sorted(seqs(files[0], *files[2:], path)) == list(range(15))
