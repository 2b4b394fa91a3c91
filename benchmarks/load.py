"""Produce signed requests and watch their answers: a backlog at once, or a steady rate.

A backlog is appended in one Kafka transaction, so that everybody sees all of it at one
moment, warm and idle until then.
"""

from __future__ import annotations

import asyncio
import gc
import time
from contextlib import asynccontextmanager
from itertools import cycle, islice
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from aiokafka import AIOKafkaProducer

from benchmarks.workload import Guest, Signed, Signers, signed
from stream_executor.kafka.fetcher import TopicFetcher
from stream_executor.kafka.reader import PartitionReader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.deployment import TestDeployment

_BATCH: Final = 100
_BATCH_BYTES: Final = 512 << 10
_TICK_S: Final = 0.002
_MOST_AT_ONCE: Final = 12
_POLL_RECORDS: Final = 1_000
_POLL_MS: Final = 500
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
    """Send at a pace, watch the answers in a topic.

    What is due is looked at every 2 ms and goes out in batches of at most 12, each to
    the next partition, as workload W1 has it.

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
        for delay_s, batches in _parts(waiting, rate, started):
            await asyncio.sleep(delay_s)
            for partition, requests in batches:
                now = time.perf_counter()
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
    sent, total = 0, sum(map(len, waiting))
    turns = cycle([(number, iter(requests)) for number, requests in enumerate(waiting)])
    while sent < total:
        tick = time.perf_counter() - started + _TICK_S
        due = min(total, int(tick * rate))
        batches = []
        while sent < due:
            partition, requests = next(turns)
            batch = list(islice(requests, min(due - sent, _MOST_AT_ONCE)))
            if batch:
                batches.append((partition, batch))
                sent += len(batch)
        yield max(0.0, started + tick - time.perf_counter()), batches


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
        async with (
            PartitionReader(made.connection) as reader,
            TopicFetcher(made.connection, topic) as fetcher,
        ):
            ends = [await reader.end_offset(topic, p) for p in range(made.partitions)]
            fetcher.assign(dict(enumerate(ends)))
            self.ready.set()
            while not self.sent_all.is_set() or len(self.seen) < len(self._sent):
                fetched = await fetcher.getmany(_POLL_RECORDS, _POLL_MS)
                now = time.perf_counter()
                for records in fetched.values():
                    for record in records:
                        answer = _read_answer(record.value or b"")
                        name = answer.request_id or ""
                        if name.startswith(tag):
                            self.seen[name] = now
                            self.failed += answer.status != "SUCCEEDED"
