"""A jti is spent once, for as long as it can matter, within one budget."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from stream_executor.auth.replay import (
    HASH_BYTES,
    ReplayBudget,
    ReplayWindow,
    SpendOutcome,
)
from stream_executor.auth.token import VerifiedToken
from stream_executor.model.errors import MalformedError
from tests.unit.auth.tokens import (
    NOW_S,
    PROFILE,
    good_claims,
    good_wx,
    judge,
    make_token,
    s256,
)

HORIZON_MS = PROFILE.replay_window_ms
FRESH, REPLAYED, FULL = SpendOutcome.FRESH, SpendOutcome.REPLAYED, SpendOutcome.FULL


def window(budget: ReplayBudget | None = None) -> ReplayWindow:
    return ReplayWindow(budget or ReplayBudget(), HORIZON_MS)


def hashes(count: int, seed: int = 1) -> list[bytes]:
    source = random.Random(seed)  # noqa: S311 - reproducible, not secret
    return [source.randbytes(HASH_BYTES) for _ in range(count)]


@pytest.mark.threat("T-05")
def test_a_jti_is_spent_once() -> None:
    spent = window()
    first, second = hashes(2)

    assert spent.spend(first, 0) is FRESH
    assert spent.spend(first, 0) is REPLAYED
    assert spent.spend(second, 0) is FRESH
    assert spent.spend(first, HORIZON_MS) is REPLAYED
    assert len(spent) == 2


@pytest.mark.threat("T-05")
@pytest.mark.parametrize("body", ["same", "other"])
def test_the_same_jti_is_a_replay_with_the_same_and_with_another_body(
    body: str,
) -> None:
    values = b"a", b"a" if body == "same" else b"b"
    spent, outcomes = window(), []
    for value in values:
        token = make_token(good_claims(wx=good_wx(body_s256=s256(value))))
        verdict = judge(token, value=value)
        assert isinstance(verdict, VerifiedToken)
        outcomes.append(spent.spend(verdict.principal.jti_hash, NOW_S * 1000))

    assert outcomes == [FRESH, REPLAYED]


@pytest.mark.threat("T-05")
def test_a_window_rebuilt_from_seals_knows_what_was_spent() -> None:
    """After a restart or a rebalance."""
    batches = [hashes(50, seed) for seed in range(20)]
    rebuilt = window()
    for number, batch in enumerate(batches):
        rebuilt.load(b"".join(batch), number * 1000)

    assert len(rebuilt) == 1000
    for batch in batches:
        assert {rebuilt.spend(each, 20_000) for each in batch} == {REPLAYED}
    assert rebuilt.spend(hashes(1, 99)[0], 20_000) is FRESH


def test_loading_a_seal_twice_changes_nothing() -> None:
    spent, seal = window(), b"".join(hashes(100))
    spent.load(seal, 0)
    spent.load(seal, 0)

    assert len(spent) == 100


def test_a_seal_with_part_of_a_hash_is_malformed() -> None:
    with pytest.raises(MalformedError):
        window().load(bytes(17), 0)


@pytest.mark.threat("T-05")
def test_at_the_edge_of_the_window_time_refuses_what_replay_forgets() -> None:
    """There is no moment at which a spent token passes both."""
    token = make_token(good_claims(exp=NOW_S + 3600))
    spent_at_ms = (NOW_S - PROFILE.leeway_s) * 1000  # as early as it can pass
    for later_ms in range(HORIZON_MS - 2000, HORIZON_MS + 8000, 1):
        if later_ms % 97 and abs(later_ms - HORIZON_MS) > 5:
            continue
        spent = window()
        first = judge(token, at_ms=spent_at_ms)
        assert isinstance(first, VerifiedToken)
        assert spent.spend(first.principal.jti_hash, spent_at_ms) is FRESH
        spent.expire(spent_at_ms + later_ms)
        again = judge(token, at_ms=spent_at_ms + later_ms)
        if isinstance(again, VerifiedToken):
            outcome = spent.spend(again.principal.jti_hash, spent_at_ms + later_ms)
            assert outcome is REPLAYED


def test_what_cannot_matter_any_more_is_forgotten() -> None:
    spent = window()
    for second in range(400):
        for each in hashes(20, second):
            assert spent.spend(each, second * 1000) is FRESH

    assert 150 * 20 <= len(spent) <= 180 * 20
    spent.expire(10**9)
    assert len(spent) == 0
    assert spent.spend(hashes(1)[0], 10**9) is FRESH


def test_a_long_silence_is_no_trouble() -> None:
    spent = window()
    first = hashes(1)[0]
    for hour in range(1000):
        assert spent.spend(first, hour * 3_600_000) is FRESH
        assert spent.spend(first, hour * 3_600_000) is REPLAYED


@pytest.mark.parametrize("at", [1, 16, 18, 33])
def test_bytes_across_two_entries_are_no_entry(at: int) -> None:
    """A hash that is one entry's end and the next one's beginning was not spent."""
    spent = window()
    for each in hashes(200):
        spent.spend(each, 0)
    page = bytes(max(spent._pages, key=len))
    phantom = page[at : at + HASH_BYTES]
    for one in spent._pages:
        one[:] = page

    assert spent.spend(phantom, 0) is FRESH
    assert spent.spend(phantom, 0) is REPLAYED


def test_the_table_grows_and_shrinks_without_losing_anything() -> None:
    budget = ReplayBudget()
    spent = window(budget)
    early, late = hashes(20_000, 1), hashes(500, 2)
    for each in early:
        spent.spend(each, 0)
    for each in late:
        spent.spend(each, 100_000)
    grown = budget.used_bytes
    spent.expire(HORIZON_MS + 20_000)

    assert len(spent) == len(late)
    assert budget.used_bytes < grown / 8
    assert {spent.spend(each, 170_000) for each in late} == {REPLAYED}
    more = hashes(3000, 3)
    assert {spent.spend(each, 170_000) for each in more} == {FRESH}
    assert {spent.spend(each, 175_000) for each in [*late, *more]} == {REPLAYED}


@pytest.mark.threat("T-05")
def test_a_full_budget_refuses_and_spends_nothing_but_still_knows_replays() -> None:
    budget = ReplayBudget(100_000)
    spent = window(budget)
    known = []
    for each in hashes(10_000):
        outcome = spent.spend(each, 0)
        if outcome is FULL:
            break
        known.append(each)
    else:
        pytest.fail("the budget was never full")

    assert budget.used_bytes <= budget.limit_bytes
    assert len(known) > 3500
    assert spent.spend(each, 0) is FULL
    assert {spent.spend(one, 0) for one in known} == {REPLAYED}
    assert spent.spend(each, HORIZON_MS + 20_000) is FRESH


def test_windows_of_one_worker_share_the_budget() -> None:
    budget = ReplayBudget(60_000)
    first, second = window(budget), window(budget)
    while first.spend(random.randbytes(16), 0) is FRESH:  # noqa: S311
        pass

    assert FULL in {second.spend(each, 0) for each in hashes(1000)}
    first.discard()
    assert FULL not in {second.spend(each, 0) for each in hashes(1000, 2)}
    second.discard()
    assert budget.used_bytes == 0


def test_seals_are_loaded_even_beyond_the_budget() -> None:
    budget = ReplayBudget(20_000)
    spent = window(budget)
    seal = hashes(5000)
    spent.load(b"".join(seal), 0)

    assert budget.used_bytes > budget.limit_bytes
    assert {spent.spend(each, 0) for each in seal} == {REPLAYED}
    assert FULL in {spent.spend(each, 0) for each in hashes(50, 2)}


@pytest.mark.parametrize("rate", [20, 200])
def test_the_budget_counts_what_is_really_used(rate: int) -> None:
    """Measured at a sustained rate, past the horizon, not on a backlog."""
    source = random.Random(5)  # noqa: S311 - reproducible, not secret
    budget = ReplayBudget()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        spent = window(budget)
        for second in range(200):
            for _ in range(rate):
                spent.spend(source.randbytes(HASH_BYTES), second * 1000)
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()

    assert used * 0.95 <= budget.used_bytes <= used * 1.6
    assert budget.used_bytes / len(spent) < 40
