"""The SDK's ports on real Kafka: append requests, follow results."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from stream_executor.kafka.appender import Appender, Outgoing
from stream_executor.kafka.connection import from_properties
from stream_executor.kafka.fetcher import TopicFetcher
from stream_executor.kafka.reader import PartitionReader
from stream_executor.model.errors import (
    BrokerRefusedError,
    ConfigError,
    IndefiniteError,
    MisuseError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stream_executor.kafka.connection import KafkaConnection
    from stream_executor.model.record import Record

_MAX_RECORDS = 2000
_WAIT_MS = 1000


async def connect(
    properties: Mapping[str, str], requests_topic: str, results_topic: str
) -> tuple[RequestAppends, ResultFetch]:
    """Open the requests topic; the results are opened by ``ResultFetch.start``.

    Raises:
        UnavailableError: no broker answered.
        BrokerRefusedError: no such topic, or no right to write it.
        ConfigError: the properties make no connection, or one is unknown.
    """
    connection, unknown = from_properties(properties)
    if unknown:
        raise ConfigError(f"unknown Kafka properties: {', '.join(unknown)}")
    appends = RequestAppends(connection, requests_topic)
    await appends.start()
    return appends, ResultFetch(connection, results_topic)


class RequestAppends:
    """``client.ports.RequestLog`` on Kafka.

    An appender whose outcome is in doubt is dead, for its retries must be; the next
    call opens another.
    """

    def __init__(self, connection: KafkaConnection, topic: str) -> None:
        self._connection = connection
        self._topic = topic
        self._appender: Appender | None = None
        self._opening = asyncio.Lock()

    async def partition_count(self) -> int:
        """Give the topic's number of partitions."""
        async with PartitionReader(self._connection) as reader:
            return await reader.partition_count(self._topic)

    async def start(self) -> None:
        """Connect.

        Raises:
            UnavailableError, BrokerRefusedError: as ``connect``.
        """
        await self._open()

    async def append(
        self, partition: int, records: Sequence[tuple[bytes, list[tuple[str, bytes]]]]
    ) -> int:
        """Append as one batch; see the port."""
        outgoing = [Outgoing(value, headers) for value, headers in records]
        appender = await self._open()
        try:
            appended = await appender.append_many(self._topic, partition, outgoing)
        except IndefiniteError:
            if self._appender is appender:
                self._appender = None
            raise
        return appended[0].offset

    async def close(self) -> None:
        """Disconnect."""
        appender, self._appender = self._appender, None
        if appender is not None:
            await appender.close()

    async def _open(self) -> Appender:
        async with self._opening:
            if self._appender is None:
                appender = Appender(self._connection, role="client")
                try:
                    await appender.start()
                except IndefiniteError as error:
                    raise UnavailableError(str(error)) from error
                self._appender = appender
            return self._appender


class ResultFetch:
    """``client.ports.ResultLog`` on Kafka: all partitions, from their ends on."""

    def __init__(self, connection: KafkaConnection, topic: str) -> None:
        self._connection = connection
        self._topic = topic
        self._fetcher: TopicFetcher | None = None

    async def start(self) -> None:
        """Fix the positions, then begin to fetch."""
        async with PartitionReader(self._connection) as reader:
            count = await reader.partition_count(self._topic)
            ends = {p: await reader.end_offset(self._topic, p) for p in range(count)}
        fetcher = TopicFetcher(self._connection, self._topic)
        await fetcher.start()
        fetcher.assign(ends)
        self._fetcher = fetcher

    @property
    def interrupted(self) -> bool:
        """Whether a broker that it reads from is away; it goes on by itself."""
        return self._fetcher is not None and self._fetcher.interrupted

    async def read(self) -> Sequence[tuple[int, Sequence[Record]]]:
        """Wait for more; see the port."""
        if self._fetcher is None:
            raise MisuseError("start the results first")
        fetched = await self._fetcher.getmany(_MAX_RECORDS, _WAIT_MS)
        for partition, error in self._fetcher.take_failures().items():
            if isinstance(error, BrokerRefusedError):
                raise error
            # Whatever it was passes or repeats itself: go on where we stopped.
            self._fetcher.seek(partition, self._fetcher.position(partition))
            self._fetcher.resume([partition])
        return list(fetched.items())

    async def close(self) -> None:
        """Disconnect."""
        fetcher, self._fetcher = self._fetcher, None
        if fetcher is not None:
            await fetcher.close()
