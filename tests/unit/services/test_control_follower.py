"""How sure a worker is of its view of the control topic, whoever writes to it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest

from stream_executor.model.errors import BrokerRefusedError, UnavailableError
from stream_executor.model.record import PlainRecord
from stream_executor.services import control_follower
from stream_executor.services.control_follower import STALE_AFTER_S, ControlFollower
from stream_executor.services.home_cluster import HomeCluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class View:
    """Counts what it is given."""

    next_offset = 0

    def apply(self, offset: int, _timestamp: int, _value: bytes | None) -> None:
        self.next_offset = offset + 1


class BusyTopic:
    """A control topic whose writers are always one record ahead of every reader."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.looks = 0
        self.stop = False

    cluster = ""

    async def cluster_id(self) -> str:
        return self.cluster

    async def begin_offset(self, _topic: str, _partition: int) -> int:
        return 0

    async def end_offset(self, _topic: str, _partition: int) -> int:
        self.looks += 1
        return self.view.next_offset + 1

    async def read(
        self, _topic: str, _partition: int, start: int
    ) -> AsyncIterator[list[PlainRecord]]:
        offset = start
        while not self.stop:
            await asyncio.sleep(0)
            yield [PlainRecord(offset, 1, b"record")]
            offset += 1


async def test_steady_writes_leave_the_view_confirmed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There is never an idle poll, and the view never stands at the end of now."""
    monkeypatch.setattr(control_follower, "_LOOK_EVERY_S", 0.0)
    view = View()
    topic = BusyTopic(view)
    follower = ControlFollower(
        cast("Any", view), "control", HomeCluster(topic), cast("Any", topic),
        cast("Any", topic), lambda: None,
    )  # fmt: skip
    running = asyncio.create_task(follower.run())
    first = None
    async with asyncio.timeout(10):
        while not follower.confirmed:  # noqa: ASYNC110 - a condition, no event
            await asyncio.sleep(0)
        first = follower._confirmed_at
        while follower._confirmed_at == first:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await follower.confirm()
    assert topic.looks > 2
    running.cancel()
    await asyncio.wait({running})


async def test_a_topic_that_does_not_answer_confirms_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(control_follower, "CONFIRM_DEADLINE_S", 0.01)
    view = View()
    topic = BusyTopic(view)
    follower = ControlFollower(
        cast("Any", view), "control", HomeCluster(topic), cast("Any", topic),
        cast("Any", topic), lambda: None,
    )  # fmt: skip
    with pytest.raises(UnavailableError):
        await follower.confirm()
    assert not follower.confirmed


async def test_a_view_is_believed_for_a_while_only() -> None:
    """Then whoever was denied since could still be let through."""
    view = View()
    topic = BusyTopic(view)
    follower = ControlFollower(
        cast("Any", view), "control", HomeCluster(topic), cast("Any", topic),
        cast("Any", topic), lambda: None,
    )  # fmt: skip
    now = asyncio.get_running_loop().time()
    follower._confirmed_at = now
    assert follower.confirmed
    follower._confirmed_at = now - STALE_AFTER_S
    assert not follower.confirmed


class CutTopic(BusyTopic):
    """Ends before what was read of it, as another cluster's topic of that name may."""

    async def read(
        self, _topic: str, _partition: int, start: int
    ) -> AsyncIterator[list[PlainRecord]]:
        yield []
        raise BrokerRefusedError(f"{start} lies outside the log", "other")


async def test_another_clusters_control_topic_is_no_part_of_the_view(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither its records nor its end count; the first cluster's do again."""
    monkeypatch.setattr(control_follower, "_RETRY_S", 0.0)
    view = View()
    topic = BusyTopic(view)
    topic.cluster = "another"
    follower = ControlFollower(
        cast("Any", view), "control", HomeCluster(topic), cast("Any", topic),
        cast("Any", topic), lambda: None,
    )  # fmt: skip
    running = asyncio.create_task(follower.run())
    with pytest.raises(BrokerRefusedError, match="cluster another answers"):
        await follower.confirm()
    assert (view.next_offset, follower.confirmed) == (0, False)
    topic.cluster = ""
    async with asyncio.timeout(10):
        while view.next_offset < 5:  # noqa: ASYNC110 - a condition, no event
            await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait({running})


async def test_a_control_topic_that_was_cut_ends_its_follower_at_home_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(control_follower, "_RETRY_S", 0.0)
    topic = CutTopic(View())
    topic.cluster = "another"
    follower = ControlFollower(
        cast("Any", topic.view), "control", HomeCluster(topic), cast("Any", topic),
        cast("Any", topic), lambda: None,
    )  # fmt: skip
    running = asyncio.create_task(follower.run())
    await asyncio.wait({running}, timeout=0.1)
    assert not running.done()
    topic.cluster = ""
    with pytest.raises(BrokerRefusedError, match="outside the log"):
        await running
