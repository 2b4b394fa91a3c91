"""A writer of ``audit.log`` that only behaves; ``fake_audit_log.py FOLDER``."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import msgspec

from stream_executor.http.tally import Tally
from stream_executor.services.lifeline import receive_orders
from stream_executor.services.reports import AuditLogState, ReportWriter
from stream_executor.services.worker_settings import AuditLogOrders


def drained(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("drained-*"))


async def main(orders: AuditLogOrders, folder: Path) -> None:
    said = {"environment": sorted(os.environ), "orders": orders}
    (folder / "audit-log").write_bytes(msgspec.json.encode(said))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    ReportWriter(orders.report_fd, Tally()).send(AuditLogState(writing=True))
    await stop.wait()
    others = await asyncio.to_thread(drained, folder)
    (folder / "audit-log-drained").write_text(" ".join(others))


if __name__ == "__main__":
    asyncio.run(main(receive_orders(AuditLogOrders), Path(sys.argv[1])))
