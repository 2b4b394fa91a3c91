"""Produce signed requests and watch their answers: a backlog at once, or a steady rate.

A backlog is appended in one Kafka transaction, so that everybody sees all of it at one
moment, warm and idle until then.
"""

from __future__ import annotations

import asyncio
import gc
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from benchmarks.workload import Guest, Signed, Signers, signed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.deployment import TestDeployment

_BATCH: Final = 100
_BATCH_BYTES: Final = 512 << 10
_TICK_S: Final = 0.005
_WARM_UP_S: Final = 2.0
_LATE_S: Final = 10.0
_TRANSACTION_MS: Final = 600_000


class Ask(NamedTuple):
    """What is asked: of whom, signed how."""

    signers: Signers
    algorithm: str
    guest: Guest

    def requests(
        self, topic: str, partition: int, tag: str, count: int
    ) -> list[Signed]:
        """Sign requests for one partition; their ids begin with the tag."""
        ids = (f"{tag}-{partition}-{number}" for number in range(count))
        place = (topic, partition)
        return list(
            signed(self.signers, self.algorithm, self.guest, place, ids, time.time)
        )


@asynccontextmanager
async def _producer(
    bootstrap: str, transactional_id: str | None = None
) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        acks="all",
        max_batch_size=_BATCH_BYTES,
        transactional_id=transactional_id,
        **({"transaction_timeout_ms": _TRANSACTION_MS} if transactional_id else {}),
    )
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def _send(
    producer: AIOKafkaProducer, topic: str, partition: int, requests: list[Signed]
) -> asyncio.Future[object]:
    batch = producer.create_batch()
    for request in requests:
        added = batch.append(
            timestamp=None, key=None, value=request.value, headers=request.headers
        )
        assert added is not None
    batch.close()
    sent: asyncio.Future[object] = await producer.send_batch(
        batch, topic, partition=partition
    )
    return sent


@asynccontextmanager
async def backlog(
    made: TestDeployment, ask: Ask, tag: str, count: int
) -> AsyncIterator[AIOKafkaProducer]:
    """Append so many requests, evenly; give the producer whose commit shows them."""
    topic, each = made.topics.requests, count // made.partitions
    async with _producer(made.bootstrap, f"bench-{made.prefix}") as producer:
        await producer.begin_transaction()
        for partition in range(made.partitions):
            requests = ask.requests(topic, partition, tag, each)
            sends = [
                await _send(producer, topic, partition, requests[at : at + _BATCH])
                for at in range(0, each, _BATCH)
            ]
            await asyncio.gather(*sends)
        yield producer


class _Answer(msgspec.Struct):
    """Of a result, what the watch needs."""

    request_id: str | None = None
    status: str = ""


_read_answer = msgspec.json.Decoder(_Answer).decode


class Latency(NamedTuple):
    """What a steady rate gave.

    Attributes:
        rate: requests a second that were really sent.
        millis: of each request after the warm-up, from before its append until a
            read_committed reader had its result.
        failed: results that are not SUCCEEDED.
        missing: requests without a result in time.
    """

    rate: float
    millis: list[float]
    failed: int
    missing: int


class Pace(NamedTuple):
    """A steady rate over all partitions, for so long after the warm-up."""

    rate: float
    seconds: float

    def each(self, partitions: int) -> int:
        """Give how many requests each partition gets."""
        return int(self.rate * (self.seconds + _WARM_UP_S)) // partitions


async def steady(
    made: TestDeployment, ask: Ask, tag: str, pace: Pace, results: str
) -> Latency:
    """Send at a pace, in ticks of 5 ms; watch the answers in a topic.

    Collects no garbage meanwhile: the pauses of this process would count as latency.
    """
    gc.collect()
    gc.disable()
    try:
        return await _send_and_watch(made, ask, tag, pace, results)
    finally:
        gc.enable()


async def _send_and_watch(
    made: TestDeployment, ask: Ask, tag: str, pace: Pace, results: str
) -> Latency:
    topic, partitions = made.topics.requests, made.partitions
    rate, each = pace.rate, pace.each(partitions)
    waiting = [ask.requests(topic, p, tag, each) for p in range(partitions)]
    sent: dict[str, float] = {}
    watch = _Watch(sent)
    async with _producer(made.bootstrap) as producer:
        watching = asyncio.create_task(watch.run(made, tag, results))
        await watch.ready.wait()
        started = time.perf_counter()
        sends = []
        for part in _parts(waiting, rate, started):
            delay_s, batches = part
            await asyncio.sleep(delay_s)
            now = time.perf_counter()
            for partition, requests in batches:
                for request in requests:
                    sent[request.request_id] = now
                sends.append(await _send(producer, topic, partition, requests))
        elapsed = time.perf_counter() - started
        await asyncio.gather(*sends)
        watch.sent_all.set()
        await asyncio.wait({watching}, timeout=_LATE_S)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    millis = [
        (seen - sent[name]) * 1e3
        for name, seen in watch.seen.items()
        if sent[name] >= started + _WARM_UP_S
    ]
    missing = len(sent) - len(watch.seen)
    return Latency(len(sent) / elapsed, millis, watch.failed, missing)


def _parts(
    waiting: list[list[Signed]], rate: float, started: float
) -> Iterator[tuple[float, list[tuple[int, list[Signed]]]]]:
    """Give what is due at each tick, with the wait before it."""
    done, each = 0, len(waiting[0])
    while done < each:
        elapsed = time.perf_counter() - started + _TICK_S
        due = min(each, int(elapsed * rate / len(waiting)))
        batches = [
            (partition, requests[done:due])
            for partition, requests in enumerate(waiting)
            if due > done
        ]
        done = max(done, due)
        next_tick = started + elapsed
        yield max(0.0, next_tick - time.perf_counter()), batches


class _Watch:
    """Notes when each result became visible."""

    def __init__(self, sent: dict[str, float]) -> None:
        self.seen: dict[str, float] = {}
        self.failed = 0
        self.ready = asyncio.Event()
        self.sent_all = asyncio.Event()
        self._sent = sent

    async def run(self, made: TestDeployment, tag: str, topic: str) -> None:
        """Watch until everything was sent and answered, or until cancelled."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=made.bootstrap, isolation_level="read_committed"
        )
        await consumer.start()
        try:
            places = [TopicPartition(topic, p) for p in range(made.partitions)]
            consumer.assign(places)
            await consumer.seek_to_end(*places)
            self.ready.set()
            while not self.sent_all.is_set() or len(self.seen) < len(self._sent):
                fetched = await consumer.getmany(timeout_ms=500)
                now = time.perf_counter()
                for records in fetched.values():
                    for record in records:
                        answer = _read_answer(record.value)
                        name = answer.request_id or ""
                        if name.startswith(tag):
                            self.seen[name] = now
                            self.failed += answer.status != "SUCCEEDED"
        finally:
            await consumer.stop()
