"""The process that writes ``audit.log``, as the supervisor sees it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from stream_executor.http.status import AuditLogStatus
from stream_executor.services.reports import AuditLogState
from stream_executor.services.supervised import Patience, SupervisedProcess
from stream_executor.services.worker_settings import AuditLogOrders, Reload

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from stream_executor.http.tally import Totals
    from stream_executor.services.worker_settings import WorkerSettings

AUDIT_LOG_COMMAND = (sys.executable, "-m", "stream_executor.services.audit_log_writer")


class AuditLogProcess(SupervisedProcess[AuditLogState]):
    """One process for the file, from ``run`` until it returns.

    Args:
        path: the file.
        settings: what the workers are told; a part of it is needed.
        totals: where reports are added up.
        command: how to start it.
        patience: the waits.
    """

    def __init__(
        self,
        path: Path,
        settings: WorkerSettings,
        totals: Totals,
        command: Sequence[str],
        patience: Patience,
    ) -> None:
        super().__init__(path.name, command, AuditLogState, totals, patience)
        self._path = path
        self._settings = settings
        self._log_level = settings.log_level

    @property
    def status(self) -> AuditLogStatus:
        """What is known of the file now."""
        state = self._state or AuditLogState(note=self._last_end)
        return AuditLogStatus(
            path=str(self._path),
            pid=self.pid,
            writing=state.writing,
            standby=state.standby,
            note=state.note,
            restarts=self._restarts,
        )

    def reload(self, message: Reload) -> None:
        """Have this process, and those that follow it, take the log level."""
        self._log_level = message.log_level
        super().reload(message)

    def refused(self, why: str) -> None:
        """Go on trying: the file may be late, and stops nothing and nobody."""

    def orders(self, report_fd: int) -> AuditLogOrders:
        """Give what it is told: no key, and no secret but Kafka's."""
        settings = self._settings
        return AuditLogOrders(
            path=str(self._path),
            operator_public_key=settings.operator_public_key,
            topics=settings.topics,
            kafka_properties=settings.kafka_properties,
            log_level=self._log_level,
            supervisor_pid=os.getpid(),
            report_fd=report_fd,
        )
