"""Belonging to the group: assignment, rebalance, static return, silence, leaving."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from aiokafka.client import ConnectionGroup

from stream_executor.kafka.client import BrokerClient
from stream_executor.kafka.internals import _lingering
from stream_executor.kafka.membership import GroupMembership, MembershipOptions
from stream_executor.model.errors import BrokerRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream_executor.kafka.connection import KafkaConnection
    from tests.integration.kafka.conftest import MakeTopic

# The shortest session a broker allows by default (group.min.session.timeout.ms).
FAST = MembershipOptions(session_timeout_ms=6_000, heartbeat_interval_ms=200)
WAIT_S = 15.0


class Member:
    """A member that remembers what it was given."""

    def __init__(
        self,
        connection: KafkaConnection,
        group: str,
        topic: str,
        name: str,
        options: MembershipOptions = FAST,
    ) -> None:
        self.history: list[set[int]] = []
        self.news = asyncio.Event()
        self.group = GroupMembership(
            connection,
            group_id=group,
            instance_id=name,
            topic=topic,
            on_assignment=self.receive,
            options=options,
        )

    async def receive(self, assigned: set[int]) -> None:
        self.history.append(assigned)
        self.news.set()

    async def until(self, condition: Callable[[set[int]], bool]) -> set[int]:
        async with asyncio.timeout(WAIT_S):
            while not (self.history and condition(self.history[-1])):
                self.news.clear()
                await self.news.wait()
        return self.history[-1]


async def test_two_members_share_and_a_restart_keeps_its_share(
    connection: KafkaConnection, make_topic: MakeTopic, topic_prefix: str
) -> None:
    topic = await make_topic("requests", 4)
    group = topic_prefix + "group"
    first = Member(connection, group, topic, "w-0")
    await first.group.start()
    assert await first.until(lambda got: len(got) == 4) == {0, 1, 2, 3}

    second = Member(connection, group, topic, "w-1")
    await second.group.start()
    share = await second.until(lambda got: len(got) == 2)
    kept = await first.until(lambda got: len(got) == 2)
    assert share | kept == {0, 1, 2, 3}
    assert second.group.assigned == share

    await second.group.close()
    again = Member(connection, group, topic, "w-1")
    await again.group.start()
    assert await again.until(bool) == share
    assert first.history[-1] == kept, "a static return must not rebalance the others"

    await first.group.close()
    first = Member(connection, group, topic, "w-0")
    await first.group.start()
    assert await first.until(bool) == kept, "nor must the return of the leader"
    assert again.history[-1] == share

    assert await first.group.commit_positions(dict.fromkeys(kept, 7))

    await again.group.leave()
    started = asyncio.get_running_loop().time()
    await first.until(lambda got: len(got) == 4)
    took = asyncio.get_running_loop().time() - started
    assert took < FAST.session_timeout_ms / 1000 - 1, (
        "leaving must not wait for silence"
    )
    await first.group.leave()


async def test_who_closes_while_joining_waits_for_no_slow_member(
    connection: KafkaConnection, make_topic: MakeTopic, topic_prefix: str
) -> None:
    """Nor leaves anything of aiokafka's behind that would."""
    topic, group = await make_topic("requests", 2), topic_prefix + "group"
    slow = replace(FAST, session_timeout_ms=30_000, heartbeat_interval_ms=9_000)
    first = Member(connection, group, topic, "w-0", slow)
    await first.group.start()
    await first.until(lambda got: len(got) == 2)
    second = Member(connection, group, topic, "w-1", slow)
    await second.group.start()
    coordinator, client = second.group._coordinator, second.group._client
    assert coordinator is not None
    assert client is not None

    def asked() -> bool:
        return any(
            connection._requests
            for (_, kind), connection in client.raw._conns.items()
            if kind == ConnectionGroup.COORDINATION
        )

    async with asyncio.timeout(WAIT_S):
        while not asked():  # noqa: ASYNC110 - aiokafka's doing
            await asyncio.sleep(0.01)
    await second.group.close()
    assert not _lingering
    assert coordinator._coordination_task.done()
    assert first.group.assigned == {0, 1}
    await first.group.close()


async def test_partitions_of_a_silent_member_move_after_its_session(
    connection: KafkaConnection, make_topic: MakeTopic, topic_prefix: str
) -> None:
    topic = await make_topic("requests", 2)
    group = topic_prefix + "group"
    first = Member(connection, group, topic, "w-0")
    second = Member(connection, group, topic, "w-1")
    await first.group.start()
    await first.until(lambda got: len(got) == 2)
    await second.group.start()
    await second.until(lambda got: len(got) == 1)
    await first.until(lambda got: len(got) == 1)
    await second.group.close()  # to the group the same as SIGKILL: it says nothing
    assert await first.until(lambda got: len(got) == 2) == {0, 1}
    await first.group.close()
    await first.group.close()


async def test_a_slow_receiver_gets_the_last_assignment_and_stays_a_member(
    connection: KafkaConnection, make_topic: MakeTopic, topic_prefix: str
) -> None:
    topic = await make_topic("requests", 2)
    group = topic_prefix + "group"
    first = Member(connection, group, topic, "w-0")
    gate, called = asyncio.Event(), asyncio.Event()
    receive = first.receive

    async def slow(assigned: set[int]) -> None:
        called.set()
        await gate.wait()
        await receive(assigned)

    first.group._on_assignment = slow
    await first.group.start()
    second = Member(connection, group, topic, "w-1")
    await called.wait()
    await second.group.start()
    await second.until(lambda got: len(got) == 1)
    gate.set()
    assert len(await first.until(lambda got: len(got) == 1)) == 1
    assert len(first.history) <= 2
    await first.group.leave()
    await second.group.leave()


async def test_what_the_receiver_raises_is_raised_by_failed(
    connection: KafkaConnection, make_topic: MakeTopic, topic_prefix: str
) -> None:
    topic = await make_topic("requests")

    async def broken(assigned: set[int]) -> None:
        raise ValueError(assigned)

    member = GroupMembership(
        connection,
        group_id=topic_prefix + "group",
        instance_id="w-0",
        topic=topic,
        on_assignment=broken,
        options=FAST,
    )
    await member.start()
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(ValueError, match="0"):
            await member.failed()
    await member.leave()


async def test_an_impossible_session_is_refused(
    connection: KafkaConnection, make_topic: MakeTopic, topic_prefix: str
) -> None:
    topic = await make_topic("requests")
    member = Member(connection, topic_prefix + "group", topic, "w-0")
    member.group._options = MembershipOptions(session_timeout_ms=10)
    await member.group.start()
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(BrokerRefusedError) as caught:
            await member.group.failed()
    assert caught.value.reason == "other"
    await member.group.close()


async def test_membership_of_an_unknown_topic_is_refused(
    connection: KafkaConnection, topic_prefix: str
) -> None:
    async with BrokerClient(connection) as client:
        with pytest.raises(BrokerRefusedError) as caught:
            await client.partition_count(topic_prefix + "none")
        assert caught.value.reason == "unknown_topic"
