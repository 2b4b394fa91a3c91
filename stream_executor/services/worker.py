"""One worker process: Kafka, verification and audit around the sandbox's children.

Everything is wired together here and nothing is decided here: lanes decide, ports
act. The process holds keys and never runs guest code; its children run guest code
and hold nothing.

Started by the supervisor only (``python -m stream_executor.services.worker``), with
orders on standard input. Ends 0 after a drain, 4 for a configuration that cannot
work, 70 for our bug, and at once when the supervisor is gone.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog
import uvloop
from setproctitle import setproctitle

from stream_executor.http.tally import Tally
from stream_executor.logs import configure_logs
from stream_executor.model.errors import ConfigError, ExecutorError
from stream_executor.services.lifeline import follow_supervisor, receive_orders
from stream_executor.services.reports import (
    EXIT_CONFIGURATION,
    REPORT_INTERVAL_S,
    ReportWriter,
)
from stream_executor.services.secrecy import seal_memory
from stream_executor.services.worker_runtime import WorkerRuntime
from stream_executor.services.worker_settings import WorkerOrders

if TYPE_CHECKING:
    from stream_executor.services.worker_settings import Reload

EXIT_BUG = 70

log = structlog.get_logger()


def main() -> None:
    """Run one worker until it is drained; never returns."""
    seal_memory()
    orders = receive_orders(WorkerOrders)
    setproctitle(f"wasm-executor: worker {orders.identity.slot}")
    configure_logs(orders.settings.log_level)
    sys.exit(uvloop.run(_run(orders)))


async def _run(orders: WorkerOrders) -> int:
    tally = Tally()
    reports = ReportWriter(orders.report_fd, tally)
    drain = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, drain.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)
    lifeline: asyncio.Task[None] | None = None
    try:
        runtime = WorkerRuntime(orders, tally)

        def reload(order: Reload) -> None:
            configure_logs(order.log_level)
            runtime.reload()

        lifeline = asyncio.create_task(follow_supervisor(reload))
        lifeline.add_done_callback(lambda task: _abandoned(task, drain))
        await _until_drained(runtime, reports, drain)
    except ConfigError as error:
        reports.fault(str(error))
        log.critical("worker.configuration", reason=str(error))
        return EXIT_CONFIGURATION
    except Exception as error:
        reports.fault(f"{type(error).__name__}: {error}")
        known = isinstance(error, ExecutorError)
        log.critical("worker.failed", reason=str(error), exc_info=not known)
        return EXIT_BUG
    else:
        return 0
    finally:
        if lifeline is not None:
            lifeline.cancel()


def _abandoned(lifeline: asyncio.Task[None], drain: asyncio.Event) -> None:
    """End at once without a supervisor: as good as killed, the next owner recovers."""
    if not lifeline.cancelled() and not drain.is_set():
        os._exit(0)


async def _until_drained(
    runtime: WorkerRuntime, reports: ReportWriter, drain: asyncio.Event
) -> None:
    """Start, report twice a second, drain when told to; raise what ends the worker."""
    draining = asyncio.create_task(drain.wait())
    starting = asyncio.create_task(runtime.start())
    failure = runtime.failure
    try:
        while not draining.done():
            with suppress(BrokenPipeError):
                reports.send(runtime.state())
            waited: set[asyncio.Future[Any]] = {draining, failure}
            if not starting.done():
                waited.add(starting)  # to be ready is reported at once
            await asyncio.wait(
                waited,
                timeout=REPORT_INTERVAL_S,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if starting.done():
                starting.result()
                _settle_memory()
            if failure.done():
                failure.result()
            runtime.tick(time.time())
    finally:
        if not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
        ticking = asyncio.create_task(_keep_reporting(runtime, reports))
        await runtime.drain()
        ticking.cancel()
        with suppress(BrokenPipeError):
            reports.send(runtime.state())


async def _keep_reporting(runtime: WorkerRuntime, reports: ReportWriter) -> None:
    while True:
        with suppress(BrokenPipeError):
            reports.send(runtime.state())
        await asyncio.sleep(REPORT_INTERVAL_S)


_settled = False


def _settle_memory() -> None:
    """Take what start-up made out of the collector's sight, once.

    Requests make no cycles; scanning everything that lives for ever costs a worker
    7 % of its CPU (docs/performance.md).
    """
    global _settled  # noqa: PLW0603 - once a process
    if not _settled:
        _settled = True
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)


if __name__ == "__main__":
    main()
