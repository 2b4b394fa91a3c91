"""A question to the brokers outlasts one of them that hangs."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from stream_executor.kafka import client as client_file
from stream_executor.kafka.client import BrokerClient
from stream_executor.kafka.connection import KafkaConnection

if TYPE_CHECKING:
    import pytest


class TwoBrokers:
    """The one that is asked first hangs."""

    def __init__(self) -> None:
        self.asked = self.updates = 0

    def get_random_node(self) -> int:
        return self.asked

    def force_metadata_update(self) -> None:
        self.updates += 1

    async def send(self, node: int, *_: object, **__: object) -> SimpleNamespace:
        self.asked += 1
        if node == 0:
            await asyncio.Event().wait()
        return SimpleNamespace(cluster_id="ours")


async def test_the_clusters_id_is_told_though_one_broker_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Lanes and views ask for it all the time; the others serve on meanwhile."""
    monkeypatch.setattr(client_file, "_HANGS_S", 0.01)
    connection = KafkaConnection(bootstrap_servers="nowhere:1")
    client, brokers = BrokerClient(connection), TwoBrokers()
    client._client = cast("Any", brokers)
    assert await client.cluster_id() == "ours"
    assert (brokers.asked, brokers.updates) == (2, 1)
