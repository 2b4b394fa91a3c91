"""Orders for lanes, said while others speak, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from stream_executor.audit.chain import ChainHead
from stream_executor.audit.signing import public_bytes
from stream_executor.lane.damage import WayBack
from stream_executor.modules.orders import Orders
from stream_executor.modules.view import ControlView
from stream_executor.services.lane_diagnosis import say_resume
from stream_executor.services.speaking import Speaker
from tests.lane_world import AUDIENCE, OPERATOR
from tests.memory_log import MemoryBroker, MemoryReader

if TYPE_CHECKING:
    from collections.abc import Callable

CONTROL = "wasm.control"


class Topic:
    """The control topic: somebody else may append just before we do."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.first: Callable[[], bytes] | None = None
        view = ControlView(public_bytes(OPERATOR))
        genesis = Orders(view, OPERATOR, 1).genesis("d", "c1", AUDIENCE)
        self.broker.append(CONTROL, 0, genesis)

    async def append(self, topic: str, partition: int, value: bytes) -> None:
        """Append what is said."""
        first, self.first = self.first, None
        if first is not None:
            self.broker.append(topic, partition, first())
        self.broker.append(topic, partition, value)

    def speaker(self) -> Speaker:
        """Give who has read it."""
        view = ControlView(public_bytes(OPERATOR))
        for record in self.broker.records(CONTROL, 0):
            view.apply(record.offset, record.timestamp, record.value)
        reader, appender = cast("Any", MemoryReader(self.broker)), cast("Any", self)
        return Speaker(reader, appender, CONTROL, view, OPERATOR, 1)


def back(number: int) -> WayBack:
    return WayBack(bytes([number]) * 16, ChainHead(5, bytes(32)), 3)


async def test_another_lanes_order_at_the_same_moment_is_not_taken_for_ours() -> None:
    topic = Topic()
    ours, theirs = topic.speaker(), topic.speaker()

    def other() -> bytes:
        at = back(1)
        return theirs.orders.resume(
            log_id=at.log_id, partition=1, next_offset=at.next,
            head_seq=at.head.seq - 1, head=at.head.hash, evidence="theirs",
            lost=[], skipped=[], refused=[],
        )  # fmt: skip

    topic.first = other
    assert await say_resume(ours, 0, back(0), "ours")
    said = topic.speaker().view
    assert [order.evidence for order in said.orders(back(0).log_id)] == ["ours"]
    assert [order.evidence for order in said.orders(back(1).log_id)] == ["theirs"]
