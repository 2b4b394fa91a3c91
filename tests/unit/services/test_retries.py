"""How long a start waits, and for what."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from stream_executor.kafka.connection import KafkaConnection
from stream_executor.kafka.reader import PartitionReader
from stream_executor.kafka.topics import TopicNames
from stream_executor.model.conditions import Condition
from stream_executor.model.errors import BrokerRefusedError, UnavailableError
from stream_executor.services.home_cluster import HomeCluster
from stream_executor.services.retries import Retries
from stream_executor.services.surroundings import Surroundings


def nobody_around() -> Surroundings:
    connection = KafkaConnection(bootstrap_servers="x:1")
    home = HomeCluster(PartitionReader(connection))
    return Surroundings(connection, TopicNames(), home, print)


async def test_a_start_waits_for_the_world_as_long_as_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An hour without brokers: every 5 s a try, one line when it begins and ends."""
    waited_s: list[float] = []

    async def sleep(seconds: float) -> None:
        waited_s.append(seconds)

    async def step() -> None:
        if sum(waited_s) < 3_600:
            error = UnavailableError("nobody answers")
            error.condition = Condition.BROKERS_AWAY
            raise error

    monkeypatch.setattr(asyncio, "sleep", sleep)
    around = nobody_around()
    retries = Retries(around)
    with capture_logs() as lines:
        await retries.until_done(step)
    assert max(waited_s) == 5.0
    assert [line["event"] for line in lines] == [
        "worker.waiting", "condition.begun", "condition.ended",
    ]  # fmt: skip
    assert around.conditions.troubles == ()
    assert (retries.note, retries.waits) == ("", False)


async def test_what_nobody_can_mend_is_not_waited_for() -> None:
    async def step() -> None:
        raise BrokerRefusedError("beyond the end", "other")

    around = nobody_around()
    with pytest.raises(BrokerRefusedError):
        await Retries(around).until_done(step)
