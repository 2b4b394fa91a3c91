"""The checks of ``doctor`` that look at this host: disks, clock, the running service.

Nothing is written. Not here: Kafka, configuration and sandbox (``diagnosis``).
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Any

from stream_executor.model.conditions import REMEDIES, Condition
from stream_executor.services.diagnosis import Check
from stream_executor.services.disks import folders, look

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stream_executor.settings import Settings

_IDS = {
    "WASM_EXECUTOR_STATE_DIR": "disk.state",
    "AUDIT_LOG_PATH": "disk.audit_log",
    "WASM_EXECUTOR_BACKUP_DIR": "disk.backups",
}
# adjtimex(2): the clock is not synchronised. The struct is 208 bytes on 64 bits.
_TIME_ERROR = 5
_TIMEX_BYTES = 256


def disks(settings: Settings) -> list[Check]:
    """Look at the folders that the service writes to, as the user that asks."""
    return [_disk(setting, path) for setting, path in folders(settings).items()]


def _disk(setting: str, path: Path) -> Check:
    wanted = f"{setting}: room, and the right to write"
    name = _IDS[setting]
    try:
        disk = look(setting, path)
        there = path.exists()
    except OSError as error:
        return Check(name, "unknown", f"{path}: {error.strerror}", wanted, _owner(path))
    if disk.condition is not None:
        found = f"{disk.condition}: {path}: {disk.reason}"
        return Check(name, "failed", found, wanted, REMEDIES[disk.condition])
    free = f"{path}: {disk.free_bytes >> 20} MiB free"
    if disk.denied:
        found = f"{free}; user {os.geteuid()} may not write there"
        return Check(name, "warning", found, wanted, _owner(path))
    return Check(name, "ok", free if there else f"{free}, not made yet", wanted, "")


def _owner(path: Path) -> str:
    return f"ask as the service's user; or chown it and chmod u+rwx {path}"


def clock_sync() -> Check:
    """Ask the kernel whether something keeps this host's clock (adjtimex(2))."""
    wanted = "a clock that chrony, ntpd or systemd-timesyncd keeps"
    remedy = REMEDIES[Condition.CLOCK_APART]
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)  # modes = 0: only look
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    except (OSError, AttributeError) as error:
        return Check("clock.sync", "unknown", str(error), wanted, remedy)
    if state < 0:
        found = f"the kernel does not say: {os.strerror(ctypes.get_errno())}"
        return Check("clock.sync", "warning", found, wanted, remedy)
    if state == _TIME_ERROR:
        found = "the kernel says that nothing keeps this clock"
        return Check("clock.sync", "warning", found, wanted, remedy)
    return Check("clock.sync", "ok", "kept", wanted, remedy)


def service(instance: str, ask: Callable[[], dict[str, Any]]) -> Check:
    """Ask the instance that runs here what it finds.

    Args:
        instance: as the configuration names it.
        ask: gets its ``/status``; raises anything if nobody answers.
    """
    wanted = "an instance without trouble"
    try:
        document = ask()
        running = document["service"]["instance"]
        reasons = [*document["health"]["reasons"], *document["readiness"]["reasons"]]
    except Exception as error:  # noqa: BLE001 - not running is nothing wrong
        said = str(error).partition("\n")[0][:200] or type(error).__name__
        found = f"none answers: {said}"
        return Check("service", "ok", found, wanted, "systemctl status wasm-executor")
    if running != instance:
        found = f"another one, {running}, answers"
        return Check("service", "ok", found, wanted, "")
    if reasons:
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        remedy = "wasm-executor status; docs/recovery.md"
        return Check("service", "failed", f"{reasons[0]}{more}", wanted, remedy)
    return Check("service", "ok", f"{running} runs", wanted, "")
