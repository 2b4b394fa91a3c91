"""Random tampering with the audit topic: found, or provably irrelevant.

Whoever can write, delete and alter records but holds no believed key must either be
found out or change nothing that counts: the same leaves, the same head.
"""

from __future__ import annotations

from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from stream_executor.audit.chain import leaf_hash
from stream_executor.audit.report import Verdict
from stream_executor.audit.segments import link_of
from stream_executor.model.errors import MalformedError
from tests.audit_logs import LogBuilder, honest_log

_OFFSETS = st.integers(0, 24)


@cache
def log() -> LogBuilder:
    return honest_log()


@cache
def other() -> LogBuilder:
    return honest_log(name="other", partition=1)


def _flip(records: list[bytes], at: int, bit: int) -> None:
    value = bytearray(records[at % len(records)])
    if value:
        value[bit // 8 % len(value)] ^= 1 << bit % 8
    records[at % len(records)] = bytes(value)


def _delete(records: list[bytes], at: int, _: int) -> None:
    if len(records) > 1:
        del records[at % len(records)]


def _swap(records: list[bytes], at: int, to: int) -> None:
    at, to = at % len(records), to % len(records)
    records[at], records[to] = records[to], records[at]


def _duplicate(records: list[bytes], at: int, to: int) -> None:
    records.insert(to % (len(records) + 1), records[at % len(records)])


def _splice(records: list[bytes], at: int, to: int) -> None:
    foreign = other().records
    records.insert(to % (len(records) + 1), foreign[at % len(foreign)])


def _truncate(records: list[bytes], at: int, _: int) -> None:
    del records[at % len(records) + 1 :]


def _garbage(records: list[bytes], at: int, bit: int) -> None:
    records.insert(at % (len(records) + 1), bytes([bit % 256]) * (bit % 300))


_TAMPERINGS = st.lists(
    st.tuples(
        st.sampled_from(
            [_flip, _delete, _swap, _duplicate, _splice, _truncate, _garbage]
        ),
        _OFFSETS,
        st.integers(0, 4_000),
    ),
    min_size=1,
    max_size=4,
)


@given(_TAMPERINGS)
@settings(max_examples=300)
def test_tampering_is_found_or_changes_nothing_that_counts(
    tamperings: list[tuple],  # type: ignore[type-arg]
) -> None:
    honest = log()
    records = list(honest.records)
    for tamper, at, to in tamperings:
        tamper(records, at, to)
    report = honest.verify(records)
    if report.verdict is Verdict.OK:
        # All of it, or a beginning of it: who knows the log's size sees which.
        assert report.head == leaf_hash(honest.records[report.size - 1])
    if report.verdict is Verdict.OK and report.size == len(honest.records):
        assert (report.answered, report.next) == (15, 18)
    for finding in report.findings:
        assert 0 <= finding.offset <= max(len(records), 1)


@given(_OFFSETS, st.integers(0, 4_000))
@settings(max_examples=200)
def test_one_flipped_bit_never_passes(at: int, bit: int) -> None:
    records = list(log().records)
    _flip(records, at, bit)
    report = log().verify(records)
    assert report.verdict is not Verdict.OK or report.foreign_count


@given(st.binary(max_size=64))
def test_any_bytes_give_a_link_or_malformed(value: bytes) -> None:
    try:
        seq, prev = link_of(value)
    except MalformedError:
        return
    assert -(1 << 63) <= seq < 1 << 63
    assert len(prev) == 32
