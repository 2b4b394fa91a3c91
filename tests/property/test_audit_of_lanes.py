"""What lanes really write is what the verifier calls right: no false alarm, ever.

Random histories of one lane, crashes and take-overs included, read back by the
verifier with every comparison it has: results, requests, bodies, gaps.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from stream_executor.audit.report import Verdict
from stream_executor.audit.signing import public_bytes
from stream_executor.model.control import KeyPurpose
from stream_executor.modules.orders import Orders
from stream_executor.modules.view import ControlView
from stream_executor.services.audit_reading import AuditSource
from stream_executor.services.audit_verification import Thoroughness, verify
from stream_executor.services.worker_settings import Topics
from tests.lane_world import AUDIENCE, DEPLOYMENT, FLEET, OPERATOR
from tests.memory_log import MemoryReader
from tests.property.test_lane_histories import STEPS, Run, Step

if TYPE_CHECKING:
    from stream_executor.services.audit_verification import VerifyReport
    from tests.memory_log import MemoryBroker


class OnePartition(MemoryReader):
    """The lane's world has one partition."""

    async def partition_count(self, topic: str) -> int:
        """Give it."""
        del topic
        return 1


def write_control(broker: MemoryBroker) -> None:
    """Write what the lane's world had been told without a topic."""
    view = ControlView(public_bytes(OPERATOR))
    orders = Orders(view, OPERATOR, 1)

    def say(value: bytes) -> None:
        view.apply(broker.append("wasm.control", 0, value), 1, value)

    say(orders.genesis("d", "c1", AUDIENCE))
    say(orders.enrol(KeyPurpose.FLEET, public_bytes(FLEET), "fleet"))


async def audited(steps: list[Step], secret: bytes | None) -> VerifyReport:
    run = Run()
    for step in steps:
        await run.step(step)
    await run.finish()
    reader = OnePartition(run.broker)
    write_control(run.broker)
    source = AuditSource(reader, Topics(), public_bytes(OPERATOR), "c1")
    return await verify(
        source,
        Thoroughness(results=True, requests=True, prover=reader, secret=secret),
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(STEPS), max_size=40), st.booleans())
def test_every_history_of_a_lane_verifies(steps: list[Step], knows: bool) -> None:  # noqa: FBT001 - hypothesis gives it
    report = asyncio.run(audited(steps, DEPLOYMENT if knows else None))
    (partition,) = report.partitions
    assert partition.findings == []
    assert report.verdict is Verdict.OK
    assert (partition.torn, partition.lost) == ([], [])
    assert partition.results == partition.events
    if partition.answered:
        assert partition.requests == partition.answered
