"""An executor behind the proxy; a steady stream of requests and of their answers."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from stream_executor.kafka.appender import Appender
from stream_executor.kafka.reader import PartitionReader
from stream_executor.model.errors import ExecutorError
from tests.integration.test_exactly_once import outgoing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from tests.deployment import Executor, TestDeployment
    from tests.faults.proxy import FaultProxy

_TOGETHER = 10  # requests of one append
_PAUSE_S = 0.05
_WITHIN_S = 60.0


async def start_behind(proxy: FaultProxy, made: TestDeployment) -> Executor:
    """Start an executor whose every connection is the proxy's; wait until it is ready.

    It gives up on answers early, so that a fault need not last.
    """
    executor = made.start(
        KAFKA_BOOTSTRAP_SERVERS=proxy.address, KAFKA_REQUEST_TIMEOUT_MS="2000"
    )
    await executor.ready()
    return executor


class Load:
    """Appends requests to all partitions in turn until the block ends."""

    def __init__(self, made: TestDeployment) -> None:
        self.made = made
        self.sent = 0
        self._reader = PartitionReader(made.connection)

    async def fill(self) -> None:
        """Go on for ever; what may have been appended twice is two requests."""
        made, partition = self.made, 0
        async with Appender(made.connection) as appender:
            while True:
                numbers = range(self.sent, self.sent + _TOGETHER)
                try:
                    await appender.append_many(
                        made.topics.requests,
                        partition,
                        [outgoing(made, partition, number) for number in numbers],
                    )
                except ExecutorError:
                    continue  # a broker is away: that too must pass
                self.sent += _TOGETHER
                partition = (partition + 1) % made.partitions
                await asyncio.sleep(_PAUSE_S)  # the pace of the load

    async def ends(self) -> list[int]:
        """Ends of the results' partitions: they rise with every commit."""
        topic = self.made.topics.results
        return [
            await self._reader.end_offset(topic, partition)
            for partition in range(self.made.partitions)
        ]

    async def progress(self, partitions: Iterable[int] | None = None) -> None:
        """Wait until these lanes, or all, have committed more than now."""
        wanted = set(range(self.made.partitions) if partitions is None else partitions)
        async with asyncio.timeout(_WITHIN_S):
            before: list[int] | None = None
            while wanted:
                try:
                    now = await self.ends()
                except ExecutorError:
                    continue
                before = now if before is None else before
                wanted = {p for p in wanted if now[p] <= before[p]}
                await asyncio.sleep(_PAUSE_S)

    async def start(self) -> None:
        """Connect."""
        await self._reader.start()

    async def stop(self) -> None:
        """Disconnect."""
        await self._reader.close()


@asynccontextmanager
async def load(made: TestDeployment) -> AsyncIterator[Load]:
    """Send requests while the block runs."""
    running = Load(made)
    await running.start()
    filling = asyncio.create_task(running.fill())
    try:
        yield running
    finally:
        filling.cancel()
        await asyncio.wait({filling})
        await running.stop()
        if not filling.cancelled():
            filling.result()
