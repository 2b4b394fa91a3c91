"""Drives a lane on an in-memory log: requests, fetches, and what it has answered."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from stream_executor.audit.segments import SegmentParser
from stream_executor.lane.lane import Lane
from stream_executor.model.lanes import LaneState
from stream_executor.model.request import Call, ExecutionRequest, InlineModule
from stream_executor.model.scalars import ValueType, pack_value
from stream_executor.wire.avro import decode
from stream_executor.wire.requests import encode_json
from stream_executor.wire.results import decode_result
from tests.lane_world import AUDIT, REQUESTS, RESULTS, MemoryWorld, authorization

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from stream_executor.lane.intake import Intake
    from stream_executor.model.request import ModuleRef
    from tests.memory_log import MemoryBroker

INLINE = InlineModule(b"\0asm")


def request(number: int = 0, module: ModuleRef = INLINE) -> bytes:
    """A call with this number."""
    args = pack_value(ValueType.I32, number) + pack_value(ValueType.I32, 1)
    return encode_json(ExecutionRequest(f"r-{number}", module, Call("add", args)))


def submit(broker: MemoryBroker, number: int = 0, module: ModuleRef = INLINE) -> int:
    """Append one good request; give its offset."""
    value = request(number, module)
    return broker.append(REQUESTS, 0, value, authorization(broker, value))


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until something holds; fail rather than hang."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - conditions, not one event
            await asyncio.sleep(0)


@asynccontextmanager
async def owned(world: MemoryWorld, *, crash: bool = False) -> AsyncIterator[Lane]:
    """A running lane; at the end it is released, or left as a crash leaves it."""
    lane = Lane(0, world)
    lane.start()
    try:
        await until(lambda: lane.state is not LaneState.ACQUIRING)
        yield lane
    finally:
        if crash and lane._task is not None:
            lane._task.cancel()
            await asyncio.wait({lane._task})
        else:
            await lane.release("drain", 1.0)


def intake(lane: Lane) -> Intake:
    """The intake of a lane that runs."""
    assert lane.intake is not None
    return lane.intake


def feed(world: MemoryWorld, lane: Lane) -> None:
    """Fetch everything from where the lane wants to read."""
    log = world.broker.log(REQUESTS, 0)
    intake(lane).feed([r for r in log[world.seeks[-1] :] if r is not None])


def leaves(broker: MemoryBroker) -> list[object]:
    """Every leaf of the audit log, decoded; the chain and seals are verified."""
    world = MemoryWorld(broker)
    parser = SegmentParser(None, None, world.believe)
    found: list[object] = []
    for record in broker.records(AUDIT, 0):
        segment = parser.feed(record.offset, record.value)
        if segment is not None:
            assert segment.foreign == []
            found += [decode(leaf.value) for leaf in segment.leaves]
    assert parser.unsealed == []
    return found


def answers(broker: MemoryBroker) -> dict[int, str]:
    """Offset → status, from the results; fails if an offset is answered twice."""
    found: dict[int, str] = {}
    for record in broker.records(RESULTS, 0):
        result = decode_result(record.value or b"")
        for offset in range(result.offset, result.offset + result.count):
            assert offset not in found
            found[offset] = result.status
    return found
