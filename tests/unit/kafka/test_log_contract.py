"""The model's log keeps the contract."""

from __future__ import annotations

import pytest

from stream_executor.model.record import OutRecord
from tests.log_contract import LogContract
from tests.memory_log import MemoryBroker, MemoryReader, MemoryWriter


class MemoryLog:
    """The contract's log in memory."""

    requests, results, audit = "requests", "results", "audit"

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.reader = self.prover = MemoryReader(self.broker)

    def writer(self) -> MemoryWriter:
        return MemoryWriter(self.broker, self.results, self.audit, 0)

    async def leave_open(self, value: bytes) -> None:
        epoch = self.broker.fence((self.audit, 0))
        self.broker.produce((self.audit, 0), epoch, self.audit, OutRecord(value))

    async def append(self, value: bytes) -> None:
        self.broker.append(self.requests, 0, value)

    async def abort(self, values: list[bytes]) -> None:
        for _ in [*values, "the marker"]:
            self.broker.marker(self.requests, 0)

    async def remove(self, before: int) -> None:
        self.broker.remove(self.requests, 0, before)


class TestMemoryLog(LogContract):
    @pytest.fixture
    def log(self) -> MemoryLog:
        return MemoryLog()
