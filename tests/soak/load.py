"""Signed requests to all partitions, as fast as they are answered."""

from __future__ import annotations

import asyncio
import time
from itertools import count
from typing import TYPE_CHECKING

from stream_executor.kafka.appender import Appender
from stream_executor.kafka.reader import PartitionReader
from stream_executor.model.errors import ExecutorError
from tests.integration.test_exactly_once import outgoing

if TYPE_CHECKING:
    from tests.deployment import TestDeployment

TOGETHER = 200
# Requests sent and not yet answered: enough to keep every lane busy.
AHEAD = 20_000
_SAMPLE_S = 1.0
_AGAIN_S = 0.2


class Load:
    """Appends until so many requests are out or the time is up.

    Attributes:
        sent: requests that were acknowledged; a few more may be in the log.
        samples: (seconds since the start, answered offsets) once a second.
    """

    def __init__(self, made: TestDeployment) -> None:
        self.made = made
        self.sent = 0
        self.samples: list[tuple[float, int]] = []
        self._numbers = count(0, TOGETHER)
        self._room = asyncio.Event()
        self._room.set()

    async def fill(self, requests: int, until: float) -> None:
        """Append from all partitions' producers at once."""
        async with asyncio.TaskGroup() as group:
            for partition in range(self.made.partitions):
                group.create_task(self._fill(partition, requests, until))

    async def _fill(self, partition: int, requests: int, until: float) -> None:
        made = self.made
        while self.sent < requests and time.monotonic() < until:
            try:
                async with Appender(made.connection) as appender:
                    while self.sent < requests and time.monotonic() < until:
                        await self._room.wait()
                        first = next(self._numbers)
                        # Signed anew each time: what may have been appended before
                        # a lost answer is a request of its own.
                        batch = [
                            outgoing(made, partition, number % 1_000_000_000)
                            for number in range(first, first + TOGETHER)
                        ]
                        await appender.append_many(
                            made.topics.requests, partition, batch
                        )
                        self.sent += TOGETHER
            except ExecutorError:
                await asyncio.sleep(_AGAIN_S)  # a broker is away: that too must pass

    async def watch(self, started: float) -> None:
        """Sample for ever how far the results are; let the load wait for them."""
        while True:
            try:
                async with PartitionReader(self.made.connection) as reader:
                    while True:
                        done = await self._ends(reader)
                        self.samples.append((time.monotonic() - started, done))
                        if self.sent - done > AHEAD:
                            self._room.clear()
                        else:
                            self._room.set()
                        await asyncio.sleep(_SAMPLE_S)
            except ExecutorError:
                await asyncio.sleep(_AGAIN_S)

    async def _ends(self, reader: PartitionReader) -> int:
        ends = [
            await reader.end_offset(self.made.topics.results, partition)
            for partition in range(self.made.partitions)
        ]
        return sum(ends)
