"""Reading one record: a module may be large, and packed by the topic's setting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import cramjam

from stream_executor.kafka.client import FetchedBytes
from stream_executor.kafka.connection import KafkaConnection
from stream_executor.kafka.reader import PartitionReader
from stream_executor.kafka.records import MAX_UNPACKED_BYTES

if TYPE_CHECKING:
    from tests.unit.kafka.conftest import Bytes


class Leader:
    """Always sends the same batch."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    async def fetch(self, *_: object, **__: object) -> FetchedBytes:
        return FetchedBytes(self.data, (), 1, 1)


async def test_a_packed_module_is_read_though_no_request_may_be_so_large(
    build: Bytes,
) -> None:
    module = bytes(MAX_UNPACKED_BYTES + 1)
    packed = bytes(cramjam.zstd.compress(build.record(0, module)))
    reader = PartitionReader(KafkaConnection(bootstrap_servers="nowhere:1"))
    reader._client = cast("Any", Leader(build.batch(0, packed, attributes=0x0C)))
    found = await reader.read_one("modules", 0, 0)
    assert found is not None
    assert found.value == module
    assert [[r.value for r in some] async for some in reader.read("r", 0, 0, 1)] == [
        [None]
    ]
