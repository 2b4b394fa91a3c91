"""The in-flight window never lets an unfinished request be overtaken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_executor.lane.entries import Admitted, Gap
from stream_executor.lane.window import InFlightWindow
from stream_executor.model.audit import Principal
from stream_executor.model.errors import MisuseError
from stream_executor.model.job import Job, Limits, Report

PRINCIPAL = Principal("i", "s", "Agent", "", "k", bytes(32), bytes(16), 1, 2)
JOB = Job(bytes(32), 0, "f", b"", Limits(1, 1, 1), 0, 0, bytes(32))


def admitted(offset: int, size: int = 10) -> Admitted:
    """An admitted request at this offset."""
    return Admitted(
        offset, 0, 0, 0, "r", PRINCIPAL, None, JOB, bytes(16), bytes(32), size
    )


@given(st.permutations(range(12)), st.integers(1, 5))
def test_prefix_never_passes_an_unfinished_request(order: list[int], most: int) -> None:
    """Whatever order guests finish in, requests leave in offset order."""
    window = InFlightWindow()
    slots = [window.add(admitted(offset)) for offset in range(12)]
    taken: list[int] = []
    finished: set[int] = set()
    for index in order:
        window.finish([slots[index]], [Report(duration_us=index)])
        finished.add(index)
        while window.finished:
            entries, reports = window.take(most, 1 << 20)
            offsets = [e.offset for e in entries if isinstance(e, Admitted)]
            assert [r.duration_us for r in reports] == offsets
            taken += offsets
        longest = next((i for i in range(12) if i not in finished), 12)
        assert taken == list(range(longest))
    assert len(window) == 0
    assert window.size_bytes == 0


def test_decided_entries_wait_behind_a_running_one() -> None:
    """A gap after an unfinished request is not finished before it."""
    window = InFlightWindow()
    slot = window.add(admitted(0))
    window.add(Gap(1, 3))

    assert window.finished == 0

    window.finish([slot], [Report()])

    assert window.finished == 2


def test_a_slot_takes_one_report_only() -> None:
    """A second report for a slot is our bug and says so."""
    window = InFlightWindow()
    slot = window.add(admitted(0))
    window.add(admitted(1))
    window.finish([slot], [Report()])

    with pytest.raises(MisuseError):
        window.finish([slot], [Report()])


def test_take_stops_at_the_byte_ceiling_but_takes_one() -> None:
    """Large results go out alone rather than never."""
    window = InFlightWindow()
    slots = [window.add(admitted(offset)) for offset in range(3)]
    window.finish(slots, [Report(output=b"x" * 100) for _ in slots])

    first, _ = window.take(10, 50)
    rest, _ = window.take(10, 250)

    assert (len(first), len(rest)) == (1, 2)
