"""The service's first process: one configuration, its workers, one HTTP port.

    1. settings are complete, slots are held, the port listens: or it ends with 4
    2. HTTP answers; workers start, each anew when it ends
    3. every worker has reported: READY to systemd
    4. SIGTERM or SIGINT: drain, then 0; a second one: kill, then 130
       SIGHUP: log level, JWKS, policy and certificate are read again
       a worker that refuses its configuration: the others drain, then 4

The supervisor holds the fleet key and runs nothing that comes from outside but HTTP
request heads. It knows no Kafka: a broker that is away keeps it and its metrics up.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

import structlog
from setproctitle import setproctitle

from stream_executor import __version__
from stream_executor.http import metrics
from stream_executor.http.app import build_app
from stream_executor.http.exposition import Exposition
from stream_executor.http.server import (
    HttpServer,
    Tls,
    certificate_expiry_s,
    listen,
)
from stream_executor.http.status import (
    ABLE,
    ServiceStatus,
    judge_health,
    judge_readiness,
)
from stream_executor.http.tally import Tally, Totals
from stream_executor.key_text import read_private_key
from stream_executor.logs import configure_logs
from stream_executor.model.errors import ConfigError
from stream_executor.services.audit_log_process import (
    AUDIT_LOG_COMMAND,
    AuditLogProcess,
)
from stream_executor.services.conditions import Conditions
from stream_executor.services.disks import survey
from stream_executor.services.notify import Notifier
from stream_executor.services.resident import (
    memory_limit_bytes,
    newest_backup_s,
    usage,
)
from stream_executor.services.secrecy import seal_memory
from stream_executor.services.slots import Slots
from stream_executor.services.supervised import Patience
from stream_executor.services.worker_process import (
    DRAIN_MARGIN_S,
    WORKER_COMMAND,
    WorkerSlot,
)
from stream_executor.services.worker_settings import Reload
from stream_executor.settings import cpus, reveal
from stream_executor.settings_fields import FIELDS, variable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stream_executor.settings import Settings

EXIT_OK = 0
EXIT_INTERRUPTED = 130
# The last lines of `audit.log`; what comes too late, the next start writes.
AUDIT_LOG_FINISH_S = 8.0
# So long the start of that process waits for workers to be ready: it needs a CPU, too.
_FIRST_WORK_S, _LOOK_S = 10.0, 0.2
_BEAT_S = 5.0
_CLOSE_S = 5.0  # for what comes after them

log = structlog.get_logger()


def run_service(read: Callable[[], Settings]) -> int:
    """Run the service until it is told to stop; give the exit code.

    Args:
        read: reads the settings; called again at a reload.

    Raises:
        ConfigError: the configuration cannot work (exit code 4).
    """
    setproctitle("wasm-executor: supervisor")
    seal_memory()
    settings = read()
    configure_logs(settings.log_level)
    for note in settings.notes:
        log.warning("supervisor.configuration", note=note)
    return asyncio.run(Supervisor(settings, read).run())


class Supervisor:
    """The service, from ``run`` until it returns.

    Args:
        settings: complete enough to run.
        read: reads them anew at SIGHUP.
        worker_command: how to start a worker; another in tests.
        audit_log_command: how to start the writer of ``audit.log``; another in tests.
        patience: the waits; shorter in tests.
        notifier: tells systemd; by default as the environment says.

    Raises:
        SettingsError: something that is needed to run is missing.
    """

    def __init__(
        self,
        settings: Settings,
        read: Callable[[], Settings] | None = None,
        *,
        worker_command: Sequence[str] = WORKER_COMMAND,
        audit_log_command: Sequence[str] = AUDIT_LOG_COMMAND,
        patience: Patience | None = None,
        notifier: Notifier | None = None,
    ) -> None:
        self._settings = settings
        self._read = read or (lambda: settings)
        self._worker_values = settings.worker_values()
        self._fleet_key = read_private_key(reveal(settings.fleet_key))
        self._worker_command = worker_command
        self._patience = patience or Patience()
        self._notifier = notifier or Notifier.from_environment(os.environ)
        self._totals = Totals()
        self._own = Tally()
        self._workers: list[WorkerSlot] = []
        self._audit_log: AuditLogProcess | None = None
        if settings.enable_audit_logging:
            self._audit_log = AuditLogProcess(
                settings.audit_log_path, self._worker_values, self._totals,
                audit_log_command, self._patience,
            )  # fmt: skip
        self._disks = Conditions()
        self._tls: Tls | None = None
        self._stop = asyncio.Event()
        self._interrupts = 0
        self._is_ready = False
        self._started_ms = time.time_ns() // 1_000_000
        self.port = 0

    @property
    def status(self) -> ServiceStatus:
        """The instance at this moment."""
        return ServiceStatus(
            version=__version__,
            instance=self._settings.instance_id,
            started_ms=self._started_ms,
            draining=self._stop.is_set(),
            workers=tuple(worker.status for worker in self._workers),
            audit_log=None if self._audit_log is None else self._audit_log.status,
            disks=self._disks.troubles,
        )

    async def run(self) -> int:
        """Do the four steps of the module's docstring; give the exit code.

        Raises:
            ConfigError: the port or a folder cannot be had, or a worker refused.
        """
        settings = self._settings
        slots = Slots(settings.state_dir, settings.workers)  # 1
        try:
            http = self._open_port()
            self._catch_signals()
            self._workers = [self._slot(number) for number in slots.numbers]
            await http.start()  # 2
            self.port = http.port
            log.info(
                "supervisor.started", version=__version__, config=settings.digest(),
                instance=settings.instance_id, workers=settings.workers, port=self.port,
                max_fuel=settings.max_fuel, max_memory_bytes=settings.max_memory_bytes,
            )  # fmt: skip
            beat = asyncio.create_task(self._beat())
            try:
                await self._supervise()
            finally:
                beat.cancel()
                self._release_signals()
                await http.stop()
        finally:
            slots.release()
        log.info("supervisor.stopped")
        return EXIT_INTERRUPTED if self._interrupts > 1 else EXIT_OK

    def stop(self) -> None:
        """Begin to drain; the second time, kill. What SIGTERM and SIGINT do."""
        self._interrupts += 1
        if self._interrupts > 1:
            for process in self._processes():
                process.kill()
        self._stop.set()

    def reload(self) -> None:
        """Read the configuration again and take what is safe to take. Never raises."""
        self._notifier.reloading()
        try:
            fresh = self._read()
            if self._tls is not None:
                self._tls.reload()
            self._note_files()
        except ConfigError as error:
            problems = getattr(error, "problems", [str(error)])
            log.error("supervisor.reload_refused", problems=problems)  # noqa: TRY400
        else:
            configure_logs(fresh.log_level)
            for process in self._processes():
                process.reload(Reload(fresh.log_level))
            log.info(
                "supervisor.reloaded", needs_restart=_changed(self._settings, fresh)
            )
        self._notifier.ready()

    def _processes(self) -> list[WorkerSlot | AuditLogProcess]:
        audit_log = [] if self._audit_log is None else [self._audit_log]
        return [*self._workers, *audit_log]

    def _open_port(self) -> HttpServer:
        settings, own = self._settings, self._own
        if settings.http_tls_cert_file and settings.http_tls_key_file:
            self._tls = Tls(settings.http_tls_cert_file, settings.http_tls_key_file)
        self._note_files()
        own.set(metrics.WORKERS_CONFIGURED, settings.workers)
        own.set(metrics.MAX_FUEL, settings.max_fuel)
        own.set(metrics.MAX_MEMORY, settings.max_memory_bytes)
        own.set(metrics.TIMEOUT, settings.timeout_seconds)
        own.set(metrics.MEMORY_LIMIT, memory_limit_bytes())
        own.set(metrics.CPUS, cpus())
        own.set(metrics.AUDIT_LOG_ENABLED, settings.enable_audit_logging)
        info = {"version": __version__, "config": settings.digest()}
        exposition = Exposition(self._totals, own, lambda: self.status, usage, info)
        app = build_app(
            lambda: self.status,
            self._totals,
            exposition,
            reveal(settings.http_token) or None,
        )
        listener = listen(settings.http_host, settings.metrics_port)
        return HttpServer(app, listener, self._tls)

    def _note_files(self) -> None:
        """Set the gauges that tell of files: certificates, backups, free space."""
        own, kafka = self._own, self._settings.kafka_certificate
        if self._tls is not None:
            own.set(metrics.CERTIFICATE_EXPIRY, self._tls.expires_s)
        if kafka is not None:
            with contextlib.suppress(
                OSError, ValueError
            ):  # the worker says what is wrong
                expiry_s = certificate_expiry_s(kafka)
                own.set(metrics.KAFKA_CERTIFICATE_EXPIRY, expiry_s)
        own.set(metrics.BACKUPS_EXPECTED, self._settings.backups_expected)
        own.set(metrics.LAST_BACKUP, newest_backup_s(self._settings.backup_dir))
        found, free_bytes = survey(self._settings)
        self._disks.see("disks", found)
        own.set(metrics.DISK_FREE, free_bytes)

    def _slot(self, number: int) -> WorkerSlot:
        return WorkerSlot(
            number, self._settings.instance_id, self._worker_values, self._fleet_key,
            self._totals, self._own, self._worker_command, self._patience,
        )  # fmt: skip

    async def _supervise(self) -> None:
        """Run the workers until a stop is asked for or one refuses; then drain."""
        running = {asyncio.create_task(worker.run()) for worker in self._workers}
        audit_log = asyncio.create_task(self._keep_audit_log())
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait({stop, *running}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        self._stop.set()
        most_s = self._settings.drain_seconds + DRAIN_MARGIN_S
        self._notifier.stopping(most_s + AUDIT_LOG_FINISH_S + _CLOSE_S)
        log.info("supervisor.draining", budget_s=self._settings.drain_seconds)
        for worker in self._workers:
            worker.drain()
        _, late = await asyncio.wait(running, timeout=most_s)
        if late:
            log.error("supervisor.drain_too_long", workers=len(late))
            for worker in self._workers:
                worker.kill()
        await self._finish_audit_log(audit_log)
        await asyncio.gather(*running)  # raises what a worker refused; all have ended

    async def _keep_audit_log(self) -> None:
        """Write the file; workers that start come first, the file can be late."""
        if self._audit_log is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_WORK_S):
                while not all(worker.status.ready for worker in self._workers):  # noqa: ASYNC110 - reports come twice a second
                    await asyncio.sleep(_LOOK_S)
        await self._audit_log.run()

    async def _finish_audit_log(self, running: asyncio.Task[None]) -> None:
        """Let the writer of ``audit.log`` take in what the workers did at last."""
        if self._audit_log is None or self._audit_log.pid is None:
            running.cancel()
        else:
            self._audit_log.drain()
        _, late = await asyncio.wait({running}, timeout=AUDIT_LOG_FINISH_S)
        if late and self._audit_log is not None:
            self._audit_log.kill()
            await asyncio.wait({running})

    async def _beat(self) -> None:
        """Tell systemd: ready once, then how things are and that the loop runs."""
        watchdog_s = self._notifier.watchdog_s
        pause_s = min(_BEAT_S, watchdog_s / 3) if watchdog_s else _BEAT_S
        reported = asyncio.create_task(self._all_reported())
        try:
            while True:
                self._note_files()
                self._notifier.alive()
                self._notifier.status(_in_words(self.status))
                if self._is_ready:
                    await asyncio.sleep(pause_s)
                    continue
                await asyncio.wait({reported}, timeout=pause_s)
                if reported.done():
                    self._is_ready = True
                    self._notifier.ready()  # 3
        finally:
            reported.cancel()

    async def _all_reported(self) -> None:
        for worker in self._workers:
            await worker.reported.wait()

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        loop.add_signal_handler(signal.SIGINT, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self.reload)

    def _release_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)


def _changed(old: Settings, new: Settings) -> list[str]:
    """Name the settings that differ and that a reload does not take."""
    names = [
        variable(field)
        for field in FIELDS
        if field != "log_level" and getattr(old, field) != getattr(new, field)
    ]
    if old.kafka_properties != new.kafka_properties:
        names.append("KAFKA_*")
    return names


def _in_words(status: ServiceStatus) -> str:
    """Give the line that ``systemctl status`` shows."""
    lanes = status.lanes
    able = sum(lane.state in ABLE for lane in lanes)
    text = (
        f"{able} of {len(lanes)} lanes able, lag {sum(lane.lag for lane in lanes)}, "
        f"{sum(lane.in_flight for lane in lanes)} in flight"
    )
    trouble = judge_health(status).reasons or judge_readiness(status).reasons
    return "; ".join((text, *trouble[:1]))
