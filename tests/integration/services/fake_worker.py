"""A worker that only behaves: tests of the supervisor start it instead of the real one.

``fake_worker.py BEHAVIOUR FOLDER``; it leaves notes in the folder, one file each.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from stream_executor.http import metrics
from stream_executor.http.status import LaneStatus
from stream_executor.http.tally import Tally
from stream_executor.model.lanes import LaneState
from stream_executor.services.lifeline import follow_supervisor, receive_orders
from stream_executor.services.reports import ReportWriter, WorkerState
from stream_executor.services.worker_settings import WorkerOrders

if TYPE_CHECKING:
    from stream_executor.services.worker_settings import Reload


def start(behaviour: str, folder: Path) -> int:
    orders = receive_orders(WorkerOrders)
    earlier = len(list(folder.glob(f"started-{orders.identity.slot}-*")))
    return asyncio.run(main(orders, behaviour, folder, earlier))


async def main(orders: WorkerOrders, behaviour: str, folder: Path, earlier: int) -> int:
    identity = orders.identity
    slot = identity.slot

    def leave(name: str, text: str) -> None:
        draft = folder / f".{name}"
        draft.write_text(text)
        draft.rename(folder / name)

    loop = asyncio.get_running_loop()
    term = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, term.set)

    def on_reload(order: Reload) -> None:
        leave(f"reloaded-{slot}", order.log_level)

    lifeline = asyncio.create_task(follow_supervisor(on_reload))
    # Not when it is cancelled: that is the loop's own end, with our exit code.
    lifeline.add_done_callback(lambda task: None if task.cancelled() else os._exit(0))
    note = {
        "pid": os.getpid(),
        "instance": identity.instance,
        "incarnation": identity.incarnation.hex(),
        "environment": sorted(os.environ),
        "certificate": identity.certificate,
        "process_secret_key": identity.process_secret_key.hex(),
        "fuel": orders.settings.ceilings.fuel_units,
        "log_level": orders.settings.log_level,
    }
    leave(f"started-{slot}-{earlier}", msgspec.json.encode(note).decode())

    tally = Tally()
    reports = ReportWriter(orders.report_fd, tally)
    if behaviour == "refuse":
        reports.fault("the sandbox cannot be locked down on this kernel")
        return 4
    if behaviour == "babble":
        os.write(orders.report_fd, b"\xff" * 64)
    elif behaviour != "silent":
        tally.add(metrics.EXECUTIONS, 2)
        tally.set(metrics.CONCURRENT, 1)
        lane = LaneStatus(slot, LaneState.RUNNING, next=5, end=9, term=1, in_flight=2)
        reports.send(WorkerState(ready=True, engine="fake 1", lanes=(lane,)))
    if behaviour == "crash" and earlier == 0:
        return 1
    if behaviour == "litter" and earlier == 0:
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        child = subprocess.Popen(command)  # noqa: ASYNC220 - nobody waits for it
        leave("litter", str(child.pid))
        os._exit(1)
    while behaviour == "stubborn":
        await term.wait()
        term.clear()
    await term.wait()
    leave(f"drained-{slot}", "")
    return 0


if __name__ == "__main__":
    sys.exit(start(sys.argv[1], Path(sys.argv[2])))
