"""The SDK's ports in memory: a log with partitions, and an executor that answers."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING

from stream_executor.model.job import InvocationKind
from stream_executor.model.record import PlainRecord, Record
from stream_executor.model.result import ExecutionResult
from stream_executor.wire.results import encode_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TOPIC = "wasm.requests"
Headers = list[tuple[str, bytes]]


def result(partition: int, offset: int, **changes: object) -> ExecutionResult:
    fields: dict[str, object] = {
        "topic": TOPIC,
        "partition": partition,
        "offset": offset,
        "count": 1,
        "request_id": None,
        "status": "SUCCEEDED",
        "code": None,
        "message": "",
        "trap": None,
        "kind": int(InvocationKind.CALL),
        "output": b"",
        "stderr": b"",
        "stdout_truncated": False,
        "stderr_truncated": False,
        "exit_code": None,
        "fuel_consumed": 3,
        "fuel_exact": True,
        "memory_bytes": 0,
        "duration_us": 5,
        "module_s256": bytes(32),
        "engine": "fake",
        "salt": bytes(16),
        "log_id": bytes(16),
        "seq": offset + 1,
    }
    return ExecutionResult(**(fields | changes))  # type: ignore[arg-type]


class FakeSigner:
    """Signs by writing down what it would sign."""

    def __init__(self) -> None:
        self.signed: list[tuple[str, int, bytes, int]] = []

    def sign(self, topic: str, partition: int, value: bytes, *, now_s: int) -> bytes:
        self.signed.append((topic, partition, value, now_s))
        return b"token-%d" % partition


class FakeResults:
    """The results topic; ``publish`` is what an executor does."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[tuple[int, list[PlainRecord]] | Exception] = (
            asyncio.Queue()
        )
        self.started_before_append = False
        self.started = False
        self.closed = False

    async def start(self) -> None:
        self.started = True

    async def read(self) -> Sequence[tuple[int, Sequence[Record]]]:
        item = await self.queue.get()
        if isinstance(item, Exception):
            raise item
        return [item]

    async def close(self) -> None:
        self.closed = True

    def publish(self, *results: ExecutionResult) -> None:
        for one in results:
            self.publish_bytes(one.partition, encode_json(one))

    def publish_bytes(self, partition: int, value: bytes) -> None:
        self.queue.put_nowait((partition, [PlainRecord(0, 0, value)]))


class FakeRequests:
    """The requests topic.

    ``on_append`` sees (partition, base offset, records) before the acknowledgement
    and may raise in the broker's place.
    """

    def __init__(
        self,
        partitions: int = 2,
        on_append: Callable[[int, int, list[tuple[bytes, Headers]]], None]
        | None = None,
        delay_s: float = 0.0,
    ) -> None:
        self.count = partitions
        self.logs: defaultdict[int, list[tuple[bytes, Headers]]] = defaultdict(list)
        self.batches: list[tuple[int, int]] = []
        self.on_append = on_append
        self.delay_s = delay_s
        self.closed = False

    async def partition_count(self) -> int:
        return self.count

    async def append(
        self, partition: int, records: Sequence[tuple[bytes, Headers]]
    ) -> int:
        base = len(self.logs[partition])
        self.batches.append((partition, len(records)))
        if self.on_append is not None:
            self.on_append(partition, base, list(records))
        self.logs[partition] += records
        await asyncio.sleep(self.delay_s)
        return base

    async def close(self) -> None:
        self.closed = True
