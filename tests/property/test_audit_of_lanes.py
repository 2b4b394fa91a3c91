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
from stream_executor.services.audit_reading import AuditSource
from stream_executor.services.audit_verification import Thoroughness, verify
from stream_executor.services.worker_settings import Topics
from tests.lane_world import DEPLOYMENT, OPERATOR
from tests.memory_log import MemoryReader
from tests.model.generating import generated
from tests.model.incarnation import control_log
from tests.model.run import Run, Step
from tests.model.virtual_time import VirtualTimeLoop

if TYPE_CHECKING:
    from stream_executor.services.audit_verification import VerifyReport
    from tests.model.damage import Damages


class OnePartition(MemoryReader):
    """The lane's world has one partition."""

    async def partition_count(self, topic: str) -> int:
        """Give it."""
        del topic
        return 1


def write_control(run: Run) -> None:
    """Write what the lanes had been told without a topic."""
    for value in (*control_log(), *(one.value for one in run.damages.orders)):
        run.broker.append("wasm.control", 0, value)


async def audited(
    steps: list[Step], secret: bytes | None
) -> tuple[VerifyReport, Damages]:
    run = Run()
    for step in steps:
        await run.do(step)
    await run.finish()
    run.broker.begins.clear()  # an archive keeps what was removed
    reader = OnePartition(run.broker)
    write_control(run)
    source = AuditSource(reader, Topics(), public_bytes(OPERATOR), "c1")
    thorough = Thoroughness(results=True, requests=True, prover=reader, secret=secret)
    return await verify(source, thorough), run.damages


@settings(max_examples=150)
@given(st.integers(0, 1 << 32), st.booleans())
def test_every_history_of_a_lane_verifies(seed: int, knows: bool) -> None:  # noqa: FBT001 - hypothesis gives it
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        secret = DEPLOYMENT if knows else None
        report, damages = runner.run(audited(generated(seed), secret))
    (partition,) = report.partitions
    assert partition.findings == []
    assert report.verdict is Verdict.OK
    assert partition.torn == []
    lost = {o for one in partition.lost for o in range(one.start, one.end)}
    assert lost == damages.lost()
    assert set(partition.foreign) == damages.planted
    assert partition.results == partition.events
    if partition.answered:
        assert partition.requests == partition.answered
