"""Three brokers, three copies, two needed: one is killed and comes back under load.

The one that coordinates a lane's transactions, so that certainly this moves; each of
them, and often, is for the soak (``make soak BROKERS=3``).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from stream_executor.embedded import EmbeddedCluster
from tests.deployment import ADD, TestDeployment, deployment
from tests.faults.load import load
from tests.integration.test_exactly_once import all_answered, verifies

if TYPE_CHECKING:
    from pathlib import Path

_OF_TRANSACTIONS = 1  # Kafka's type of coordinator


async def coordinator(made: TestDeployment, partition: int) -> int:
    """Give which node, counted from 0, coordinates a lane's transactions."""
    admin = AIOKafkaAdminClient(bootstrap_servers=made.bootstrap)
    await admin.start()
    try:
        name = f"wasm-executor.{made.topics.audit}.{partition}"
        node: int = await admin.find_coordinator(name, _OF_TRANSACTIONS)
        return node - 1
    finally:
        await admin.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_lanes_coordinator_is_killed_and_restarted_under_load(
    tmp_path: Path,
) -> None:
    """Leaders and coordinators move; every lane goes on while one broker is away."""
    cluster = EmbeddedCluster(3)
    await asyncio.to_thread(cluster.start)
    try:
        async with deployment(cluster.bootstrap, tmp_path, 3) as made:
            await made.publish("add@1", ADD)
            executor = made.start()
            await executor.ready()
            async with load(made) as running:
                await running.progress()
                index = await coordinator(made, 0)
                await asyncio.to_thread(cluster.kill, index)
                await running.progress()
                assert await coordinator(made, 0) != index
                await asyncio.to_thread(cluster.nodes[index].start)
                await asyncio.to_thread(cluster.wait_until_together)
                await running.progress()
            history = await all_answered(made)
            assert history.faults == {}
            assert history.requests >= running.sent
            assert history.codes == {"succeeded": history.requests}
            assert await executor.stop() == 0
            await verifies(made, history.requests)
    finally:
        await asyncio.to_thread(cluster.stop)
