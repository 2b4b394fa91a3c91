"""The history checker counts nothing on a good history, and each defect as itself."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec
import pytest

from stream_executor.audit.chain import leaf_hash
from stream_executor.audit.segments import link_of
from stream_executor.model.audit import RequestExecuted, RequestRefused, Seal
from stream_executor.model.record import PlainRecord, Range
from stream_executor.wire.avro import CODECS, class_of
from stream_executor.wire.results import decode_result, encode_json
from tests.history import FAULTS, Counted, Outcome, PartitionHistory, Sent
from tests.lane_world import AUDIT, REQUESTS, RESULTS
from tests.model.run import Run, Step
from tests.model.virtual_time import VirtualTimeLoop

if TYPE_CHECKING:
    from collections.abc import Callable

Records = list[PlainRecord]
STEPS = [
    Step("settle"), Step("submit", 2), Step("marker"), Step("replay"),
    Step("unsigned", 1), Step("fetch"), Step("report"), Step("wait"), Step("kill"),
    Step("control"), Step("submit"), Step("wait"), Step("fetch"), Step("report"),
    Step("wait"),
]  # fmt: skip


@dataclass(frozen=True)
class Logs:
    """Three partitions as a reader of committed records sees them."""

    requests: Records
    results: Records
    audit: Records


def counted(
    logs: Logs,
    expected: Outcome | None = None,
    *,
    at: int = 0,
    sent: Sent | None = None,
    tolerated: frozenset[str] = frozenset(),
) -> Counted:
    """Count one history; ``expected`` is what the request at an offset is owed."""
    history = PartitionHistory(
        expected=lambda record: expected if record.offset == at else None,
        tolerated=tolerated,
        sent=sent or Sent(),
    )
    for record in logs.results:
        history.result(record)
    for record in logs.audit:
        history.leaf(record)
    for record in logs.requests:
        history.request(record)
    return history.end()


async def _good() -> Logs:
    run = Run()
    for step in STEPS:
        await run.do(step)
    await run.finish()
    await run.close()
    broker = run.broker
    return Logs(*(broker.records(t, 0) for t in (REQUESTS, RESULTS, AUDIT)))


@pytest.fixture(scope="module")
def good() -> Logs:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(_good())


def value(record: PlainRecord, new: bytes) -> PlainRecord:
    """A record with other bytes."""
    return msgspec.structs.replace(record, value=new)


def first(logs: Logs, cls: type) -> int:
    """Where the first leaf of a class is."""
    return next(i for i, r in enumerate(logs.audit) if class_of(r.value or b"") is cls)


def leaf(logs: Logs, at: int, **changes: object) -> Logs:
    """Change one leaf, and chain everything behind it anew, as a forger would."""
    audit = list(logs.audit)
    decoded = CODECS[class_of(audit[at].value or b"") or Seal].decode(
        audit[at].value or b""
    )
    new = msgspec.structs.replace(decoded, **changes)
    audit[at] = value(audit[at], CODECS[type(new)].encode(new))
    return rechained(replace(logs, audit=audit), at)


def rechained(logs: Logs, start: int) -> Logs:
    """Give every leaf from here on the seq and prev that follow."""
    audit = list(logs.audit)
    for at in range(start, len(audit)):
        before = audit[at - 1].value or b""
        codec = CODECS[class_of(audit[at].value or b"") or Seal]
        record = msgspec.structs.replace(
            codec.decode(audit[at].value or b""),
            seq=link_of(before)[0] + 1,
            prev=leaf_hash(before),
        )
        audit[at] = value(audit[at], codec.encode(record))
    return replace(logs, audit=audit)


def without_event(logs: Logs) -> Logs:
    at = first(logs, RequestExecuted)
    return rechained(replace(logs, audit=[*logs.audit[:at], *logs.audit[at + 1 :]]), at)


def swapped(records: Records, at: int) -> Records:
    return [*records[:at], records[at + 1], records[at], *records[at + 2 :]]


def said_otherwise(logs: Logs) -> Logs:
    """The result says one more unit of fuel; its event names its bytes rightly."""
    old = decode_result(logs.results[0].value or b"")
    new = encode_json(msgspec.structs.replace(old, fuel_consumed=old.fuel_consumed + 1))
    logs = replace(logs, results=[value(logs.results[0], new), *logs.results[1:]])
    return leaf(logs, first(logs, RequestExecuted), result_s256=sha256(new).digest())


def attested_instead(logs: Logs) -> Logs:
    """The last request's offset is called a gap, its answer is gone."""
    offset = logs.requests[-1].offset
    at = max(
        i for i, r in enumerate(logs.audit)
        if class_of(r.value or b"") is RequestExecuted
    )  # fmt: skip
    logs = rechained(
        replace(
            logs,
            audit=[*logs.audit[:at], *logs.audit[at + 1 :]],
            results=logs.results[:-1],
        ),
        at,
    )
    seal = first(replace(logs, audit=logs.audit[at:]), Seal) + at
    return leaf(logs, seal, gaps=[Range(offset, offset + 1)])


