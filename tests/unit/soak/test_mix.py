"""Every kind of record of a soak is owed what its table says: so says the judge.

That it is also answered so is for the soak itself.
"""

from __future__ import annotations

import time
from itertools import count
from typing import NamedTuple

import pytest

from stream_executor.kafka.topics import TopicNames
from stream_executor.model.record import PlainRecord
from tests.history.counting import SUCCEEDED
from tests.history.judge import Judge, Rules
from tests.soak.mix import GOOD, KINDS, Made, Mix, rules

# Headers beyond the fetch code's bounds never reach the judge: the reader drops them.
UNREAD = "huge header"


class Deployed(NamedTuple):
    """A deployment without a broker."""

    topics: TopicNames = TopicNames()
    audience: str = "soak/c1"
    secret: str = "a secret of forty letters, made for a test"


@pytest.fixture(scope="module")
def of_all() -> Rules:
    return rules(Deployed())


def new_mixes() -> list[Mix]:
    made: list[Mix] = []
    numbers = count()
    made += [Mix(Deployed(), partition, 7, numbers, made) for partition in range(3)]
    return made


def record(one: Made) -> PlainRecord:
    """A record as a reader sees it; which offset it has is nothing to a judge."""
    outgoing = one.outgoing
    now_ms = int(time.time() * 1000)
    return PlainRecord(0, now_ms, outgoing.value, tuple(outgoing.headers), outgoing.key)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != UNREAD])
def test_a_kind_is_owed_what_its_table_says(of_all: Rules, kind: str) -> None:
    mixes, judge = new_mixes(), Judge(of_all, 0)
    for mix in mixes:  # what is used again must have been used
        good = [one for _ in range(200) for one in mix.make(GOOD)]
        mix.sent(good)
        for one in mix.used if mix is mixes[0] else ():
            assert judge(record(one)).status == "SUCCEEDED"
    mixes[0].aborted += mixes[0].make(GOOD)

    *before, last = [judge(record(one)) for one in mixes[0].make(kind)]
    while last.code is None and KINDS[kind].owed != SUCCEEDED:
        # Chance named the own lane where another is wanted: a good one was made.
        *before, last = [judge(record(one)) for one in mixes[0].make(kind)]

    assert all(first.status == "SUCCEEDED" for first in before)
    assert (last.code or SUCCEEDED) == KINDS[kind].owed


def test_one_seed_gives_one_sequence_of_kinds() -> None:
    one, again = new_mixes()[0].batch(500), new_mixes()[0].batch(500)
    assert [made.kind for made in one] == [made.kind for made in again]


def test_most_of_what_is_sent_is_good() -> None:
    good = sum(kind.share for kind in KINDS.values() if kind.owed == SUCCEEDED)
    assert 90_000 <= good <= 95_000
    assert sum(kind.share for kind in KINDS.values()) == 100_000
