"""What the writer of ``audit.log`` says of trouble. Its work: test_audit_log.py."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from typing import TYPE_CHECKING, Any, cast

import pytest
from structlog.testing import capture_logs

from stream_executor.audit.log_file import AuditLogFile
from stream_executor.audit.signing import public_bytes
from stream_executor.http.tally import Tally
from stream_executor.model.control import KeyPurpose
from stream_executor.model.record import PlainRecord
from stream_executor.services import audit_log_writer as module
from stream_executor.services.worker_settings import AuditLogOrders, Topics
from tests.audit_logs import OPERATOR_PUBLIC, LogBuilder, MemoryTopics, key_of

if TYPE_CHECKING:
    from pathlib import Path

    from stream_executor.model.record import Record


def writer_of(path: Path) -> module.AuditLogWriter:
    orders = AuditLogOrders(
        path=str(path), operator_public_key=OPERATOR_PUBLIC, topics=Topics(),
        kafka_properties={"bootstrap.servers": "localhost:1"}, log_level="info",
        supervisor_pid=os.getpid(), report_fd=-1,
    )  # fmt: skip
    return module.AuditLogWriter(orders, Tally())


async def test_a_trouble_is_said_once_whatever_its_text_becomes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A denied lock, then a disk that is full at another byte each time."""
    writer = writer_of(tmp_path / "audit.log")
    tries = 0

    def fail(path: Path, _now_ms: object) -> None:
        nonlocal tries
        tries += 1
        number = errno.EACCES if tries == 1 else errno.ENOSPC
        if tries == 4:
            writer.stop.set()
        raise OSError(number, f"refused the {tries}. time", path.name)

    monkeypatch.setattr(module, "AuditLogFile", fail)
    monkeypatch.setattr(module, "_FIRST_RETRY_S", 0.0)
    with capture_logs() as lines:
        await writer.run()
    said = [line["reason"] for line in lines if line["event"] == "audit_log.waiting"]
    assert len(said) == 2, said
    assert "4. time" in writer.state.note


async def test_a_disk_that_hangs_is_told_while_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here in `open`; an fsync that never returns is no other."""
    writer = writer_of(tmp_path / "audit.log")
    asked, answers = threading.Event(), threading.Event()

    def hang(_path: Path, _now_ms: object) -> None:
        asked.set()
        answers.wait(60)
        writer.stop.set()
        raise OSError(errno.EIO, "gone")

    monkeypatch.setattr(module, "AuditLogFile", hang)
    running = asyncio.create_task(writer.run())
    try:
        await asyncio.to_thread(asked.wait, 60)
        assert writer.state.note == "starting"
        monkeypatch.setattr(module, "_HUNG_S", 0.0)
        assert "has not answered" in writer.state.note
        assert not writer.state.writing
    finally:
        answers.set()
        await running
    assert "gone" in writer.state.note


class Fetched:
    """Gives what a topic in memory holds from where it is told."""

    def __init__(self, topics: MemoryTopics) -> None:
        self.log = topics.logs["wasm.audit", 0]
        self.at = 0

    def assign(self, positions: dict[int, int]) -> None:
        self.at = positions[0]

    async def getmany(self, _most: int, _timeout_ms: int) -> dict[int, list[Record]]:
        records = [record for record in self.log[self.at :] if record is not None]
        self.at = len(self.log)
        return {0: list(records)} if records else {}

    def take_failures(self) -> dict[int, Exception]:
        return {}

    def position(self, _partition: int) -> int:
        return self.at

    last_stable = position


async def write(
    writer: module.AuditLogWriter, file: AuditLogFile, topics: MemoryTopics
) -> None:
    """Begin anew, and write all that the topics hold."""
    query, fetch = cast("Any", topics), cast("Any", Fetched(topics))
    partitions = await writer._begin(file, query, fetch)
    assert await writer._step(file, query, fetch, partitions)


@pytest.mark.parametrize(("lost", "said"), [(0, []), (4, [(6, 9)])])
async def test_only_leaves_that_were_lost_are_said_to_be_trimmed(
    tmp_path: Path, lost: int, said: list[tuple[int, int]]
) -> None:
    """The topic of an idle partition loses the marker behind the last leaf, too."""
    builder = LogBuilder()
    builder.acquire()
    builder.transaction(2)
    topics, before = MemoryTopics(builder), len(builder.records)
    assert before == 6
    writer = writer_of(tmp_path / "audit.log")

    with AuditLogFile(tmp_path / "audit.log", lambda: 0) as file, capture_logs() as log:
        await write(writer, file, topics)
        builder.transaction(3)
        builder.transaction(3)
        later = [
            PlainRecord(before + 1 + number, 1, value)
            for number, value in enumerate(builder.records[before:])
        ]
        topics.logs["wasm.audit", 0] += [None, *later]  # behind a marker
        topics.begins["wasm.audit", 0] = before + 1 + lost
        topics.logs["wasm.audit", 0][before : before + 1 + lost] = [None] * (lost + 1)
        await write(writer, file, topics)
    trimmed = [line for line in log if line["event"] == "audit_log.trimmed"]
    assert [(line["first_seq"], line["last_seq"]) for line in trimmed] == said


async def test_what_another_cluster_ordered_is_forgotten(tmp_path: Path) -> None:
    """It answered for a while and its control topic is longer than ours."""
    builder = LogBuilder()
    builder.acquire()
    topics = MemoryTopics(builder)
    topics.put("wasm.control", 0, [*builder.control.values, *[b"theirs"] * 9])
    writer = writer_of(tmp_path / "audit.log")

    with AuditLogFile(tmp_path / "audit.log", lambda: 0) as file, capture_logs() as log:
        await write(writer, file, topics)
        builder.fleet = key_of("another fleet")
        enrolled = builder.control.operator.enrol(
            KeyPurpose.FLEET, public_bytes(builder.fleet), "second"
        )
        builder.control.add(enrolled)
        builder.acquire()
        topics = MemoryTopics(builder)
        await write(writer, file, topics)
    assert [line for line in log if line["log_level"] == "error"] == []
    with AuditLogFile(tmp_path / "audit.log", lambda: 0) as file:
        assert file.read_from(0) == len(builder.records)
