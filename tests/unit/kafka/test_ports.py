"""The room fits what the lane asks of it; mypy reads this file, so it is the test."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stream_executor.kafka.connection import KafkaConnection
from stream_executor.kafka.gaps import GapProver
from stream_executor.kafka.reader import PartitionReader
from stream_executor.kafka.records import DamagedRecord
from stream_executor.kafka.writer import LaneWriter
from stream_executor.model.record import PlainRecord

if TYPE_CHECKING:
    from stream_executor.lane import ports
    from stream_executor.model.record import Record


def test_the_room_fits_the_ports_of_the_lane() -> None:
    connection = KafkaConnection(bootstrap_servers="nowhere:1")
    writer: ports.TransactionalWriter = LaneWriter(
        connection, results_topic="r", audit_topic="a", partition=3
    )
    reader: ports.LogReader = PartitionReader(connection)
    prover: ports.GapProver = GapProver(connection)
    assert isinstance(writer, LaneWriter)
    assert writer.transactional_id == "wasm-executor.a.3"
    assert isinstance(reader, PartitionReader)
    assert isinstance(prover, GapProver)


def test_a_damaged_record_stands_where_a_record_is_expected() -> None:
    damaged: Record = DamagedRecord(7, 1_000, "no end", 1)
    plain: Record = PlainRecord(7, 1_000, None)
    for name in ("offset", "timestamp", "timestamp_type", "key", "value", "headers"):
        assert getattr(damaged, name) == getattr(plain, name)
