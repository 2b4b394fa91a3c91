"""Judge lines of ``audit.log`` and its rotated files: whole, in order, each seq once.

What the lines say is not judged: they are a projection for reading, and hold neither
the leaves' bytes nor all links of the chain. That is `audit verify`'s, on the topics.
Source: docs/wire-format.md, "audit.log".
"""

from __future__ import annotations

import msgspec

from stream_executor.audit.log_lines import Line, Runs

MAX_LINE_BYTES = 16 * 1024 * 1024
_MOST_OF_ONE_FILE = 20


class LogProblem(msgspec.Struct, frozen=True):
    """Something wrong with the lines of a file; ``line`` counts from 1, 0 for none."""

    file: str
    line: int
    what: str


class Covered(msgspec.Struct, frozen=True):
    """What some files hold of an audit partition: its first and its last leaf."""

    partition: int
    first_seq: int
    last_seq: int
    log_id: str


class LogCoverage:
    """Takes lines file by file, in any order of files; ``finish`` says what they hold.

    Memory is one entry for each file, partition and hole.

    Attributes:
        lines: how many there were.
        problems: what is wrong; ``finish`` adds what is wrong between files.
    """

    def __init__(self) -> None:
        self.lines = 0
        self.problems: list[LogProblem] = []
        self._held: dict[int, list[tuple[str, Runs]]] = {}
        self._logs: dict[int, str] = {}
        self._file = ""
        self._of_file: dict[int, Runs] = {}
        self._number = 0
        self._found = 0

    def begin(self, file: str) -> None:
        """Take what comes as lines of this file."""
        self._file, self._number, self._found, self._of_file = file, 0, 0, {}

    def add(self, text: bytes) -> None:
        """Take one line, newline included."""
        self.lines += 1
        self._number += 1
        try:
            text.decode()
            line = msgspec.json.decode(text, type=Line)
        except (UnicodeDecodeError, msgspec.DecodeError) as error:
            self._problem(f"no JSON object with a place in the log: {error}")
            return
        if not text.endswith(b"\n"):
            self._problem("the line is not whole")
        if line.partition is not None:
            self._place(line.partition, line)

    def _place(self, partition: int, line: Line) -> None:
        held = self._of_file.get(partition)
        if held is None:
            held = self._of_file[partition] = Runs()
            self._held.setdefault(partition, []).append((self._file, held))
        elif line.seq <= held.runs[-1].last:
            self._problem(
                f"partition {partition}: seq {line.seq} comes after "
                f"{held.runs[-1].last}"
            )
        held.add(line)
        log_id = self._logs.setdefault(partition, line.log_id) if line.log_id else ""
        if log_id != line.log_id:
            self._problem(
                f"partition {partition}: of the log {line.log_id}, others of {log_id}"
            )

    def finish(self) -> list[Covered]:
        """Compare the files with one another; give what they hold, by partition."""
        covered = []
        for partition, held in sorted(self._held.items()):
            runs = sorted((run, file) for file, each in held for run in each.runs)
            reached, of_file = runs[0]
            for run, file in runs[1:]:
                self.begin(file)
                if run.first > reached.last + 1:
                    self._problem(
                        f"partition {partition}: seq {reached.last + 1} to "
                        f"{run.first - 1} are missing after {of_file}"
                    )
                elif run.first <= reached.last:
                    self._problem(
                        f"partition {partition}: seq {run.first} to "
                        f"{min(run.last, reached.last)} are in {of_file}, too"
                    )
                if run.last > reached.last:
                    reached, of_file = run, file
            covered.append(
                Covered(
                    partition,
                    runs[0][0].first,
                    reached.last,
                    self._logs.get(partition, ""),
                )
            )
        return covered

    def _problem(self, what: str) -> None:
        self._found += 1
        if self._found <= _MOST_OF_ONE_FILE:
            self.problems.append(LogProblem(self._file, self._number, what))
