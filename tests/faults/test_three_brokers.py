"""Three brokers, three copies, two needed: each is killed and comes back under load."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from stream_executor.embedded import EmbeddedCluster
from tests.deployment import ADD, deployment
from tests.faults.load import load
from tests.integration.test_exactly_once import all_answered, verifies

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_each_of_three_brokers_is_killed_and_restarted_under_load(
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
                for index in range(3):
                    await asyncio.to_thread(cluster.kill, index)
                    await running.progress()
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
