"""Who is fetched, from where, and that no trouble of an earlier life sticks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from stream_executor.kafka.connection import KafkaConnection
from stream_executor.kafka.fetcher import TopicFetcher
from stream_executor.model.errors import UnavailableError
from stream_executor.services.fetching import FetchLoop


async def test_a_partition_that_failed_or_was_congested_is_fetched_again() -> None:
    """Neither a failure nor a pause stays on a partition whose lane began anew."""
    fetcher = TopicFetcher(KafkaConnection(bootstrap_servers="nowhere:1"), "requests")
    intake = SimpleNamespace(open=True, congested=True, fetch_position=7)
    lane = SimpleNamespace(intake=intake)
    loop = FetchLoop(fetcher, cast("Any", {0: lane, 1: lane}), lambda: True)
    loop.seek(0, 5)
    assert loop._place_positions(set()) == {0, 1}
    loop._pause_congested({0, 1})
    slots = fetcher._partitions
    assert all(slot.paused for slot in slots.values())
    slots[1].failure = UnavailableError("away")
    assert list(fetcher.take_failures()) == [1]
    assert fetcher.take_failures() == {}

    intake.congested = False
    loop.seek(1, 6)  # the lane was acquired anew
    assert loop._place_positions({0, 1}) == {0, 1}
    loop._pause_congested({0, 1})
    slots = fetcher._partitions
    assert {p: slot.fetch_from for p, slot in slots.items()} == {0: 5, 1: 6}
    assert not any(slot.paused or slot.failure for slot in slots.values())


async def test_what_was_fetched_of_a_log_is_known_while_other_lanes_begin_anew() -> (
    None
):
    """Else whatever answers the one after its neighbour's trouble would be its log."""
    fetcher = TopicFetcher(KafkaConnection(bootstrap_servers="nowhere:1"), "requests")
    intake = SimpleNamespace(open=True, fetch_position=7)
    lanes = {p: SimpleNamespace(intake=intake) for p in range(3)}
    loop = FetchLoop(fetcher, cast("Any", lanes), lambda: True)
    for partition in (0, 1, 2):
        loop.seek(partition, 5)
    assigned = loop._place_positions(set())
    before = fetcher._partitions

    loop.seek(0, 5)  # began anew
    del lanes[2]
    assert loop._place_positions(assigned) == {0, 1}
    after = fetcher._partitions
    assert set(after) == {0, 1}
    assert after[0] is not before[0]
    assert after[1] is before[1]


async def test_a_failure_alone_pauses_nothing() -> None:
    """`seek` is all that it takes to try again."""
    fetcher = TopicFetcher(KafkaConnection(bootstrap_servers="nowhere:1"), "requests")
    fetcher.assign({0: 0})
    fetcher._partitions[0].failure = UnavailableError("away")
    assert list(fetcher.take_failures()) == [0]
    fetcher.seek(0, 3)
    slot = fetcher._partitions[0]
    assert (slot.fetch_from, slot.paused, slot.failure) == (3, False, None)
