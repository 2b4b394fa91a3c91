"""The least that exactly-once costs on this machine: transactions around nothing.

Fetch with read_committed, one transactional producer a partition, for each fetch one
transaction that holds a short result and a short event for every request: nothing is
verified, nothing runs, nothing is chained or recovered. What a request waits here it
waits for Kafka and the machine; ours beside it, at the same rate in the same run, says
how much of a latency is ours. Spoken to as ``plain_loop`` is.
"""

from __future__ import annotations

import asyncio
import resource
import time
from typing import TYPE_CHECKING, Final

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.producer import sender

from benchmarks.machine import settle
from benchmarks.plain_loop import Answer, Orders, be_a_process

if TYPE_CHECKING:
    from collections.abc import Callable

# aiokafka's own pauses inside a transaction would be all that there is to see.
sender.BACKOFF_OVERRIDE = 0.001
_RETRY_BACKOFF_MS: Final = 5
_BATCH_BYTES: Final = 512 << 10
_POLL_MS: Final = 100


class _Asked(msgspec.Struct):
    request_id: str


_read = msgspec.json.Decoder(_Asked).decode
_write = msgspec.json.Encoder().encode


class _Lane:
    """One partition: what has come is answered, one transaction at a time."""

    def __init__(self, orders: Orders, partition: int) -> None:
        self.come: list[str] = []
        self.wake = asyncio.Event()
        self.answered = 0
        self._orders = orders
        self._partition = partition
        self.producer = AIOKafkaProducer(
            bootstrap_servers=orders.bootstrap,
            transactional_id=f"{orders.group}-{partition}",
            acks="all",
            max_batch_size=_BATCH_BYTES,
            retry_backoff_ms=_RETRY_BACKOFF_MS,
        )

    async def run(self, count: int) -> None:
        """Answer so many requests."""
        orders = self._orders
        while self.answered < count:
            await self.wake.wait()
            self.wake.clear()
            while self.come:
                taken, self.come = self.come, []
                await self.producer.begin_transaction()
                results = [
                    _write({"request_id": name, "status": "SUCCEEDED"})
                    for name in taken
                ]
                events = [name.encode() for name in taken]
                sends = [
                    await self._send(orders.results, results),
                    await self._send(orders.audit, events),
                ]
                await asyncio.gather(*sends)
                await self.producer.commit_transaction()
                self.answered += len(taken)

    async def _send(self, topic: str, values: list[bytes]) -> asyncio.Future[object]:
        batch = self.producer.create_batch()
        for value in values:
            added = batch.append(timestamp=None, key=None, value=value)
            assert added is not None
        batch.close()
        sent: asyncio.Future[object] = await self.producer.send_batch(
            batch, topic, partition=self._partition
        )
        return sent


async def run(orders: Orders, go: Callable[[], object]) -> Answer:
    """Answer every request of the positions; ``go`` returns when it may begin."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=orders.bootstrap,
        isolation_level="read_committed",
        enable_auto_commit=False,
    )
    await consumer.start()
    lanes = {p: _Lane(orders, p) for p in orders.positions}
    for lane in lanes.values():
        await lane.producer.start()
    consumer.assign([TopicPartition(orders.requests, p) for p in lanes])
    for partition, (start, _) in orders.positions.items():
        consumer.seek(TopicPartition(orders.requests, partition), start)
    settle()
    await asyncio.to_thread(go)
    started, cpu = time.perf_counter(), time.process_time()

    async def fetch() -> None:
        while True:
            for place, records in (await consumer.getmany(timeout_ms=_POLL_MS)).items():
                lane = lanes[place.partition]
                lane.come += [_read(record.value).request_id for record in records]
                lane.wake.set()

    fetching = asyncio.create_task(fetch())
    counts = {p: end - start for p, (start, end) in orders.positions.items()}
    await asyncio.gather(*(lanes[p].run(count) for p, count in counts.items()))
    fetching.cancel()
    answer = Answer(
        sum(counts.values()),
        0,
        time.perf_counter() - started,
        time.process_time() - cpu,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    )
    await consumer.stop()
    for lane in lanes.values():
        await lane.producer.stop()
    return answer


if __name__ == "__main__":
    be_a_process(run)
