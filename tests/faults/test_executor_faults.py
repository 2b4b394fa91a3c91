"""A whole executor behind the proxy, under load: each fault once, each answer once.

The counters are those of ``tests/history.py``, read past the proxy; afterwards
``audit verify`` says the same with public keys alone.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.deployment import ADD, deployment
from tests.faults.load import load, start_behind
from tests.faults.proxy import Api, Do, FaultProxy
from tests.integration.test_exactly_once import all_answered, verifies

if TYPE_CHECKING:
    from pathlib import Path

# (what, at which request, of whom, the broker's error); each once, in this order.
LANE = "lane-0"
EACH_ONCE = [
    (Do.CUT_BEFORE, Api.END_TXN, LANE, 0),
    (Do.CUT_AFTER, Api.END_TXN, LANE, 0),
    (Do.DELIVER_LATE, Api.END_TXN, LANE, 0),
    (Do.ANSWER, Api.END_TXN, LANE, 49),  # INVALID_PRODUCER_ID_MAPPING
    (Do.CUT_AFTER, Api.ADD_PARTITIONS, LANE, 0),
    (Do.ANSWER, Api.ADD_PARTITIONS, LANE, 49),
    (Do.CUT_AFTER, Api.PRODUCE, LANE, 0),
    (Do.DROP_RESPONSE, Api.PRODUCE, LANE, 0),
    (Do.ANSWER, Api.PRODUCE, LANE, 6),  # NOT_LEADER_OR_FOLLOWER
    (Do.ANSWER, Api.PRODUCE, LANE, 45),  # OUT_OF_ORDER_SEQUENCE_NUMBER
    (Do.CUT_AFTER, Api.FETCH, "fetch", 0),
    (Do.DROP_RESPONSE, Api.FETCH, "fetch", 0),
    (Do.FREEZE, Api.FETCH, "fetch", 0),
    (Do.CUT_BEFORE, Api.HEARTBEAT, "", 0),
    (Do.ANSWER, Api.HEARTBEAT, "", 27),  # REBALANCE_IN_PROGRESS
    (Do.DROP_RESPONSE, Api.FETCH, "reader", 0),  # the follower of the control topic
]


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_each_fault_once_under_load(
    proxy: FaultProxy, kafka_bootstrap: str, tmp_path: Path
) -> None:
    async with deployment(kafka_bootstrap, tmp_path, 2) as made:
        await made.publish("add@1", ADD)
        executor = await start_behind(proxy, made)
        async with load(made) as running:
            await running.progress()
            for do, api, client, code in EACH_ONCE:
                fault = proxy.rule(do, api, client=client, code=code)
                async with asyncio.timeout(30):
                    await fault.met.wait()
                await running.progress()  # both lanes go on, whatever is held
                fault.release()
            await fenced_is_not_fought_over(proxy)
            await running.progress()
        history = await all_answered(made)
        assert history.faults == {}
        assert history.requests >= running.sent
        assert history.codes == {"succeeded": history.requests}
        assert await executor.stop() == 0
        await verifies(made, history.requests)


async def fenced_is_not_fought_over(proxy: FaultProxy) -> None:
    """A fenced lane does not fence back; a new assignment has it try again."""
    fenced, other = f"wasm-executor-{LANE}", "wasm-executor-lane-1"

    async def seen(client: str, api: Api, more_than: int) -> None:
        async with asyncio.timeout(30):
            while proxy.seen[client, api] <= more_than:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    fence = proxy.rule(Do.ANSWER, Api.ADD_PARTITIONS, client=LANE, code=47)
    await fence.met.wait()
    fences = proxy.seen[fenced, Api.INIT_PRODUCER_ID]
    await seen(other, Api.END_TXN, proxy.seen[other, Api.END_TXN] + 20)
    assert proxy.seen[fenced, Api.INIT_PRODUCER_ID] == fences
    kept = proxy.seen[other, Api.INIT_PRODUCER_ID]
    rebalance = proxy.rule(Do.ANSWER, Api.HEARTBEAT, code=27)
    await rebalance.met.wait()
    await seen(fenced, Api.INIT_PRODUCER_ID, fences)
    # The lane that was kept over the rebalance has not even noticed.
    assert proxy.seen[other, Api.INIT_PRODUCER_ID] == kept
