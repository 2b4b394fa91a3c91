"""Requests of every kind to all partitions, as fast as they are answered.

Each partition is filled and watched by itself, so that a lane that stands still keeps
no other waiting for work. Transactional producers write beside, and abort every third
transaction: what they leave behind must be attested.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from stream_executor.kafka.appender import Appender
from stream_executor.kafka.client import READ_COMMITTED, BrokerClient
from stream_executor.kafka.internals import discard
from stream_executor.kafka.reader import PartitionReader
from stream_executor.model.errors import ExecutorError
from stream_executor.wire.results import decode_result
from tests.history import Sent
from tests.soak.liveness import Standstill
from tests.soak.mix import Mix

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.deployment import TestDeployment
    from tests.soak.mix import Made

TOGETHER = 200
# Offsets of one partition that are not answered yet: enough to keep its lane busy.
AHEAD = 2_500
SAMPLE_S = 0.5
_AGAIN_S = 0.2
TRANSACTORS = 2
_TRANSACTION_S = 15.0
# What a producer leaves open the broker aborts after this.
_OPEN_MS = 10_000
# Behind the last result are its transaction's marker and those of aborted ones.
_TAIL = 8
_LATEST = -1


class Load:
    """Appends until so many requests are out or the time is up.

    Attributes:
        sent: requests that were acknowledged; a few more may be in the log.
        kinds: how many of each kind (``mix``).
        known: what was committed and aborted, by partition.
        aborts: transactions that were aborted.
        samples: (seconds since the start, offsets that are answered).
        lagging: longest standstills of the end of what is decided below the end of
            the log, by topic.
    """

    def __init__(self, made: TestDeployment, seed: int) -> None:
        self.made = made
        self.sent = 0
        self.kinds: Counter[str] = Counter()
        self.known = {p: Sent(set(), set()) for p in range(made.partitions)}
        self.aborts = 0
        self.samples: list[tuple[float, int]] = []
        self.lagging = {made.topics.requests: 0.0, made.topics.results: 0.0}
        self._seed = seed
        self._mixes: list[Mix] = []
        numbers = count()
        self._mixes += [
            Mix(made, partition, seed, numbers, self._mixes)
            for partition in range(made.partitions)
        ]
        self._answered = [0] * made.partitions
        self._room = [asyncio.Event() for _ in range(made.partitions)]

    # -- sending ----------------------------------------------------------------

    async def fill(self, requests: int, until: float) -> None:
        """Append to all partitions at once."""

        def more() -> bool:
            return self.sent < requests and time.monotonic() < until

        async with asyncio.TaskGroup() as group:
            for partition in range(self.made.partitions):
                group.create_task(self._fill(partition, more))
            for slot in range(TRANSACTORS):
                group.create_task(self._transact(slot, more))

    async def _fill(self, partition: int, more: Callable[[], bool]) -> None:
        topic, mix = self.made.topics.requests, self._mixes[partition]
        while more():
            try:
                async with Appender(self.made.connection) as appender:
                    while more():
                        await self._room[partition].wait()
                        # Made anew each time: what may have been appended before a
                        # lost answer is a request of its own.
                        batch = mix.batch(TOGETHER)
                        appended = await appender.append_many(
                            topic, partition, [one.outgoing for one in batch]
                        )
                        offsets = [at.offset for at in appended]
                        self._committed(partition, batch, offsets)
            except ExecutorError:
                await asyncio.sleep(_AGAIN_S)  # a broker is away: that too must pass

    def _committed(self, partition: int, batch: list[Made], offsets: list[int]) -> None:
        self.sent += len(batch)
        self.kinds.update(one.kind for one in batch)
        self.known[partition].committed.update(offsets)
        self._mixes[partition].sent(batch)

    async def _transact(self, slot: int, more: Callable[[], bool]) -> None:
        """Write in transactions; after any trouble as a new producer of that name."""
        chance = random.Random(f"{self._seed}-transactor-{slot}")  # noqa: S311 - no secret
        while more():
            producer = AIOKafkaProducer(
                bootstrap_servers=self.made.bootstrap,
                transactional_id=f"{self.made.prefix}-requester-{slot}",
                transaction_timeout_ms=_OPEN_MS,
                max_batch_size=1 << 20, max_request_size=2 << 20,
            )  # fmt: skip
            try:
                async with asyncio.timeout(_TRANSACTION_S):
                    await producer.start()
                while more():
                    partitions = chance.sample(range(self.made.partitions), 2)
                    for partition in partitions:
                        await self._room[partition].wait()
                    async with asyncio.timeout(_TRANSACTION_S):
                        await self._transaction(producer, chance, partitions)
                    await asyncio.sleep(chance.uniform(0, 0.2))
            except (KafkaError, OSError):  # TimeoutError is an OSError
                await asyncio.sleep(_AGAIN_S)
            finally:
                await asyncio.wait([discard(producer)], timeout=_AGAIN_S)

    async def _transaction(
        self,
        producer: AIOKafkaProducer,
        chance: random.Random,
        partitions: list[int],
    ) -> None:
        """Write to some partitions; commit, or abort every third time."""
        topic = self.made.topics.requests
        batches = {
            p: self._mixes[p].batch(chance.randrange(10, 100)) for p in partitions
        }
        await producer.begin_transaction()
        sending = {
            partition: [
                await producer.send(
                    topic, one.outgoing.value, one.outgoing.key, partition,
                    headers=list(one.outgoing.headers),
                )
                for one in batch
            ]
            for partition, batch in batches.items()
        }  # fmt: skip
        offsets = {
            partition: [(await future).offset for future in futures]
            for partition, futures in sending.items()
        }
        if chance.random() < 1 / 3:
            await producer.abort_transaction()
            self.aborts += 1
            for partition, batch in batches.items():
                self.known[partition].aborted.update(offsets[partition])
                self._mixes[partition].aborted.extend(batch)
        else:
            await producer.commit_transaction()
            for partition, batch in batches.items():
                self._committed(partition, batch, offsets[partition])

    # -- watching ---------------------------------------------------------------

    async def watch(self, started: float) -> None:
        """Sample for ever how far each lane is; let the load wait for it."""
        async with asyncio.TaskGroup() as group:
            for partition in range(self.made.partitions):
                group.create_task(self._watch(partition))
            while True:
                done = sum(self._answered)
                self.samples.append((time.monotonic() - started, done))
                await asyncio.sleep(1)

    async def _watch(self, partition: int) -> None:
        topics, room = self.made.topics, self._room[partition]
        standing = {name: Standstill() for name in self.lagging}
        while True:
            with suppress(ExecutorError):
                async with (
                    BrokerClient(self.made.connection, "ends") as client,
                    PartitionReader(self.made.connection) as reader,
                ):
                    while True:
                        decided = {}
                        for name, standstill in standing.items():
                            decided[name] = await client.offset(
                                name, partition, _LATEST, READ_COMMITTED
                            )
                            end = await client.end_offset(name, partition)
                            standstill.saw(time.monotonic(), decided[name], end)
                            self.lagging[name] = max(
                                self.lagging[name], standstill.longest
                            )
                        await self._look_back(
                            reader, partition, decided[topics.results]
                        )
                        waiting = decided[topics.requests] - self._answered[partition]
                        if waiting > AHEAD:
                            room.clear()
                        else:
                            room.set()
                        await asyncio.sleep(SAMPLE_S)
            await asyncio.sleep(_AGAIN_S)

    async def _look_back(
        self, reader: PartitionReader, partition: int, end: int
    ) -> None:
        """Read the last result: one may answer many offsets, so none can be counted."""
        start = max(0, end - _TAIL)
        async for records in reader.read(
            self.made.topics.results, partition, start, end
        ):
            result = decode_result(records[-1].value or b"")
            self._answered[partition] = result.offset + result.count
