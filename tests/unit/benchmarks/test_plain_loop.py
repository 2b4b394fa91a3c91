"""The yardstick is fair: it answers what the service answers, and refuses the same."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from benchmarks import stages
from benchmarks.plain_loop import Orders, PlainService
from benchmarks.workload import GUESTS, ISSUER, Guest, Signers, new_secret, signed

if TYPE_CHECKING:
    from collections.abc import Iterable

TOPIC, AUDIENCE = "wasm.requests", "bench/test"
SIGNERS = Signers(new_secret(), AUDIENCE)


class Fetched(msgspec.Struct):
    """A record as aiokafka's consumer gives it."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


def service(algorithm: str = "HS256") -> PlainService:
    key: Any = SIGNERS.secret if algorithm == "HS256" else SIGNERS.key.jwk
    modules = {guest.name: guest.binary for guest in GUESTS.values()}
    return PlainService(
        Orders("", "", TOPIC, "", "", {}, algorithm, key, ISSUER, AUDIENCE, modules)
    )


def fetched(
    algorithm: str = "HS256",
    guest: Guest = GUESTS["add"],
    ids: Iterable[str] = ("r-0",),
) -> list[Fetched]:
    requests = signed(SIGNERS, algorithm, guest, (TOPIC, 0), ids, time.time)
    now_ms = int(time.time() * 1000)
    return [
        Fetched(TOPIC, 0, offset, now_ms, request.value, tuple(request.headers))
        for offset, request in enumerate(requests)
    ]


@pytest.mark.parametrize("algorithm", ["HS256", "EdDSA"])
@pytest.mark.parametrize("name", sorted(GUESTS))
def test_an_honest_request_is_answered_with_its_result(
    algorithm: str, name: str
) -> None:
    plain, guest = service(algorithm), GUESTS[name]
    result, event = plain.answer(fetched(algorithm, guest)[0])
    answer = json.loads(result)
    assert answer["status"] == "SUCCEEDED"
    assert answer["request_id"] == "r-0"
    assert answer["outputs"] == [{"i32": guest.result}]
    assert json.loads(event)["sub"] == "agent-7"
    assert not plain.failed


@pytest.mark.parametrize(
    "change",
    [
        {"partition": 1},
        {"topic": "wasm.results"},
        {"value": b"{}"},
        {"headers": ()},
        {"timestamp": 4_102_444_800_000},  # 2100: the run itself takes minutes
    ],
    ids=["partition", "topic", "body", "no token", "too late"],
)
def test_what_was_not_signed_so_is_refused(change: dict[str, Any]) -> None:
    plain = service()
    result, _ = plain.answer(msgspec.structs.replace(fetched()[0], **change))
    assert json.loads(result)["status"] == "REJECTED"
    assert plain.failed == 1


def test_a_token_is_spent_once() -> None:
    plain = service()
    (record,) = fetched()
    plain.answer(record)
    result, _ = plain.answer(record)
    assert json.loads(result)["error"] == "replayed"


def test_events_are_chained() -> None:
    plain = service()
    records = fetched(ids=(f"r-{n}" for n in range(3)))
    events = [json.loads(plain.answer(record)[1]) for record in records]
    assert [event["seq"] for event in events] == [0, 1, 2]
    assert all(a["prev"] != b["prev"] for a, b in pairwise(events))


@pytest.mark.parametrize("algorithm", ["HS256", "EdDSA"])
def test_the_service_admits_the_same_requests(algorithm: str) -> None:
    bench = stages.Bench(count=3, runs=1)
    for guest in GUESTS.values():
        records = bench.records(algorithm, guest)
        assert [entry.offset for entry in bench.admit(records)] == [0, 1, 2]
