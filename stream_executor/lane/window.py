"""The in-flight window of one lane: what is admitted and not yet committed.

Guests finish in any order; the log is written in offset order. The window keeps
entries in order, reports in their slots, and gives the longest finished prefix. It
never lets an unfinished request be overtaken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stream_executor.lane.entries import Admitted, Entries, Entry, Refused
from stream_executor.model.errors import MisuseError
from stream_executor.model.job import Report

if TYPE_CHECKING:
    from collections.abc import Iterable

# Entries that need no guest are finished from the start.
DECIDED = Report()


class InFlightWindow:
    """Entries in offset order, their reports, and how far both are complete.

    Slots are counted from the lane's start and never reused, so a report that
    comes for a slot already taken is a bug and says so.
    """

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._reports: list[Report | None] = []
        self._base = 0
        self._finished = 0
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def next_slot(self) -> int:
        """The slot that the next added entry gets."""
        return self._base + len(self._entries)

    @property
    def first_slot(self) -> int:
        """The slot of the oldest entry, or of the next one if there is none."""
        return self._base

    @property
    def oldest_ms(self) -> int:
        """Append time of the oldest request; 0 if there is none."""
        requests = (e for e in self._entries if isinstance(e, Admitted | Refused))
        return next((entry.timestamp for entry in requests), 0)

    @property
    def finished(self) -> int:
        """Length of the longest finished prefix, in entries."""
        return self._finished

    def add(self, entry: Entry) -> int:
        """Append one entry; give its slot."""
        slot = self.next_slot
        self._entries.append(entry)
        if type(entry) is Admitted:
            self.size_bytes += entry.size_bytes
            self._reports.append(None)
        else:
            self._reports.append(DECIDED)
            if self._finished == len(self._entries) - 1:
                self._finished += 1
        return slot

    def finish(self, slots: Iterable[int], reports: Iterable[Report]) -> bool:
        """Put reports into their slots; tell whether the finished prefix grew.

        Raises:
            MisuseError: a slot was taken already or finished before.
        """
        mine, base = self._reports, self._base
        for slot, report in zip(slots, reports, strict=True):
            at = slot - base
            if at < 0 or mine[at] is not None:
                message = f"slot {slot} is not waiting for a report"
                raise MisuseError(message)
            mine[at] = report
        before = at = self._finished
        end = len(mine)
        while at < end and mine[at] is not None:
            at += 1
        self._finished = at
        return at > before

    @property
    def held(self) -> Entries:
        """Everything that is held, finished or not."""
        return self._entries

    def peek(self) -> Entries:
        """Give the finished prefix without taking it."""
        return self._entries[: self._finished]

    def take(self, most: int, most_bytes: int) -> tuple[list[Entry], list[Report]]:
        """Remove the finished prefix, at most so many entries and result bytes.

        One entry is always taken if one is finished, however large.
        """
        count, size = 0, 0
        for at in range(min(most, self._finished)):
            report = self._reports[at]
            size += 0 if report is None else len(report.output) + len(report.stderr)
            if count and size > most_bytes:
                break
            count += 1
        entries = self._entries[:count]
        reports = [r for r in self._reports[:count] if r is not None]
        del self._entries[:count], self._reports[:count]
        self._base += count
        self._finished -= count
        for entry in entries:
            if type(entry) is Admitted:
                self.size_bytes -= entry.size_bytes
        return entries, reports
