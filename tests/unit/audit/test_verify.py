"""The tamper matrix: each lie is found, and located; honest logs raise no alarm."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from stream_executor.audit.chain import leaf_hash
from stream_executor.audit.findings import MEANINGS, FindingCode
from stream_executor.audit.report import PartitionReport, Verdict, verdict_of
from stream_executor.audit.signing import certify, public_bytes, signed
from stream_executor.model.audit import Genesis, Seal
from stream_executor.model.control import KeyPurpose
from stream_executor.model.record import Range
from stream_executor.wire.avro import CODECS, class_of
from tests.audit_logs import (
    FLEET,
    OPERATOR,
    OTHER_FLEET,
    LogBuilder,
    honest_log,
    key_of,
    verify,
)

if TYPE_CHECKING:
    from collections.abc import Callable

F = FindingCode


def found(report: PartitionReport) -> list[tuple[FindingCode, int]]:
    return [(finding.code, finding.offset) for finding in report.findings]


def codes(report: PartitionReport) -> set[FindingCode]:
    return {finding.code for finding in report.findings}


def flip(value: bytes, at: int) -> bytes:
    changed = bytearray(value)
    changed[at // 8] ^= 1 << at % 8
    return bytes(changed)


def seals(log: LogBuilder) -> list[int]:
    return [i for i, v in enumerate(log.records) if class_of(v) is Seal]


def test_an_honest_log_raises_no_alarm() -> None:
    log = honest_log()
    report = log.verify()
    assert report.verdict is Verdict.OK
    assert (report.size, report.head) == (len(log.records), log.chain.hash)
    assert (report.events, report.answered, report.gaps, report.next) == (11, 15, 3, 18)
    assert (report.terms, report.foreign_count, report.torn) == (2, 0, [])


def test_a_log_that_only_began_is_in_order() -> None:
    report = LogBuilder().verify()
    assert report.verdict is Verdict.OK


def test_every_finding_code_has_its_meaning() -> None:
    assert set(MEANINGS) == set(FindingCode)


# What others do to the topic.


@pytest.mark.threat("T-12")
@pytest.mark.parametrize("at", range(1, 25))
def test_a_flipped_bit_is_found_at_its_offset(at: int) -> None:
    log = honest_log()
    last = len(log.records) - 1
    for bit in range(80, len(log.records[at]) * 8, 997):
        records = list(log.records)
        records[at] = flip(records[at], bit)
        report = log.verify(records)
        if at == last:  # nothing sealed later speaks for it: the tail is torn
            assert report.verdict is not Verdict.OK
            assert at in report.torn or (F.SEAL_FORGED, at) in found(report)
        else:
            assert (F.LEAF_ALTERED, at) in found(report), (at, bit, found(report))


def test_a_flipped_bit_in_genesis_is_found() -> None:
    log = honest_log()
    report = log.verify([flip(log.records[0], 600), *log.records[1:]])
    assert (F.GENESIS_INVALID, 0) in found(report)
    assert report.events == 11, "the rest of the chain is followed all the same"


def test_a_deleted_genesis_is_found() -> None:
    log = honest_log()
    assert F.GENESIS_MISSING in codes(log.verify(log.records[1:]))
    assert F.GENESIS_MISSING in codes(verify([], log.control.view))


@pytest.mark.threat("T-12")
@pytest.mark.parametrize("at", range(1, 24))
def test_a_deleted_leaf_is_found_where_it_is_missing(at: int) -> None:
    log = honest_log()
    report = log.verify(log.records[:at] + log.records[at + 1 :])
    missing = [x for x in report.findings if x.code is F.LEAF_MISSING]
    assert [x.seq for x in missing] == [at]
    assert missing[0].offset == at, "the leaf after it, which moved up by one"


@pytest.mark.threat("T-12")
@pytest.mark.parametrize("at", range(1, 23))
def test_two_swapped_leaves_are_found(at: int) -> None:
    log = honest_log()
    records = list(log.records)
    records[at], records[at + 1] = records[at + 1], records[at]
    report = log.verify(records)
    offsets = {x.offset for x in report.findings if x.code.startswith("leaf_")}
    # A leaf that now stands before its transaction's beginning is missed after it.
    assert offsets & {at, at + 1, at + 2}, found(report)


@pytest.mark.threat("T-12")
@pytest.mark.parametrize("at", range(25))
def test_a_duplicated_record_is_foreign_and_harmless(at: int) -> None:
    log = honest_log()
    report = log.verify(
        [*log.records[: at + 1], log.records[at], *log.records[at + 1 :]]
    )
    assert (report.verdict, report.foreign_count) == (Verdict.OK, 1)
    assert report.foreign[0] in {at, at + 1}
    assert report.size == len(log.records)


def test_a_tail_cut_inside_a_transaction_is_reported_as_torn() -> None:
    log = honest_log()
    report = log.verify(log.records[:-1])
    assert report.verdict is Verdict.OK_WITH_TAIL
    assert report.torn == [len(log.records) - 3, len(log.records) - 2]


def test_a_tail_cut_at_a_seal_shows_only_to_who_knows_the_size() -> None:
    log = honest_log()
    report = log.verify(log.records[: seals(log)[-2] + 1])
    assert report.verdict is Verdict.OK
    assert report.size == seals(log)[-2] + 1


@pytest.mark.threat("T-13")
def test_records_spliced_in_from_another_partition_are_foreign() -> None:
    log, other = honest_log(), honest_log(name="other", partition=1)
    records = log.records[:8] + other.records + log.records[8:]
    report = log.verify(records)
    assert report.verdict is Verdict.OK
    assert report.foreign == list(range(8, 8 + len(other.records)))


def test_another_partitions_log_in_this_place_is_found() -> None:
    log = honest_log(name="other", partition=1)
    assert (F.GENESIS_MISMATCH, 0) in found(verify(log.records, log.control.view, 0))


def test_garbage_is_foreign() -> None:
    log = honest_log()
    junk = [b"", b"\xff" * 300, log.records[3][:40], log.control.values[0]]
    report = log.verify(log.records[:10] + junk + log.records[10:])
    assert (report.verdict, report.foreign) == (Verdict.OK, [10, 11, 12, 13])


def test_a_megabyte_of_ff_costs_nothing() -> None:
    log = honest_log()
    report = log.verify([*log.records, b"\xff" * 1_000_000])
    assert (report.verdict, report.foreign) == (Verdict.OK, [len(log.records)])


@pytest.mark.threat("T-13")
def test_a_copied_old_seal_is_foreign_and_halts_nothing() -> None:
    log = honest_log()
    at = seals(log)[1]
    report = log.verify([*log.records, log.records[at]])
    assert (report.verdict, report.foreign) == (Verdict.OK, [len(log.records)])


# What a writer without a believed key does.


def forged(log: LogBuilder, **more: Any) -> bytes:
    log.open_transaction()
    return log.seal(**more)


@pytest.mark.threat("T-13")
def test_a_seal_under_ones_own_key_is_found() -> None:
    log = honest_log()
    stranger = key_of("stranger")
    forged(log, process=stranger, fleet=stranger)
    report = log.verify()
    assert found(report) == [(F.SEAL_FORGED, len(log.records) - 1)]
    assert report.size == len(log.records) - 1, "it is no leaf"


def test_a_seal_with_a_borrowed_certificate_is_found() -> None:
    log = honest_log()
    log.open_transaction()
    value = bytearray(log.seal())
    value[-1] ^= 1
    report = log.verify([*log.records[:-1], bytes(value)])
    assert found(report) == [(F.SEAL_FORGED, len(log.records) - 1)]


def test_a_seal_dated_before_1970_is_found_and_does_not_crash() -> None:
    log = honest_log()
    forged(log, certified_ms=-1)
    assert found(log.verify()) == [(F.SEAL_FORGED, len(log.records) - 1)]


@pytest.mark.threat("T-13")
def test_a_seal_under_a_retired_fleet_key_is_found() -> None:
    log = LogBuilder()
    log.acquire()
    log.transaction()
    log.control.add(
        log.control.operator.retire(KeyPurpose.FLEET, public_bytes(FLEET), "leaked")
    )
    log.open_transaction()
    log.context()
    log.seal()
    report = log.verify()
    assert (F.SEAL_FORGED, len(log.records) - 1) in found(report)
    assert report.size == len(log.records) - 2


def test_what_a_fleet_key_sealed_before_it_was_retired_stays_valid() -> None:
    log = honest_log()
    log.control.add(
        log.control.operator.retire(KeyPurpose.FLEET, public_bytes(FLEET), "rotated")
    )
    assert log.verify().verdict is Verdict.OK


def test_a_fleet_key_enrolled_later_takes_over() -> None:
    log = honest_log()
    log.control.add(
        log.control.operator.enrol(
            KeyPurpose.FLEET, public_bytes(OTHER_FLEET), "second"
        )
    )
    log.fleet = OTHER_FLEET
    log.acquire()
    log.transaction()
    assert log.verify().verdict is Verdict.OK


@pytest.mark.threat("T-13")
def test_a_genesis_of_another_operator_is_no_root() -> None:
    log = honest_log()
    genesis: Genesis = CODECS[Genesis].decode(log.records[0])
    records = [signed(genesis, key_of("usurper")), *log.records[1:]]
    assert (F.GENESIS_INVALID, 0) in found(log.verify(records))


# What a lying worker with a believed key does.


def fork_of(log: LogBuilder) -> bytes:
    """Give a second believed seal in the place of the last one."""
    seal: Seal = CODECS[Seal].decode(log.records[-1])
    made = certify(public_bytes(log.process), log.fleet, 1)
    other = msgspec.structs.replace(
        seal, certified_ms=made.certified_ms, certificate=made.certificate
    )
    return signed(other, log.process)


@pytest.mark.parametrize("later", [0, 2])
def test_two_believed_seals_with_one_seq_are_a_fork(later: int) -> None:
    log = honest_log()
    fork = fork_of(log)
    for _ in range(later):
        log.transaction(1)
    report = log.verify([*log.records, fork])
    assert found(report) == [(F.FORK, len(log.records))]


def test_a_branch_from_an_older_head_is_a_fork() -> None:
    log = LogBuilder()
    log.acquire()
    chain, next_offset = log.chain, log.next
    log.transaction(2)
    log.chain, log.next = chain, next_offset
    log.transaction(5)
    at = len(log.records) - 1
    assert (F.FORK, at - 5) in found(log.verify())


Tell = "Callable[[LogBuilder], None]"


def lie_missing(log: LogBuilder) -> None:
    log.executed()
    log.skip()
    log.executed()


def lie_missing_last(log: LogBuilder) -> None:
    log.executed()
    log.skip()


def lie_double(log: LogBuilder) -> None:
    log.executed()
    log.next -= 1
    log.executed()


def lie_answered_gap(log: LogBuilder) -> None:
    log.gap(2)
    log.next -= 1
    log.executed()


def lie_range(log: LogBuilder) -> None:
    log.refused("invalid_request", count=3)


def lie_status(log: LogBuilder) -> None:
    log.executed(status="SUCCEEDED", code="timeout")


def lie_code(log: LogBuilder) -> None:
    log.executed(status="FAILED", code="unheard_of")


def lie_context(log: LogBuilder) -> None:
    log.executed(context_seq=log.context_seq - 1)


def lie_lane_time(log: LogBuilder) -> None:
    log.executed(lane_time=log.lane_time + 3_600_000)


def lie_earlier(log: LogBuilder) -> None:
    log.executed(lane_time=log.lane_time - 1)


def lie_attempt_of_another_term(log: LogBuilder) -> None:
    log.term += 1
    log.attempt_leaf()
    log.term -= 1


@pytest.mark.parametrize(
    ("lie", "code", "place"),
    [
        (lie_missing, F.REQUEST_UNANSWERED, 1),
        (lie_missing_last, F.REQUEST_UNANSWERED, 1),
        (lie_double, F.REQUEST_ANSWERED_TWICE, 1),
        (lie_answered_gap, F.GAP_ANSWERED, 0),
        (lie_range, F.RANGE_NOT_ALLOWED, 0),
        (lie_status, F.STATUS_WRONG, 0),
        (lie_code, F.STATUS_WRONG, 0),
        (lie_context, F.CONTEXT_UNKNOWN, 0),
        (lie_lane_time, F.LANE_TIME_WRONG, 0),
        (lie_earlier, F.LANE_TIME_WRONG, 0),
        (lie_attempt_of_another_term, F.TERM_WRONG, 0),
    ],
)
def test_a_lie_in_a_believed_transaction_is_found_at_its_leaf(
    lie: Callable[[LogBuilder], None], code: FindingCode, place: int
) -> None:
    log = honest_log()
    start = len(log.records)
    log.open_transaction()
    lie(log)
    log.seal()
    assert (code, start + place) in found(log.verify()), found(log.verify())


@pytest.mark.parametrize(
    ("lie", "code"),
    [
        ({"succeeded": 4}, F.COUNTS_WRONG),
        ({"rejected": 1}, F.COUNTS_WRONG),
        ({"spent": b""}, F.SPENT_WRONG),
        ({"spent": bytes(48)}, F.SPENT_WRONG),
        ({"anchor_offset": 3}, F.ANCHOR_WRONG),
        ({"anchor_timestamp": 3}, F.ANCHOR_WRONG),
        ({"anchor_digest": bytes(32)}, F.ANCHOR_WRONG),
        ({"context_seq": 1}, F.CONTEXT_UNKNOWN),
        ({"control_offset": 99}, F.CONTEXT_UNKNOWN),
        ({"lane_time": 1 << 50}, F.LANE_TIME_WRONG),
        ({"term": 9}, F.TERM_WRONG),
        ({"partition": 1}, F.SEAL_DISCONTINUOUS),
        ({"from_": 17}, F.SEAL_DISCONTINUOUS),
        ({"next": 22}, F.SEAL_DISCONTINUOUS),
        ({"answered": 4}, F.SEAL_DISCONTINUOUS),
        ({"lane_time": 1}, F.SEAL_DISCONTINUOUS),
        ({"process": key_of("some other process")}, F.SEAL_DISCONTINUOUS),
        ({"gaps": [Range(30, 31)]}, F.GAP_INVALID),
        ({"gaps": [Range(19, 20), Range(20, 21)]}, F.GAP_INVALID),
        ({"gaps": [Range(20, 19)]}, F.GAP_INVALID),
    ],
)
def test_a_lie_in_a_believed_seal_is_found_at_the_seal(
    lie: dict[str, Any], code: FindingCode
) -> None:
    log = honest_log()
    log.transaction(3, **lie)
    report = log.verify()
    assert (code, len(log.records) - 1) in found(report), found(report)


@pytest.mark.parametrize("lie", [{"term": 7}, {"next": 4}, {"lane_time": 5}])
def test_a_term_that_does_not_follow_is_found(lie: dict[str, Any]) -> None:
    log = honest_log()
    log.acquire(**lie)
    assert (F.TERM_WRONG, len(log.records) - 2) in found(log.verify())


def test_a_certificate_that_does_not_verify_is_found_in_lane_acquired() -> None:
    log = honest_log()
    log.acquire(certificate=bytes(64))
    assert (F.PROCESS_KEY_WRONG, len(log.records) - 2) in found(log.verify())


@pytest.mark.parametrize(
    "lie", [{"control_head": sha256(b"x").digest()}, {"control_offset": 1_000}]
)
def test_a_context_that_the_control_topic_denies_is_found(lie: dict[str, Any]) -> None:
    log = honest_log()
    log.open_transaction()
    log.context(**lie)
    log.seal()
    assert (F.CONTROL_HEAD_WRONG, len(log.records) - 2) in found(log.verify())


def test_a_chain_that_does_not_begin_at_genesis_start_is_found() -> None:
    log = LogBuilder(start_offset=10)
    log.next = 12
    log.acquire()
    report = log.verify()
    assert {F.TERM_WRONG, F.SEAL_DISCONTINUOUS} == codes(report)


def test_a_control_record_as_a_leaf_is_found() -> None:
    log = honest_log()
    log.open_transaction()
    log.leaf(log.control.values[0])
    log.seal()
    assert F.LEAF_MISNUMBERED in codes(log.verify())


def in_a_transaction(value: Callable[[LogBuilder], bytes]) -> LogBuilder:
    log = honest_log()
    log.open_transaction()
    log.leaf(value(log))
    log.seal()
    return log


def test_a_leaf_of_an_unknown_schema_is_found_and_the_chain_goes_on() -> None:
    def later_release(log: LogBuilder) -> bytes:
        seq = bytes([log.chain.seq << 1])  # a zigzag varint below 64
        return b"\xc3\x01laterfmt" + seq + log.chain.hash + b"whatever"

    log = in_a_transaction(later_release)
    report = log.verify()
    assert found(report) == [(F.LEAF_UNDECODABLE, len(log.records) - 2)]
    assert report.size == len(log.records)


def test_a_second_genesis_in_the_chain_is_found() -> None:
    def second(log: LogBuilder) -> bytes:
        genesis: Genesis = CODECS[Genesis].decode(log.records[0])
        again = msgspec.structs.replace(genesis, seq=log.chain.seq, prev=log.chain.hash)
        return signed(again, OPERATOR)

    log = in_a_transaction(second)
    assert found(log.verify()) == [(F.LEAF_UNEXPECTED, len(log.records) - 2)]


def test_a_leaf_too_short_to_be_one_is_found() -> None:
    log = in_a_transaction(lambda _: b"short")
    assert (F.LEAF_MISNUMBERED, len(log.records) - 2) in found(log.verify())


def test_a_term_sealed_under_another_key_than_it_announced_is_found() -> None:
    log = honest_log()
    log.open_transaction()
    log.acquire_leaf()
    log.seal(process=key_of("some other process"))
    assert (F.PROCESS_KEY_WRONG, len(log.records) - 1) in found(log.verify())


def test_a_resume_that_embeds_no_order_is_found() -> None:
    log = honest_log()
    log.resume(b"no order", log.next)
    assert (F.RESUME_UNFOUNDED, len(log.records) - 2) in found(log.verify())


def test_a_trap_kind_without_a_trap_is_found() -> None:
    log = honest_log()
    log.open_transaction()
    log.failed("timeout", trap="unreachable")
    log.seal()
    assert codes(log.verify()) == {F.STATUS_WRONG}


def test_findings_do_not_hide_what_comes_after_them() -> None:
    """Three lies far apart: three findings."""
    log = honest_log()
    log.transaction(2)
    records = list(log.records)
    records[4] = flip(records[4], 500)
    del records[-2]
    report = log.verify(records)
    kinds = found(report)
    assert (F.LEAF_ALTERED, 4) in kinds
    assert any(code is F.LEAF_MISSING for code, _ in kinds)
    assert report.size == len(log.records)


# The way back.


def ordered(log: LogBuilder, next_offset: int, **more: Any) -> bytes:
    seal_at = max(seals(log))
    value = log.control.operator.resume(
        log_id=log.log_id, partition=log.partition, next_offset=next_offset,
        head_seq=log.chain.seq - 1, head=leaf_hash(log.records[seal_at]),
        evidence="requests were lost", **more,
    )  # fmt: skip
    log.control.add(value)
    return value


def test_a_resume_by_the_operators_order_is_no_finding_and_reports_the_loss() -> None:
    log = honest_log()
    value = ordered(log, log.next + 5, lost=[Range(log.next, log.next + 5)])
    log.acquire()
    log.resume(value, log.next + 5)
    log.transaction()
    report = log.verify()
    assert report.verdict is Verdict.OK
    assert report.lost == [Range(18, 23)]


def test_a_resume_without_the_operators_order_is_found() -> None:
    log = honest_log()
    stranger = LogBuilder(name="log")
    value = ordered(log, log.next + 5)
    log.control = stranger.control  # where nobody ordered it
    log.resume(value, log.next + 5)
    assert F.RESUME_UNFOUNDED in codes(log.verify())


def test_audit_offsets_that_an_order_skips_are_no_leaves() -> None:
    log = honest_log()
    fork = fork_of(log)
    at = len(log.records)
    value = ordered(log, log.next, skipped=[Range(at, at + 1)])
    log.acquire()
    log.resume(value, log.next)
    records = [*log.records[:at], fork, *log.records[at:]]
    report = log.verify(records)
    assert (found(report), report.foreign) == ([], [at])


def test_records_refused_by_order_do_not_move_the_clock() -> None:
    log = honest_log()
    value = ordered(log, log.next, refused=[Range(log.next, log.next + 1)])
    log.acquire()
    log.resume(value, log.next)
    log.open_transaction()
    before = log.lane_time
    log.refused("invalid_request", timestamp=1 << 50, lane_time=before)
    log.lane_time = before
    log.seal()
    assert log.verify().verdict is Verdict.OK


# Starting in the middle.


def test_a_log_that_begins_later_is_followed_from_an_archived_genesis() -> None:
    log = honest_log()
    report = log.verify(log.records[seals(log)[2] + 1 :], genesis=log.records[0])
    assert report.verdict is Verdict.OK
    assert report.size == len(log.records)


def test_the_worst_verdict_counts_and_nothing_verified_is_a_finding() -> None:
    log = honest_log()
    ok, tail = log.verify(), log.verify(log.records[:-1])
    bad = log.verify(log.records[1:])
    assert verdict_of([ok, ok]) is Verdict.OK
    assert verdict_of([ok, tail]) is Verdict.OK_WITH_TAIL
    assert verdict_of([bad, tail]) is Verdict.FINDING
    assert verdict_of([]) is Verdict.FINDING


def test_a_flood_of_foreign_records_is_counted_not_kept() -> None:
    log = honest_log()
    report = log.verify(log.records[:5] + [b"x"] * 3_000 + log.records[5:])
    assert (report.foreign_count, len(report.foreign)) == (3_000, 1_000)
