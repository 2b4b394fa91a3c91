"""What a run left behind, read back and counted: the second opinion on exactly once.

Independent of ``audit.verify``: it knows nothing of seals' inner workings, only what
a read_committed reader of the three topics can see.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stream_executor.audit.chain import leaf_hash
from stream_executor.audit.segments import link_of
from stream_executor.kafka.reader import PartitionReader
from stream_executor.model.audit import RequestExecuted, RequestRefused, Seal
from stream_executor.wire.avro import CODECS, class_of
from stream_executor.wire.results import decode_result

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stream_executor.model.record import Record
    from stream_executor.model.result import ExecutionResult
    from tests.deployment import TestDeployment


@dataclass
class History:
    """Counters of one run; all but the first three must be zero.

    ``attested`` are offsets that seals say hold no record.
    """

    requests: int = 0
    answered: int = 0
    attested: int = 0
    lost: int = 0
    doubled: int = 0
    reordered: int = 0
    without_event: int = 0
    altered: int = 0
    chain_breaks: int = 0
    unattested: int = 0
    wrongly_attested: int = 0
    results: dict[tuple[int, int], ExecutionResult] = field(default_factory=dict)
    codes: Counter[str] = field(default_factory=Counter)

    @property
    def faults(self) -> dict[str, int]:
        """Every counter that must be zero and is not."""
        names = (
            "lost", "doubled", "reordered", "without_event", "altered",
            "chain_breaks", "unattested", "wrongly_attested",
        )  # fmt: skip
        return {name: n for name in names if (n := getattr(self, name))}


async def read_history(made: TestDeployment) -> History:
    """Read requests, results and audit of a deployment to their ends and compare."""
    history = History()
    async with PartitionReader(made.connection) as reader:
        for partition in range(made.partitions):
            await _read_partition(made, reader, partition, history)
    return history


async def _read_partition(
    made: TestDeployment, reader: PartitionReader, partition: int, history: History
) -> None:
    requests = [r async for r in _all(reader, made.topics.requests, partition)]
    asked = {record.offset for record in requests}
    history.requests += len(asked)
    answers = {}
    last = -1
    async for record in _all(reader, made.topics.results, partition):
        value = record.value or b""
        result = decode_result(value)
        history.reordered += result.offset <= last
        last = result.offset
        for offset in range(result.offset, result.offset + result.count):
            history.doubled += offset in answers
            answers[offset] = hashlib.sha256(value).digest()
            history.results[partition, offset] = result
            history.codes[result.code or "succeeded"] += 1
    history.answered += len(answers)
    history.lost += len(asked - answers.keys())
    log = _AuditLog(history)
    async for record in _all(reader, made.topics.audit, partition):
        log.take(record.value or b"")
    history.attested += len(log.attested)
    history.without_event += len(answers.keys() ^ log.events.keys())
    history.altered += sum(
        answers[o] != log.events[o] for o in answers.keys() & log.events.keys()
    )
    every = set(range(log.covered))
    history.unattested += len(every - log.events.keys() - log.attested)
    history.wrongly_attested += len(log.attested & asked)


class _AuditLog:
    """One audit partition, record by record."""

    def __init__(self, history: History) -> None:
        self.events: dict[int, bytes] = {}
        self.attested: set[int] = set()
        self.covered = 0
        self._history = history
        self._head = (0, bytes(32))

    def take(self, value: bytes) -> None:
        """Link the record, and note what it says of requests."""
        history = self._history
        history.chain_breaks += link_of(value) != self._head
        self._head = (self._head[0] + 1, leaf_hash(value))
        cls = class_of(value)
        if cls is Seal:
            seal: Seal = CODECS[Seal].decode(value)
            history.chain_breaks += seal.from_ != self.covered
            self.covered = seal.next
            for gap in seal.gaps:
                self.attested |= set(range(gap.start, gap.end))
        elif cls is RequestExecuted or cls is RequestRefused:
            event = CODECS[cls].decode(value)
            count = getattr(event, "count", 1)
            for offset in range(event.offset, event.offset + count):
                history.doubled += offset in self.events
                self.events[offset] = event.result_s256


async def _all(
    reader: PartitionReader, topic: str, partition: int
) -> AsyncIterator[Record]:
    end = await reader.end_offset(topic, partition)
    async for records in reader.read(topic, partition, 0, end):
        for record in records:
            yield record