DOCTORED: dict[str, Callable[[Logs], Logs]] = {
    "lost": lambda logs: replace(logs, results=logs.results[:-1]),
    "doubled": lambda logs: replace(logs, results=[*logs.results, logs.results[-1]]),
    "reordered": lambda logs: replace(logs, results=swapped(logs.results, 0)),
    "phantom": lambda logs: replace(logs, requests=logs.requests[1:]),
    "unaudited": without_event,
    "unpublished": lambda logs: replace(logs, results=logs.results[1:]),
    "altered": lambda logs: replace(
        logs,
        results=[
            value(logs.results[0], (logs.results[0].value or b"") + b" "),
            *logs.results[1:],
        ],
    ),
    "contradicted": said_otherwise,
    "unattested": without_event,
    "wrongly_attested": attested_instead,
    "chain_breaks": lambda logs: replace(
        logs, audit=[*logs.audit[:2], *logs.audit[3:]]
    ),
    "torn": lambda logs: replace(logs, audit=logs.audit[:-1]),
    "terms_reused": lambda logs: leaf(logs, 1, term=2),
    "context_errors": lambda logs: leaf(
        logs, first(logs, RequestExecuted), context_seq=0
    ),
    "replays_accepted": lambda logs: replace(
        logs,
        requests=[
            logs.requests[0],
            msgspec.structs.replace(logs.requests[1], headers=logs.requests[0].headers),
            *logs.requests[2:],
        ],
    ),
}


def test_a_good_history_counts_nothing(good: Logs) -> None:
    found = counted(good)
    assert found.faults == {}
    assert found.requests == found.answered == len(good.requests)
    assert found.attested == 1
    kinds = {class_of(r.value or b"") for r in good.audit}
    assert {RequestExecuted, RequestRefused, Seal} <= kinds


def test_what_lies_behind_the_last_seal_is_open_and_not_lost(good: Logs) -> None:
    last = good.requests[-1]
    two = [
        msgspec.structs.replace(last, offset=last.offset + n, headers=[])
        for n in (1, 2)
    ]
    found = counted(replace(good, requests=[*good.requests, *two]))
    assert (found.open, found.faults) == (2, {})


@pytest.mark.parametrize("name", DOCTORED)
def test_a_defect_raises_its_counter(good: Logs, name: str) -> None:
    assert counted(DOCTORED[name](good)).faults.get(name, 0) >= 1


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome("SUCCEEDED", None, b"other bytes"),
        Outcome("SUCCEEDED", None, None, 8),
        Outcome("FAILED", "trap"),
    ],
)
def test_another_answer_than_a_plain_run_gives_is_wrong(
    good: Logs, outcome: Outcome
) -> None:
    assert counted(good, outcome).faults == {"wrong": 1}


@pytest.mark.parametrize("code", ["auth_replayed", "auth_wrong_binding"])
def test_a_token_that_ran_though_it_is_owed_a_refusal_is_an_accepted_replay(
    good: Logs, code: str
) -> None:
    """Also one that was spent by a request that was refused, or is bound elsewhere."""
    found = counted(good, Outcome("REJECTED", code))
    assert found.faults == {"wrong": 1, "replays_accepted": 1}
    assert found.replays == (code == "auth_replayed")


def test_a_jti_that_was_signed_anew_is_the_same_token(good: Logs) -> None:
    """The signature differs, and so do the bytes of the header."""
    name, token = good.requests[0].headers[0]
    again = msgspec.structs.replace(
        good.requests[1], headers=((name, token[:-4] + b"AAAA"),)
    )
    doctored = replace(good, requests=[good.requests[0], again, *good.requests[2:]])
    assert counted(doctored).faults == {"replays_accepted": 1}


def test_what_a_sender_knows_as_committed_and_no_reader_finds(good: Logs) -> None:
    """Reader and lane agree that the marker's offset is empty; its sender does not."""
    offsets = {record.offset for record in good.requests}
    gap = next(offset for offset in range(max(offsets)) if offset not in offsets)
    found = counted(good, sent=Sent(committed={gap}))
    assert found.faults == {"wrongly_attested": 1, "lost": 1}


def test_what_a_sender_knows_as_aborted_and_a_lane_answered(good: Logs) -> None:
    found = counted(good, sent=Sent(aborted={good.requests[0].offset}))
    assert found.faults == {"phantom": 1}


def test_a_tolerated_code_excuses_nobody_whose_token_is_refused(good: Logs) -> None:
    unsigned = next(r.offset for r in good.requests if not r.headers)
    tolerated = frozenset({"auth_missing"})  # what it was answered with

    run = Outcome("SUCCEEDED", None, b"output")
    found = counted(good, run, at=unsigned, tolerated=tolerated)
    assert (found.excused, found.faults) == (1, {})

    refusal = Outcome("REJECTED", "auth_expired")
    found = counted(good, refusal, at=unsigned, tolerated=tolerated)
    assert (found.excused, found.faults) == (0, {"wrong": 1})


def test_every_counter_has_a_defect() -> None:
    assert set(DOCTORED) | {"wrong"} == set(FAULTS)
