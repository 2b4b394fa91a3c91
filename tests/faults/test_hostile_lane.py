"""Every hostile batch before a running lane: each offset its state, others at work.

A stranger's batches, with good signed requests inside and around them. The
lane answers each offset; the other lane of the same worker never stops; the worker's
memory stays below what is promised.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import pytest

from stream_executor.kafka.batches import parse_batches
from stream_executor.kafka.client import BrokerClient
from tests.deployment import ADD, deployment
from tests.faults.load import load
from tests.history import read_history
from tests.hostile import ACCEPTED, BOMBS, ZSTD, batch, header_block, record
from tests.integration.kafka.test_hostile_batches import produce
from tests.integration.test_exactly_once import all_answered, request, verifies
from tests.integration.test_terminal_states import _children

if TYPE_CHECKING:
    from tests.deployment import Executor, TestDeployment

WORKER_MB = 200
ROUNDS = 24
FLOOD = 100
FLOODS = 5
FLOOD_RECORDS = 60_000
SLOWER = 5  # than the lane beside it, at most, and normally about as fast


class Signed:
    """Makes good records for one partition, each with a token of its own."""

    def __init__(self, made: TestDeployment, partition: int) -> None:
        self.made, self.partition = made, partition
        self.number = 0
        self.signer = made.signer()

    def __call__(self, delta: int) -> bytes:
        self.number += 1
        value = request(self.number)
        token = self.signer.sign(
            self.made.topics.requests, self.partition, value, now_s=int(time.time())
        )
        return record(
            delta, value, header_block((b"authorization", b"Bearer " + token))
        )


def peak_mb(executor: Executor) -> float:
    """Most resident memory that a worker ever had."""
    peaks = []
    for worker in _children(executor.process.pid):
        status = Path(f"/proc/{worker}/status").read_text()
        peaks += [line.split()[1] for line in status.splitlines() if "VmHWM" in line]
    return max(int(kib) for kib in peaks) * 1024 / 1e6


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.threat("T-21")
async def test_each_hostile_batch_gets_its_answers_and_good_records_run(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    async with (
        deployment(kafka_bootstrap, tmp_path, 2) as made,
        BrokerClient(made.connection) as client,
    ):
        await made.publish("add@1", ADD)
        executor = made.start()
        await executor.ready()
        signed, topic = Signed(made, 0), made.topics.requests
        good: set[int] = set()
        bad: set[int] = set()
        few: set[int] = set()  # of batches that are no flood
        async with load(made) as running:
            await running.progress()
            for variation in ACCEPTED:
                data = await asyncio.to_thread(variation.build, signed)
                base = await produce(client, topic, data)
                for index in range(variation.count):
                    where = good if variation.holds_good(index) else bad
                    where.add(base + index)
                    if variation.count < FLOOD:
                        few.add(base + index)
            await running.progress()
            # Many that are small enough to be opened, all at once, of each kind.
            for bomb in BOMBS:
                (header,) = parse_batches(bomb)
                for _ in range(ROUNDS):
                    base = await produce(client, topic, bomb)
                    bad.update(range(base, base + header.last_offset + 1))
            await running.progress()
            last = await produce(client, topic, batch([signed(0)]))
            await made.result(0, last)
            # Each with a good request behind it, that must not wait for all of them.
            flood = batch([record(i, b"") for i in range(FLOOD_RECORDS)], ZSTD)
            behind = set()
            for _ in range(FLOODS):
                base = await produce(client, topic, flood)
                bad.update(range(base, base + FLOOD_RECORDS))
                last = await produce(client, topic, batch([signed(0)]))
                await made.result(0, last)
                behind.add(last)
            good |= behind
        history = await all_answered(made)
        assert history.faults == {}
        status = {o: r.code for (p, o), r in history.results.items() if p == 0}
        assert {status[offset] for offset in good} == {None}
        assert {status[offset] for offset in bad} == {"invalid_request", "auth_missing"}
        assert {r.code for (p, _), r in history.results.items() if p == 1} == {None}
        assert peak_mb(executor) < WORKER_MB
        hostile, sound = [await made.latencies_ms(partition) for partition in (0, 1)]
        # Both lanes share one worker, so a machine that is slow is slow to both.
        usual = median(sound.values())
        assert median(hostile[o] for o in few) < SLOWER * usual
        assert median(hostile[o] for o in behind) < SLOWER * usual
        await producers_time_halts_the_lane(made, executor, client, signed)
        assert await executor.stop() == 0
        await verifies(made, history.requests)


async def producers_time_halts_the_lane(
    made: TestDeployment, executor: Executor, client: BrokerClient, signed: Signed
) -> None:
    """Somebody changes the topic: no request is refused for it, none is answered."""
    topic = made.topics.requests
    await made.configure(topic, "message.timestamp.type", "CreateTime")
    offset = await produce(client, topic, batch([signed(0)]))
    async with asyncio.timeout(30):
        said = ""
        while "LogAppendTime" not in said:
            await asyncio.sleep(0.1)
            _, said = await asyncio.to_thread(executor.http, "/status")
    assert (0, offset) not in (await read_history(made)).results
