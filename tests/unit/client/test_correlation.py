"""Which result answers which request."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stream_executor.client.correlation import Correlator
from tests.unit.client.fakes import result


def test_a_result_after_the_acknowledgement_finds_its_waiter() -> None:
    correlator: Correlator[str] = Correlator()
    correlator.sending(0)
    assert correlator.sent(0, [(5, "mine")]) == []
    answer = result(0, 5)
    assert correlator.arrived(answer) == [("mine", answer)]
    assert correlator.arrived(answer) == []


def test_a_result_before_the_acknowledgement_is_kept_for_it() -> None:
    correlator: Correlator[str] = Correlator()
    correlator.sending(1)
    early = result(1, 7)
    assert correlator.arrived(early) == []
    assert correlator.sent(1, [(7, "mine")]) == [("mine", early)]


def test_a_result_of_another_partition_or_offset_is_nobodys() -> None:
    correlator: Correlator[str] = Correlator()
    correlator.sending(0)
    correlator.sent(0, [(5, "mine")])
    assert correlator.arrived(result(1, 5)) == []
    assert correlator.arrived(result(0, 6)) == []


def test_one_result_for_a_range_answers_everyone_in_it() -> None:
    correlator: Correlator[int] = Correlator()
    correlator.sending(0)
    correlator.sent(0, [(o, o) for o in (3, 4, 6, 9)])
    refused = result(0, 4, count=4, code="auth_missing", status="REJECTED", kind=None)
    assert correlator.arrived(refused) == [(4, refused), (6, refused)]
    assert sorted(correlator.drain()) == [3, 9]


def test_a_range_that_arrives_early_answers_those_sent_before_and_after() -> None:
    correlator: Correlator[int] = Correlator()
    correlator.sending(0)
    correlator.sent(0, [(3, 3)])
    correlator.sending(0)
    refused = result(0, 3, count=2, code="auth_missing", status="REJECTED", kind=None)
    assert correlator.arrived(refused) == [(3, refused)]
    assert correlator.sent(0, [(4, 4)]) == [(4, refused)]


def test_results_of_others_are_not_kept_once_no_send_is_under_way() -> None:
    correlator: Correlator[int] = Correlator()
    correlator.sending(0)
    correlator.arrived(result(0, 100))
    correlator.sent(0, [(1, 1)])
    correlator.sending(0)
    assert correlator.sent(0, [(100, 100)]) == []


def test_a_failed_send_waits_for_nothing() -> None:
    correlator: Correlator[int] = Correlator()
    correlator.sending(0)
    correlator.sent(0, [])
    assert correlator.arrived(result(0, 0)) == []
    assert correlator.drain() == []


def test_who_is_forgotten_gets_nothing() -> None:
    correlator: Correlator[int] = Correlator()
    correlator.sending(0)
    correlator.sent(0, [(1, 1)])
    correlator.forget(0, 1)
    assert correlator.arrived(result(0, 1)) == []


@given(st.lists(st.integers(1, 4), min_size=1, max_size=8), st.data())
def test_whatever_the_order_each_request_gets_its_own_result_once(
    batches: list[int], data: st.DataObject
) -> None:
    """Acknowledgements in order, each result anywhere after its append began."""
    correlator: Correlator[int] = Correlator()
    got: list[tuple[int, int]] = []
    base = 0
    late: list[int] = []
    for size in batches:
        correlator.sending(0)
        own = list(range(base, base + size))
        early = data.draw(st.sets(st.sampled_from(own)))
        for offset in early:
            got += [(w, r.offset) for w, r in correlator.arrived(result(0, offset))]
        matched = correlator.sent(0, [(o, o) for o in own])
        got += [(w, r.offset) for w, r in matched]
        late += [o for o in own if o not in early]
        base += size
    for offset in data.draw(st.permutations(late)):
        got += [(w, r.offset) for w, r in correlator.arrived(result(0, offset))]
    assert sorted(got) == [(o, o) for o in range(base)]
