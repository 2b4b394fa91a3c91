"""The proxy does what its rules say, and nothing else: or the fault tests lie."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from stream_executor.kafka.client import BrokerClient
from stream_executor.kafka.writer import LaneWriter
from stream_executor.model.errors import IndefiniteError
from tests.faults.proxy import Api, Do, FaultProxy

if TYPE_CHECKING:
    from stream_executor.kafka.connection import KafkaConnection
    from tests.integration.kafka.conftest import MakeTopic


async def test_without_rules_everything_passes_and_stays_on_the_proxy(
    proxy: FaultProxy, connection: KafkaConnection, make_topic: MakeTopic
) -> None:
    results, audit = await make_topic("results"), await make_topic("audit")
    async with LaneWriter(
        connection, results_topic=results, audit_topic=audit, partition=0
    ) as writer:
        await writer.commit([], [b"seal"])
    # The transaction went through it: nothing found a way around.
    assert proxy.seen["test-lane-0", Api.END_TXN] == 1
    assert proxy.seen["test-lane-0", Api.PRODUCE] >= 1


async def test_held_dropped_and_frozen_requests_are_answered_when_they_should_be(
    proxy: FaultProxy, connection: KafkaConnection, make_topic: MakeTopic
) -> None:
    topic = await make_topic("requests")
    async with BrokerClient(connection) as client:
        for do in (Do.HOLD_REQUEST, Do.HOLD_RESPONSE, Do.FREEZE):
            fault = proxy.rule(do, Api.LIST_OFFSETS)
            asking = asyncio.create_task(client.end_offset(topic, 0))
            await fault.met.wait()
            assert not asking.done()
            fault.release()
            assert await asking == 0
        for do in (Do.CUT_BEFORE, Do.CUT_AFTER, Do.DROP_RESPONSE):
            fault = proxy.rule(do, Api.LIST_OFFSETS)
            before = proxy.seen["test-query", Api.LIST_OFFSETS]
            if do is Do.DROP_RESPONSE:  # the request times out, and with it its caller
                with pytest.raises(Exception, match="ask the leader"):
                    await client.end_offset(topic, 0)
            else:  # asked again, over a new connection
                assert await client.end_offset(topic, 0) == 0
                assert proxy.seen["test-query", Api.LIST_OFFSETS] == before + 2
            assert fault.met.is_set()


@pytest.mark.parametrize(
    "api", [Api.INIT_PRODUCER_ID, Api.ADD_PARTITIONS, Api.PRODUCE, Api.END_TXN]
)
async def test_an_answered_error_is_what_the_client_reads(
    proxy: FaultProxy,
    connection: KafkaConnection,
    make_topic: MakeTopic,
    api: Api,
) -> None:
    results, audit = await make_topic("results"), await make_topic("audit")
    # UNKNOWN_SERVER_ERROR: final for every one of these requests.
    proxy.rule(Do.ANSWER, api, code=-1)
    writer = LaneWriter(
        connection, results_topic=results, audit_topic=audit, partition=0
    )
    with pytest.raises(IndefiniteError, match=r"UnknownError|error -1"):
        async with writer:
            await writer.commit([], [b"seal"])
    await writer.close()
