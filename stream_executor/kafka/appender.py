"""Append records outside transactions: requests, modules, control records, checkpoints.

An idempotent producer (KIP-98): its retries neither duplicate nor reorder. A record is
acknowledged by all in-sync replicas before its offset is returned. The caller names
the partition; nothing is hashed. After a failure whose outcome is unknown the caller
reads the log to see whether the record is there.

Not here: results and audit events (``writer``), which are written in transactions.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import msgspec
from aiokafka import AIOKafkaProducer

from stream_executor.kafka.failures import classified, require_partition
from stream_executor.kafka.internals import discard, within
from stream_executor.model.errors import (
    BrokerRefusedError,
    IndefiniteError,
    MisuseError,
)
from stream_executor.model.record import Headers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from types import TracebackType
    from typing import Self

    from aiokafka.producer.message_accumulator import BatchBuilder

    from stream_executor.kafka.connection import KafkaConnection

_CLOSE_DEADLINE_S: Final = 5.0
_MAX_BATCH_BYTES: Final = 900_000


class Appended(msgspec.Struct, frozen=True, gc=False):
    """Where a record is, and when the broker says it came.

    Attributes:
        offset: of the record in its partition.
        timestamp: milliseconds since 1970, the broker's own if the topic says
            LogAppendTime, else ours.
    """

    offset: int
    timestamp: int


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """One record for ``append_many``."""

    value: bytes
    headers: Headers = ()
    key: bytes | None = None


class Appender:
    """Appends to any topic and partition; calls may run side by side."""

    def __init__(
        self,
        connection: KafkaConnection,
        *,
        role: str = "append",
        deadline_s: float = 15.0,
        max_record_bytes: int = 1 << 20,
        compression: str | None = None,
    ) -> None:
        """Prepare; nothing is opened before ``start``.

        Args:
            connection: the brokers.
            role: what this producer is for; part of the client id.
            deadline_s: for each call, seconds.
            max_record_bytes: the client's own limit; raise it for modules.
            compression: None, ``lz4``, ``zstd``, ``snappy`` or ``gzip``.
        """
        self._connection = connection
        self._role = role
        self._deadline_s = deadline_s
        self._max_record_bytes = max_record_bytes
        self._compression = compression
        self._producer: AIOKafkaProducer | None = None
        self._failed = False

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Connect and get a producer id.

        Raises:
            IndefiniteError: no answer in time; nothing was written.
            BrokerRefusedError: ``not_authorised``.
            MisuseError: started before.
        """
        if self._producer is not None:
            raise MisuseError("this appender has been started already")
        self._producer = AIOKafkaProducer(
            **self._connection.client_options(self._role),
            enable_idempotence=True,
            acks="all",
            linger_ms=0,
            retry_backoff_ms=20,
            max_batch_size=max(_MAX_BATCH_BYTES, self._max_record_bytes),
            max_request_size=self._max_record_bytes,
            compression_type=self._compression,
        )
        try:
            with classified("start a producer"):
                async with asyncio.timeout(self._deadline_s):
                    await self._producer.start()
        except BaseException:
            self._failed = True
            await self.close()
            raise

    async def close(self) -> None:
        """Disconnect; never hangs, never raises, may be called twice."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        if self._failed:
            await asyncio.wait([discard(producer)], timeout=_CLOSE_DEADLINE_S)
        else:
            await within(_CLOSE_DEADLINE_S, producer.stop())

    async def append(
        self,
        topic: str,
        partition: int,
        value: bytes,
        headers: Headers = (),
        key: bytes | None = None,
    ) -> Appended:
        """Append one record and say where it is.

        Concurrent calls share batches; for thousands a second use ``append_many``.

        Raises:
            BrokerRefusedError: ``too_large``, ``not_authorised``, ``unknown_topic`` or
                ``other``; the record was not written.
            IndefiniteError: it may have been written; read the log to know. This
                appender is closed and will write nothing more; make a new one.
        """
        async with self._sending(topic, partition) as producer:
            sending = await producer.send(
                topic, value, key, partition, headers=list(headers)
            )
            sent = await sending
            return Appended(_known(sent.offset), sent.timestamp)

    async def append_many(
        self, topic: str, partition: int, records: Sequence[Outgoing]
    ) -> list[Appended]:
        """Append records in order, in as few batches as their size allows.

        They are not one transaction: after an error a leading part may be written.

        Returns:
            One ``Appended`` a record, in order.

        Raises:
            BrokerRefusedError, IndefiniteError: as ``append``.
        """
        appended: list[Appended] = []
        async with self._sending(topic, partition) as producer:
            while len(appended) < len(records):
                batch = self._fill(producer, records[len(appended) :])
                sending = await producer.send_batch(batch, topic, partition=partition)
                sent = await sending
                appended += [
                    Appended(_known(sent.offset) + index, sent.timestamp)
                    for index in range(batch.record_count())
                ]
        return appended

    def _fill(
        self, producer: AIOKafkaProducer, records: Sequence[Outgoing]
    ) -> BatchBuilder:
        """Put as many records into one batch as fit, at least one."""
        batch = producer.create_batch()
        for record in records:
            if len(record.value) > self._max_record_bytes:
                raise BrokerRefusedError(
                    f"a record of {len(record.value)} bytes exceeds "
                    f"{self._max_record_bytes}",
                    "too_large",
                )
            added = batch.append(
                timestamp=None,
                key=record.key,
                value=record.value,
                headers=list(record.headers),
            )
            if added is None:
                break
        batch.close()
        if batch.record_count() == 0:
            raise MisuseError("aiokafka refused a record in an empty batch")
        return batch

    @asynccontextmanager
    async def _sending(
        self, topic: str, partition: int
    ) -> AsyncIterator[AIOKafkaProducer]:
        """Give the producer for one call; drop it if the call's outcome is unknown.

        aiokafka retries an idempotent send for ever. Only a producer that is gone
        writes no more, so that the caller can read the log and be sure.
        """
        if self._producer is None:
            raise MisuseError("an appender that is not started, or failed, or closed")
        try:
            with classified(f"append to {topic}-{partition}"):
                async with asyncio.timeout(self._deadline_s):
                    await require_partition(self._producer, topic, partition)
                    yield self._producer
        except IndefiniteError:
            self._failed = True
            await self.close()
            raise


def _known(offset: int) -> int:
    """Refuse the offset of a batch of which the broker only says "I had it before"."""
    if offset < 0:
        raise IndefiniteError("the broker does not say where it wrote")
    return offset
