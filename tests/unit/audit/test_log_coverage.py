"""Faults of lines, within a file and between files, are found and placed."""

from __future__ import annotations

import pytest

from stream_executor.audit.log_coverage import Covered, LogCoverage
from tests.backups import LOG_ID, lines

WHOLE = {"audit.log.2": lines(0, 4, 6), "audit.log.1": lines(0, 7, 9) + lines(1, 0, 2)}


def judged(files: dict[str, bytes]) -> LogCoverage:
    coverage = LogCoverage()
    for name, content in files.items():
        coverage.begin(name)
        for line in content.splitlines(keepends=True):
            coverage.add(line)
    return coverage


def found(files: dict[str, bytes]) -> list[str]:
    coverage = judged(files)
    coverage.finish()
    return [f"{one.file}:{one.line}: {one.what}" for one in coverage.problems]


def test_what_follows_has_no_fault_in_any_order_of_files() -> None:
    for files in (WHOLE, dict(reversed(WHOLE.items()))):
        coverage = judged(files)
        assert coverage.finish() == [
            Covered(0, 4, 9, LOG_ID),
            Covered(1, 0, 2, LOG_ID),
        ]
        assert coverage.problems == []
        assert coverage.lines == 9


def test_a_line_about_the_file_itself_has_no_place() -> None:
    note = b'{"time":"x","kind":"audit_log.restored","partition":null}\n'
    assert found({"audit.log": note + lines(0, 0, 1) + note + lines(0, 2, 3)}) == []


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        (
            {"a": lines(0, 0, 3), "b": lines(0, 6, 8)},
            "b:0: partition 0: seq 4 to 5 are missing after a",
        ),
        (
            {"a": lines(0, 0, 1) + lines(0, 3, 4)},
            "a:0: partition 0: seq 2 to 2 are missing after a",
        ),
        (
            {"a": lines(0, 0, 3), "b": lines(0, 2, 8)},
            "b:0: partition 0: seq 2 to 3 are in a, too",
        ),
        (
            {"a": lines(0, 0, 3) + lines(0, 3, 3)},
            "a:5: partition 0: seq 3 comes after 3",
        ),
        (
            {"a": lines(0, 1, 1) + lines(0, 0, 0) + lines(0, 2, 2)},
            "a:2: partition 0: seq 0 comes after 1",
        ),
        (
            {"a": lines(0, 0, 2), "b": lines(0, 3, 5).replace(b"abab", b"cdcd")},
            f"b:3: partition 0: of the log {'cd' * 16}, others of {LOG_ID}",
        ),
        ({"a": lines(0, 0, 1)[:-1]}, "a:2: the line is not whole"),
    ],
    ids=["between", "within", "twice", "again", "swapped", "other log", "torn"],
)
def test_each_fault_is_found_where_it_is(files: dict[str, bytes], fault: str) -> None:
    assert found(files)[0] == fault


@pytest.mark.parametrize(
    "line",
    [b"", b"{}", b"[1]", b"\0\0\0", b'{"partition":0,"seq":1} {}', b'{"partition":0'],
)
def test_a_line_that_is_no_object_with_a_place_is_found(line: bytes) -> None:
    (fault,) = found({"a": line + b"\n"})
    assert fault.startswith("a:1: no JSON object with a place in the log")


def test_bytes_that_are_no_text_are_found() -> None:
    (fault,) = found({"a": lines(0, 0, 0).replace(b"request", b"\xff\xfe")})
    assert fault.startswith("a:1: no JSON object")


def test_a_file_full_of_faults_does_not_fill_the_report() -> None:
    assert len(found({"a": b"\n" * 1000, "b": b"\n"})) == 21
