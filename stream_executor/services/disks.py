"""The file systems that the service writes to: how much is free, and whether it may.

Nothing is written to find out. Not here: who writes (compile cache, ``audit.log``,
backups), each of which goes on without, or waits.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from stream_executor.model.conditions import Condition

if TYPE_CHECKING:
    from stream_executor.settings import Settings

# Less is "full": a backup, a day of audit.log and a compiled module need room. Of a
# small file system it is the twentieth part.
_LEAST_FREE_BYTES = 64 << 20
_LEAST_FREE_SHARE = 20
_BACKUPS = "WASM_EXECUTOR_BACKUP_DIR"


class Disk(msgspec.Struct, frozen=True):
    """The file system under one folder.

    Attributes:
        setting: which setting names the folder.
        free_bytes: for us, that is without what is root's.
        condition: None if it can be written; ``reason`` says what is wrong.
        denied: it could be written, but not by this user.
    """

    setting: str
    path: Path
    free_bytes: int
    condition: Condition | None
    reason: str
    denied: bool = False


def folders(settings: Settings) -> dict[str, Path]:
    """Give the folders that the service writes to, by setting."""
    found = {"WASM_EXECUTOR_STATE_DIR": settings.state_dir}
    if settings.enable_audit_logging:
        found["AUDIT_LOG_PATH"] = settings.audit_log_path.parent
    found[_BACKUPS] = settings.backup_dir
    return found


def look(setting: str, path: Path) -> Disk:
    """Look at a folder, or at the nearest above it if it is not there yet.

    Raises:
        OSError: nothing can be told.
    """
    there = next(one for one in (path, *path.parents) if one.exists())
    facts = os.statvfs(there)
    free_bytes = facts.f_bavail * facts.f_frsize
    condition, reason = None, ""
    least = min(_LEAST_FREE_BYTES, facts.f_blocks * facts.f_frsize // _LEAST_FREE_SHARE)
    if facts.f_flag & os.ST_RDONLY:
        condition, reason = Condition.DISK_READ_ONLY, os.strerror(errno.EROFS)
    elif free_bytes < least:
        condition, reason = Condition.DISK_FULL, f"{free_bytes} bytes are free"
    elif not facts.f_favail and facts.f_files:
        condition, reason = Condition.DISK_FULL, "no inode is free"
    denied = not os.access(there, os.W_OK | os.X_OK)
    return Disk(setting, path, free_bytes, condition, reason, denied)


def survey(settings: Settings) -> tuple[dict[Condition, str], int]:
    """Give the conditions of all folders, and the least free bytes of any of them.

    Folders that are not there yet are left out. That backups cannot be written from
    here says nothing: another process writes them, and the unit keeps us from it.
    """
    found: dict[Condition, str] = {}
    free: list[int] = []
    for setting, path in folders(settings).items():
        try:
            if not path.exists():
                continue
            disk = look(setting, path)
        except OSError:
            continue  # the writer says it
        free.append(disk.free_bytes)
        ours = setting != _BACKUPS or disk.condition is not Condition.DISK_READ_ONLY
        if disk.condition is not None and ours:
            found.setdefault(disk.condition, f"{setting}={path}: {disk.reason}")
    return found, min(free, default=0)
