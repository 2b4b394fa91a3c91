"""A broker behind a fault proxy, shared by the session; topics a test."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from stream_executor.embedded import EmbeddedKafka
from stream_executor.kafka.connection import KafkaConnection
from tests.faults.proxy import FaultProxy
from tests.integration.kafka.conftest import make_topic

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

__all__ = ["make_topic"]


class ProxiedKafka:
    """A broker, and the port on which a proxy stands before its second listener."""

    def __init__(self, listener: socket.socket, kafka: EmbeddedKafka) -> None:
        self.listener = listener
        self.kafka = kafka


@pytest.fixture(scope="session")
def proxied_kafka() -> Iterator[ProxiedKafka]:
    # Held for the whole session, so that nobody else gets the advertised port.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with EmbeddedKafka(proxied_port=port) as kafka:
            yield ProxiedKafka(listener, kafka)


@pytest.fixture
def kafka_bootstrap(proxied_kafka: ProxiedKafka) -> str:
    """Give the way to the broker that no fault is on: for set-up and for reading."""
    return proxied_kafka.kafka.bootstrap


@pytest.fixture
def plain(kafka_bootstrap: str) -> KafkaConnection:
    """Give connections that no fault is on."""
    return KafkaConnection(bootstrap_servers=kafka_bootstrap, client_id="plain")


@pytest.fixture
async def proxy(proxied_kafka: ProxiedKafka) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(
        proxied_kafka.listener, proxied_kafka.kafka.proxy_target
    ) as proxy:
        yield proxy


@pytest.fixture
def connection(proxy: FaultProxy) -> KafkaConnection:
    """Give connections through the proxy; they do not wait for long."""
    return KafkaConnection(
        bootstrap_servers=proxy.address, client_id="test", request_timeout_ms=2_000
    )
