"""The kafka room on a real broker keeps the contract that the model keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from stream_executor.kafka.gaps import GapProver
from stream_executor.kafka.reader import PartitionReader
from stream_executor.kafka.writer import LaneWriter
from tests.log_contract import LogContract

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stream_executor.kafka.connection import KafkaConnection
    from tests.integration.kafka.conftest import MakeTopic


class KafkaLog:
    """The contract's log on a broker."""

    def __init__(
        self,
        connection: KafkaConnection,
        topics: tuple[str, str, str],
        reader: PartitionReader,
        prover: GapProver,
    ) -> None:
        self.connection = connection
        self.requests, self.results, self.audit = topics
        self.reader, self.prover = reader, prover
        self.writers: list[LaneWriter] = []

    def writer(self) -> LaneWriter:
        self.writers.append(
            LaneWriter(
                self.connection,
                results_topic=self.results,
                audit_topic=self.audit,
                partition=0,
            )
        )
        return self.writers[-1]

    def _producer(self, transactional_id: str | None) -> AIOKafkaProducer:
        return AIOKafkaProducer(
            bootstrap_servers=self.connection.bootstrap_servers,
            transactional_id=transactional_id,
        )

    async def leave_open(self, value: bytes) -> None:
        producer = self._producer(self.writer().transactional_id)
        await producer.start()
        await producer.begin_transaction()
        await producer.send_and_wait(self.audit, value, partition=0)
        # Its connection goes, nothing else is said.
        await producer.client.close()
        producer._closed = True
        producer._sender.sender_task.cancel()

    async def append(self, value: bytes) -> None:
        async with self._producer(None) as producer:
            await producer.send_and_wait(self.requests, value, partition=0)

    async def abort(self, values: list[bytes]) -> None:
        async with self._producer(f"client-of-{self.requests}") as producer:
            await producer.begin_transaction()
            for value in values:
                await producer.send_and_wait(self.requests, value, partition=0)
            await producer.abort_transaction()

    async def remove(self, before: int) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.connection.bootstrap_servers)
        await admin.start()
        where = {TopicPartition(self.requests, 0): RecordsToDelete(before)}
        await admin.delete_records(where)
        await admin.close()


class TestKafkaLog(LogContract):
    @pytest.fixture
    async def log(
        self, connection: KafkaConnection, make_topic: MakeTopic
    ) -> AsyncIterator[KafkaLog]:
        names = [await make_topic(name) for name in ("requests", "results", "audit")]
        async with PartitionReader(connection) as reader, GapProver(connection) as gaps:
            topics = (names[0], names[1], names[2])
            log = KafkaLog(connection, topics, reader, gaps)
            yield log
            for writer in log.writers:
                await writer.close()
