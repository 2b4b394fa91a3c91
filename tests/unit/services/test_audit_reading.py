"""Verifying, replaying and following the audit topics through the services' ports."""

from __future__ import annotations

import csv
import io
import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from stream_executor.audit.findings import FindingCode
from stream_executor.audit.project import line, project, utc
from stream_executor.audit.replay import (
    CSV_COLUMNS,
    ReplayFilter,
    csv_lines,
    json_lines,
    table_row,
)
from stream_executor.audit.report import Verdict
from stream_executor.model.lanes import MOST_COMMIT_REQUESTS
from stream_executor.model.record import PlainRecord
from stream_executor.services.audit_reading import AuditSource, replay, tail
from stream_executor.services.audit_verification import (
    Progress,
    Thoroughness,
    VerifyReport,
    verify,
)
from stream_executor.services.worker_settings import Topics
from stream_executor.wire.avro import KINDS, decode
from tests.audit_logs import (
    BASE_MS,
    OPERATOR_PUBLIC,
    SECRET,
    LogBuilder,
    MemoryTopics,
    honest_log,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

F = FindingCode
_WASM = sha256(b"wasm").hexdigest()
ALL = Thoroughness(results=True, requests=True)


def source(topics: MemoryTopics) -> AuditSource:
    return AuditSource(topics, Topics(), OPERATOR_PUBLIC, "cluster-1")


def two_logs() -> tuple[LogBuilder, LogBuilder, MemoryTopics]:
    first = honest_log()
    second = honest_log(control=first.control, name="second", partition=1)
    return first, second, MemoryTopics(first, second)


async def verified(topics: MemoryTopics, thoroughness: Thoroughness) -> VerifyReport:
    return await verify(source(topics), thoroughness)


def codes(report: VerifyReport) -> list[FindingCode]:
    return [f.code for p in report.partitions for f in p.findings]


async def test_everything_in_order_is_ok_with_every_comparison() -> None:
    _, _, topics = two_logs()
    seen: list[Progress] = []
    thoroughness = Thoroughness(
        results=True, requests=True, prover=topics, secret=SECRET
    )
    report = await verify(source(topics), thoroughness, seen.append)
    assert codes(report) == []
    assert report.verdict is Verdict.OK
    assert [p.results for p in report.partitions] == [11, 11]
    assert [p.requests for p in report.partitions] == [15, 15]
    assert seen[-1] == Progress(1, 2, 25, 25)
    assert [p.position for p in seen] == sorted(
        (p.position for p in seen[: len(seen) // 2]),
    ) + sorted(p.position for p in seen[len(seen) // 2 :])
    assert (report.control_serial, report.control_ignored) == (5, {})


@pytest.mark.parametrize(
    ("tamper", "code"),
    [
        (lambda r: r.pop(4), F.RESULT_MISSING),
        (lambda r: r.insert(4, r[4]), F.RESULT_UNEXPECTED),
        (lambda r: r.append(r[2]), F.RESULT_UNEXPECTED),
        (lambda r: r.insert(3, b"junk"), F.RESULT_UNEXPECTED),
        (
            lambda r: r.__setitem__(3, r[3].replace(b"SUCCEEDED", b"FAILED")),
            F.RESULT_ALTERED,
        ),
        (
            lambda r: r.insert(5, r[5].replace(b'"seq":', b'"seq":1')),
            F.RESULT_UNEXPECTED,
        ),
        (
            lambda r: r.append(r[5].replace(b'"log_id":"8', b'"log_id":"9')),
            F.RESULT_UNEXPECTED,
        ),
    ],
)
async def test_tampered_results_are_found(tamper: Any, code: FindingCode) -> None:
    log = honest_log()
    tamper(log.results)
    report = await verified(MemoryTopics(log), ALL)
    assert set(codes(report)) == {code}


async def test_a_swapped_pair_of_results_is_still_one_for_each_event() -> None:
    log = honest_log()
    log.results[1], log.results[2] = log.results[2], log.results[1]
    assert (await verified(MemoryTopics(log), ALL)).verdict is Verdict.OK


async def test_what_was_never_sealed_hides_no_leaf_from_whoever_looks_back() -> None:
    """As many leaves as one transaction may carry stand behind the last seal."""
    log = LogBuilder()
    log.acquire()
    log.transaction(3)
    log.open_transaction()
    for _ in range(MOST_COMMIT_REQUESTS):
        log.executed()
    shown = [row async for row in tail(source(MemoryTopics(log)), 2, follow=False)]
    assert len(shown) == 2


async def test_results_that_retention_removed_are_not_missed() -> None:
    log = honest_log()
    topics = MemoryTopics(log)
    topics.begins["wasm.results", 0] = 5
    report = await verified(topics, ALL)
    assert (report.verdict, report.partitions[0].results) == (Verdict.OK, 6)


async def test_results_after_the_audits_end_are_newer_not_wrong() -> None:
    log = honest_log()
    end = len(log.records)
    log.transaction(2)
    topics = MemoryTopics(log)
    topics.put("wasm.audit", 0, log.records[:end])
    assert (await verified(topics, ALL)).verdict is Verdict.OK


@pytest.mark.parametrize("secret", [None, SECRET])
async def test_an_altered_request_is_found(secret: bytes | None) -> None:
    log = honest_log()
    topics = MemoryTopics(log)
    requests = topics.logs["wasm.requests", 0]
    requests[1] = PlainRecord(1, BASE_MS + 10, b"another body")
    requests[2] = PlainRecord(2, BASE_MS + 21, b"body 2")
    report = await verified(
        topics, Thoroughness(results=secret is None, requests=True, secret=secret)
    )
    assert codes(report) == [F.REQUEST_ALTERED] * 2
    assert [f.offset for f in report.partitions[0].findings] == [4, 5]


async def test_a_gap_that_holds_a_record_is_found_by_reader_and_prover() -> None:
    log = honest_log()
    topics = MemoryTopics(log)
    topics.logs["wasm.requests", 0][5] = PlainRecord(5, BASE_MS, b"never answered")
    assert codes(await verified(topics, Thoroughness(requests=True))) == [
        F.GAP_UNPROVEN
    ]
    assert codes(await verified(topics, Thoroughness(prover=topics))) == [
        F.GAP_UNPROVEN
    ]


async def test_gaps_that_retention_removed_cannot_be_re_checked() -> None:
    log = honest_log()
    topics = MemoryTopics(log)
    topics.begins["wasm.requests", 0] = len(topics.logs["wasm.requests", 0])
    report = await verified(
        topics, Thoroughness(results=True, requests=True, prover=topics)
    )
    assert (report.verdict, report.partitions[0].requests) == (Verdict.OK, None)


# Replay.


async def rows(topics: MemoryTopics, **asked: Any) -> list[dict[str, Any]]:
    return [r async for r in replay(source(topics), ReplayFilter(**asked))]


async def test_replay_gives_every_terminal_event_once() -> None:
    _, _, topics = two_logs()
    found = await rows(topics)
    assert len(found) == 22
    assert {r["kind"] for r in found} == {"request.executed", "request.refused"}


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        ({"subject": "agent-7"}, 9),
        ({"subject": "nobody"}, 0),
        ({"module": "add@1"}, 9),
        ({"module": "add"}, 9),
        ({"module": "add@2"}, 0),
        ({"module": f"sha256:{_WASM}"}, 9),
        ({"module": "0" * 64}, 0),
        ({"status": "FAILED"}, 1),
        ({"status": "REJECTED"}, 2),
        ({"code": "auth_missing"}, 1),
        ({"request_id": "r-3"}, 1),
        ({"since_ms": BASE_MS + 130}, 4),
        ({"until_ms": BASE_MS + 20}, 2),
        ({"since_ms": BASE_MS + 10, "until_ms": BASE_MS + 20}, 1),
        ({"since_ms": BASE_MS + 10_000}, 0),
    ],
)
async def test_replay_filters(asked: dict[str, Any], count: int) -> None:
    assert len(await rows(MemoryTopics(honest_log()), **asked)) == count


async def test_replay_shows_no_forged_events() -> None:
    log = honest_log()
    log.open_transaction()
    log.executed(request_id="never-sealed")
    assert await rows(MemoryTopics(log), request_id="never-sealed") == []


async def test_replay_goes_on_after_a_broken_stretch() -> None:
    log = honest_log()
    del log.records[4]
    assert len(await rows(MemoryTopics(log))) == 9


async def collected(lines: AsyncIterator[bytes]) -> bytes:
    return b"".join([line async for line in lines])


async def test_rows_as_json_lines_and_csv_say_the_same() -> None:
    topics = source(MemoryTopics(honest_log()))
    text = await collected(json_lines(replay(topics, ReplayFilter())))
    objects = [json.loads(x) for x in text.splitlines()]
    table = await collected(csv_lines(replay(topics, ReplayFilter())))
    cells = list(csv.DictReader(io.StringIO(table.decode())))
    assert len(objects) == len(cells) == 11
    for one, other in zip(objects, cells, strict=True):
        for name in CSV_COLUMNS:
            value = one.get(name)
            assert other[name] == ("" if value is None else str(value))
    assert table_row(objects[0])[:5] == [
        utc(BASE_MS), "0", "0", "r-0", "SUCCEEDED",
    ]  # fmt: skip


async def test_csv_cells_are_no_formulas() -> None:
    async def one() -> AsyncIterator[dict[str, Any]]:
        yield {"sub": "=HYPERLINK(1)", "module": "+x", "exit_code": -1}

    table = (await collected(csv_lines(one()))).decode()
    assert "'=HYPERLINK(1)" in table
    assert "'+x" in table
    assert ",-1," in table


# What a line says.


def test_every_kind_of_leaf_has_a_flat_line() -> None:
    log = honest_log()
    for offset, value in enumerate(log.records):
        leaf: Any = decode(value)
        row = json.loads(line(project(leaf, offset, 3)))
        assert (row["partition"], row["audit_offset"], row["seq"]) == (
            3,
            offset,
            offset,
        )
        assert row["kind"] == KINDS[type(leaf)]
        for cell in row.values():
            assert not isinstance(cell, dict)


def test_grep_for_failed_finds_exactly_what_did_not_succeed() -> None:
    log = LogBuilder()
    log.acquire(instance="FAILED-1")
    log.open_transaction()
    log.executed(function="FAILED", request_id="FAILED")
    log.executed(function='\\FAILED"FAILED\n')
    log.failed()
    log.refused()
    log.refused("not_after_passed", status="EXPIRED")
    log.refused("quarantined", status="QUARANTINED")
    log.seal()
    lines = [
        line(project(decode(v), o, 0))  # type: ignore[arg-type]
        for o, v in enumerate(log.records)
    ]
    failed = [x for x in lines if b"FAILED" in x]
    assert len(failed) == 4
    for text in failed:
        assert b'"status":"FAILED"' in text
    read = [json.loads(x) for x in lines]
    assert [r["outcome"] for r in read if r.get("status") == "FAILED"] == [
        "FAILED", "REJECTED", "EXPIRED", "QUARANTINED",
    ]  # fmt: skip
    texts = [r["function"] for r in read if r["kind"] == "request.executed"]
    assert texts[:2] == ["FAILED", '\\FAILED"FAILED\n']
    for text in lines:
        assert text.count(b"\n") == 1


def test_impossible_times_are_shown_as_they_are() -> None:
    assert utc(1_750_000_000_123) == "2025-06-15T15:06:40.123Z"
    assert utc(-1) == "-1 ms"
    assert utc(1 << 62) == f"{1 << 62} ms"


# Tail.


async def test_tail_begins_with_the_last_leaves_of_each_partition() -> None:
    _, _, topics = two_logs()
    shown = [r async for r in tail(source(topics), 2, follow=False)]
    assert [(r["partition"], r["seq"]) for r in shown] == [
        (0, 23), (0, 24), (1, 23), (1, 24),
    ]  # fmt: skip


async def test_tail_follows_and_believes_keys_enrolled_meanwhile() -> None:
    log = honest_log()
    topics = MemoryTopics(log)
    following = tail(source(topics), 1, follow=True, poll_s=0.001)
    assert (await anext(following))["seq"] == 24
    log.control.add(
        log.control.administrator.revoke(bytes(32), "found to be malicious")
    )
    log.acquire()
    log.open_transaction()
    log.executed()
    topics.put("wasm.audit", 0, log.records)  # not sealed yet: not shown yet
    topics.put("wasm.control", 0, log.control.values)
    assert [(await anext(following))["kind"] for _ in range(2)] == [
        "lane.acquired", "seal",
    ]  # fmt: skip
    log.seal()
    topics.put("wasm.audit", 0, log.records)
    assert [(await anext(following))["kind"] for _ in range(2)] == [
        "request.executed", "seal",
    ]  # fmt: skip
    await following.aclose()  # type: ignore[attr-defined]
