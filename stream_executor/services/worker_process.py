"""One worker slot: what a worker is told, and what is known of it.

Each incarnation has an Ed25519 key of its own, certified by the fleet key, which never
leaves the supervisor.

Not here: starting processes and reading reports (``supervised``), which slots there
are (``slots``).
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from typing import TYPE_CHECKING

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stream_executor.audit.signing import certify, public_bytes
from stream_executor.http import metrics
from stream_executor.http.status import WorkerStatus
from stream_executor.services.reports import WorkerState
from stream_executor.services.supervised import Patience, SupervisedProcess
from stream_executor.services.worker_settings import (
    Reload,
    WorkerIdentity,
    WorkerOrders,
    WorkerSettings,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stream_executor.http.tally import Tally, Totals

WORKER_COMMAND = (sys.executable, "-m", "stream_executor.services.worker")
# A worker's last commit may have begun just before its drain budget ended.
DRAIN_MARGIN_S = 5.0


class WorkerSlot(SupervisedProcess[WorkerState]):
    """One slot, from ``run`` until it returns.

    Args:
        number: the slot's number, held by ``slots.Slots``.
        instance: the instance id that the slot's number is added to.
        settings: what every worker is told.
        fleet_key: certifies each incarnation's key.
        totals: where reports are added up.
        own: the supervisor's counts.
        command: how to start a worker.
        patience: the waits.
    """

    def __init__(
        self,
        number: int,
        instance: str,
        settings: WorkerSettings,
        fleet_key: Ed25519PrivateKey,
        totals: Totals,
        own: Tally,
        command: Sequence[str],
        patience: Patience,
    ) -> None:
        super().__init__(f"{instance}-{number}", command, WorkerState, totals, patience)
        self.number = number
        self._settings = settings
        self._fleet_key = fleet_key
        self._own = own

    @property
    def status(self) -> WorkerStatus:
        """What is known of this slot now."""
        state = self._state or WorkerState(note=self._last_end)
        return WorkerStatus(
            slot=self.number,
            instance=self.name,
            pid=self.pid,
            reporting=self._state is not None,
            ready=state.ready,
            audit_writable=state.audit_writable,
            note=state.note,
            restarts=self._restarts,
            engine=state.engine,
            audience=state.audience,
            hardening=state.hardening,
            troubles=state.troubles,
            lanes=state.lanes,
        )

    def reload(self, message: Reload) -> None:
        """Have this worker, and those that follow it, take what can be taken now."""
        self._settings = msgspec.structs.replace(
            self._settings, log_level=message.log_level
        )
        super().reload(message)

    def restarted(self) -> None:
        """Count it."""
        self._own.add(metrics.WORKER_RESTARTS)

    def orders(self, report_fd: int) -> WorkerOrders:
        """Make the incarnation's key and certificate, and what it is told."""
        key = Ed25519PrivateKey.generate()
        now_ms = time.time_ns() // 1_000_000
        identity = WorkerIdentity(
            instance=self.name,
            slot=self.number,
            incarnation=secrets.token_bytes(16),
            process_secret_key=key.private_bytes_raw(),
            certificate=certify(public_bytes(key), self._fleet_key, now_ms),
        )
        return WorkerOrders(self._settings, identity, os.getpid(), report_fd)
