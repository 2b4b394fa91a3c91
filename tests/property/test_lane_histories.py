"""Whatever happens to a lane, each record gets one answer, and each token one run.

Random histories of requests, replays, garbage, markers, lost answers, crashes and
takeovers on the in-memory log; then one last owner finishes what is left.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from stream_executor.audit.segments import SegmentParser
from stream_executor.lane.lane import Lane
from stream_executor.model.audit import RequestExecuted, RequestRefused, Seal
from stream_executor.model.lanes import LaneState
from stream_executor.model.request import Call, ExecutionRequest, InlineModule
from stream_executor.model.scalars import ValueType, pack_value
from stream_executor.wire.avro import decode
from stream_executor.wire.requests import encode_json
from stream_executor.wire.results import decode_result
from tests.lane_world import (
    AUDIT,
    REQUESTS,
    RESULTS,
    MemoryWorld,
    authorization,
    begun_broker,
)

if TYPE_CHECKING:
    from tests.memory_log import MemoryBroker

Step = Literal[
    "submit", "replay", "unsigned", "marker", "fetch", "report", "lose-request",
    "lose-answer", "crash", "takeover", "settle",
]  # fmt: skip
STEPS: list[Step] = [
    "submit", "submit", "submit", "replay", "unsigned", "marker", "fetch", "fetch",
    "report", "lose-request", "lose-answer", "crash", "takeover", "settle", "settle",
]  # fmt: skip


class Run:
    """One history: a broker, the present owner and those that crashed."""

    def __init__(self) -> None:
        self.broker: MemoryBroker = begun_broker()
        self.number = 0
        self.lanes: list[Lane] = []
        self.own()

    def own(self) -> None:
        """A new incarnation takes the lane; the old one, if any, is not told."""
        self.world = MemoryWorld(self.broker)
        self.world.sandbox.held = True
        self.lane = Lane(0, self.world)
        self.lane.start()
        self.lanes.append(self.lane)

    async def step(self, step: Step) -> None:  # noqa: C901, PLR0912 - a table of acts
        """Do one thing."""
        broker, lane, world = self.broker, self.lane, self.world
        match step:
            case "submit":
                self.number += 1
                args = pack_value(ValueType.I32, self.number)
                value = encode_json(
                    ExecutionRequest(
                        f"r-{self.number}", InlineModule(b"m"), Call("f", args)
                    )
                )
                broker.append(REQUESTS, 0, value, authorization(broker, value))
            case "replay":
                records = broker.records(REQUESTS, 0)
                if records:
                    first = records[0]
                    broker.append(REQUESTS, 0, first.value, first.headers)
            case "unsigned":
                broker.append(REQUESTS, 0, b"{}")
            case "marker":
                broker.marker(REQUESTS, 0)
            case "fetch":
                if lane.running and world.seeks:
                    log = broker.log(REQUESTS, 0)
                    lane.feed([r for r in log[lane.fetch_position :] if r is not None])
                    if not lane.inbox:
                        lane.reached(len(log))
            case "report":
                world.sandbox.run()
            case "lose-request":
                broker.crash_next = "before"
            case "lose-answer":
                broker.crash_next = "after"
            case "crash":
                task = lane._task
                if task is not None:
                    task.cancel()
                    await asyncio.wait({task})
                self.own()
            case "takeover":
                self.own()
            case "settle":
                for _ in range(30):
                    await asyncio.sleep(0)

    async def finish(self) -> None:
        """One last owner answers everything; earlier ones have died by then.

        An owner that was taken over while in doubt would fence the last one again:
        safe, but nobody's history would ever end.
        """
        for lane in self.lanes:
            if lane._task is not None:
                lane._task.cancel()
                await asyncio.wait({lane._task})
        self.broker.crash_next = None
        self.own()
        self.world.sandbox.held = False
        async with asyncio.timeout(10):
            while self.lane.state is not LaneState.RUNNING:
                assert self.lane.state is not LaneState.HALTED, self.lane.reason
                await asyncio.sleep(0)
            end = len(self.broker.log(REQUESTS, 0))
            while self.lane.expected < end or not all_gaps(self.lane):
                await self.step("fetch")
                await self.step("settle")
        await self.lane.release("drain", 2.0)


def all_gaps(lane: Lane) -> bool:
    """Whether only proven gaps wait: they are sealed at the release."""
    return lane.window.finished == len(lane.window) and not lane.inbox


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(STEPS), max_size=40))
def test_every_history_ends_with_one_answer_for_each_record(steps: list[Step]) -> None:
    async def history() -> MemoryBroker:
        run = Run()
        for step in steps:
            await run.step(step)
        await run.finish()
        return run.broker

    broker = asyncio.run(history())

    world = MemoryWorld(broker)
    parser = SegmentParser(None, None, world.believe)
    seals: list[Seal] = []
    answered: Counter[int] = Counter()
    attested: set[int] = set()
    for record in broker.records(AUDIT, 0):
        segment = parser.feed(record.offset, record.value)
        for leaf in segment.leaves if segment else ():
            event = decode(leaf.value)
            if isinstance(event, Seal):
                seals.append(event)
                attested |= {o for g in event.gaps for o in range(g.start, g.end)}
            elif isinstance(event, RequestExecuted | RequestRefused):
                count = getattr(event, "count", 1)
                answered.update(range(event.offset, event.offset + count))
    assert parser.unsealed == []

    log = broker.log(REQUESTS, 0)
    records = {r.offset for r in log if r is not None}
    assert answered == Counter(records)
    assert attested == set(range(len(log))) - records
    assert seals[-1].next == len(log)

    succeeded: Counter[bytes] = Counter()
    resulted: Counter[int] = Counter()
    for record in broker.records(RESULTS, 0):
        result = decode_result(record.value or b"")
        resulted.update(range(result.offset, result.offset + result.count))
        if result.status == "SUCCEEDED":
            asked = log[result.offset]
            assert asked is not None
            succeeded[dict(asked.headers)["authorization"]] += 1
    assert resulted == answered
    assert set(succeeded.values()) <= {1}
