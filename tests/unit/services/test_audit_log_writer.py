"""What the writer of ``audit.log`` says while it waits. Its work: test_audit_log.py."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from structlog.testing import capture_logs

from stream_executor.http.tally import Tally
from stream_executor.services import audit_log_writer as module
from stream_executor.services.worker_settings import AuditLogOrders, Topics

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


async def test_a_trouble_is_said_once_whatever_its_text_becomes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A denied lock, then a disk that is full at another byte each time."""
    orders = AuditLogOrders(
        path=str(tmp_path / "audit.log"), operator_public_key=bytes(32),
        topics=Topics(), kafka_properties={"bootstrap.servers": "localhost:1"},
        log_level="info", supervisor_pid=os.getpid(), report_fd=-1,
    )  # fmt: skip
    writer = module.AuditLogWriter(orders, Tally())
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
