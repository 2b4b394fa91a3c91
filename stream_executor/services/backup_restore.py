"""Put a backup back: what was there is kept aside, and the service goes on from there.

    1. the log's lock: no restore beside a running service
    2. the backup is verified; damage, or faults that nobody accepted, end it here
    3. members are written into a hidden folder beside the log, and fsynced
    4. what is there moves aside, the position first
    5. the restored files get their names, the position last
    6. the configuration, if asked for, in the same way

Killed in between, the same command brings it to its end; nothing is deleted. When the
service starts, it sees that the position is an old one, writes that into the log and
takes later events from the audit topic (``audit.log_file``). Source: ADR 0027.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

import msgspec

from stream_executor.audit.log_lines import LOCK_SUFFIX, POSITION_SUFFIX, is_log_name
from stream_executor.model.errors import MalformedError, UnavailableError
from stream_executor.services.backup_archive import (
    MANIFEST,
    Manifest,
    members,
)
from stream_executor.services.backup_files import (
    BackupError,
    copy_folder,
    explained,
    hidden,
    own,
    owner_ids,
    put_in_place,
    remove_leftovers,
)
from stream_executor.services.backup_verification import (
    LOG,
    BackupReport,
    verify_backup,
)

if TYPE_CHECKING:
    import tarfile
    from collections.abc import Iterator
    from datetime import datetime

_STAGE = "restore"
_LOCK_MODE = 0o640
_CHANGED = "the archive changed after it was verified"
_CHUNK_BYTES = 1024 * 1024


class LogInUseError(UnavailableError):
    """The service runs and writes the log."""

    remedy = "sudo systemctl stop wasm-executor"


class Target(msgspec.Struct, frozen=True):
    """Where to put it.

    Attributes:
        audit_log: the service's ``AUDIT_LOG_PATH``.
        configuration: the folder of its configuration; None leaves it alone.
        root: what both are under.
        accept_faults: go on although the log's lines have faults; never although the
            archive or the configuration is not what was written.
    """

    audit_log: Path
    configuration: Path | None = None
    root: Path = Path("/")
    accept_faults: bool = False


class Restored(msgspec.Struct, frozen=True):
    """What came of it.

    Attributes:
        report: what verification saw.
        files: what was put beside the log; empty if nothing was done.
        aside: folders that hold what was there before.
    """

    report: BackupReport
    files: list[str]
    aside: list[Path]


def restore(path: Path, target: Target, now: datetime) -> Restored:
    """Restore an archive.

    Args:
        path: the archive.
        target: where to.
        now: local time, for the names of what is kept aside.

    Raises:
        BackupError: it is another log's, or the system refuses something.
        LogInUseError: a process writes the log.
    """
    stamp = f"before-restore-{now:%Y%m%dT%H%M%S}"
    configured = target.configuration is not None
    with explained(), path.open("rb") as file:
        folder = _under(target.root, target.audit_log.parent)
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder, target.audit_log.name):  # 1
            report = verify_backup(path, file, configuration=configured)  # 2
            manifest = report.manifest
            fatal = [
                one
                for one in report.findings
                if one.part != LOG or not target.accept_faults
            ]
            if manifest is None or fatal:
                return Restored(report, [], [])
            _require_fit(manifest, target)
            file.seek(0)
            aside = [folder / stamp]
            files = _restore_log(file, manifest, folder, stamp, is_new=is_new)
            if target.configuration is not None and manifest.configuration is not None:
                final = _under(target.root, target.configuration)
                aside.append(final.with_name(f"{final.name}.{stamp}"))
                final.parent.mkdir(parents=True, exist_ok=True)
                remove_leftovers(final.parent, re.escape(final.name))
                draft = hidden(final)
                copy_folder(path.with_name(manifest.configuration), draft)
                draft.rename(aside[-1])
                put_in_place(aside[-1], final)  # 6
    return Restored(report, files, [one for one in aside if one.exists()])


def _under(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def _require_fit(manifest: Manifest, target: Target) -> None:
    if Path(manifest.audit_log) != target.audit_log:
        raise BackupError(
            f"the archive is of {manifest.audit_log}, not of {target.audit_log}",
            f"put AUDIT_LOG_PATH={manifest.audit_log} before the command, if meant",
        )
    if target.configuration is not None and manifest.configuration is None:
        raise BackupError(
            "the archive names no copy of the configuration", "leave out --config"
        )


@contextmanager
def _alone(folder: Path, log: str) -> Iterator[None]:
    """Hold the lock of the log's writer (``audit.log_file``)."""
    path = folder / f"{log}{LOCK_SUFFIX}"
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        lock = os.open(path, flags | os.O_CREAT | os.O_EXCL, _LOCK_MODE)
    except FileExistsError:
        lock = os.open(path, flags)
    else:  # the service opens it, too, and the folder is the service's
        status = folder.stat()
        own(lock, status.st_uid, status.st_gid, _LOCK_MODE)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LogInUseError(f"a process writes {folder / log}") from None
        yield
    finally:
        os.close(lock)


def _restore_log(
    file: IO[bytes], manifest: Manifest, folder: Path, aside: str, *, is_new: bool
) -> list[str]:
    """Bring the files into the log's folder; give their names, in that order.

    All by descriptors of folders: a process of the service's user cannot lead root
    elsewhere by a link.
    """
    log = Path(manifest.audit_log).name
    position = log + POSITION_SUFFIX
    remove_leftovers(folder, _STAGE)
    with _opened(folder) as home, _staging(folder, home) as staged:
        owner = _stage(file, manifest, staged)  # 3
        if is_new and owner is not None:
            own(home, *_owner(owner), owner.mode & 0o777)
            if os.geteuid() == 0:
                os.chown(f"{log}{LOCK_SUFFIX}", *_owner(owner), dir_fd=home)
        with os.scandir(home) as entries:
            present = [
                entry.name
                for entry in entries
                if entry.name in {position, MANIFEST} or is_log_name(entry.name, log)
            ]
        present.sort(key=lambda name: name != position)
        if present:  # 4
            os.mkdir(aside, 0o700, dir_fd=home)
            with _opened(aside, home) as kept:
                _move(present, home, kept)
        names = [one.name for one in manifest.files] + [MANIFEST]
        names.sort(key=lambda name: name == position)
        _move(names, staged, home)  # 5
    return names


@contextmanager
def _staging(folder: Path, home: int) -> Iterator[int]:
    """Give a hidden folder within the log's, for as long as it is needed."""
    name = hidden(folder / _STAGE).name
    os.mkdir(name, 0o700, dir_fd=home)
    try:
        with _opened(name, home) as staged:
            yield staged
    finally:
        shutil.rmtree(name, dir_fd=home)


def _stage(file: IO[bytes], manifest: Manifest, staged: int) -> tarfile.TarInfo | None:
    """Write the members into a folder; give the header of the log's folder."""
    digests: dict[str, str] = {}
    owner = None
    try:
        for info, content in members(file):
            if content is None:
                owner = info
            else:
                name = PurePosixPath(info.name).name
                digests[name] = _write(content, info, name, staged)
        del digests[MANIFEST]
    except (MalformedError, KeyError) as error:
        raise BackupError(_CHANGED, "wasm-executor backup verify") from error
    if digests != {one.name: one.sha256 for one in manifest.files}:
        raise BackupError(_CHANGED, "wasm-executor backup verify")
    return owner


def _write(content: IO[bytes], info: tarfile.TarInfo, name: str, staged: int) -> str:
    """Write one file durably, with mode and owner; give its digest."""
    digest = hashlib.sha256()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, 0o600, dir_fd=staged), "wb") as file:
        while data := content.read(_CHUNK_BYTES):
            digest.update(data)
            file.write(data)
        file.flush()
        own(file.fileno(), *_owner(info), info.mode & 0o666)
        os.utime(file.fileno(), (info.mtime, info.mtime))
        os.fsync(file.fileno())
    return digest.hexdigest()


def _owner(info: tarfile.TarInfo) -> tuple[int, int]:
    return owner_ids(info.uname, info.gname, info.uid, info.gid)


def _move(names: list[str], source: int, target: int) -> None:
    """Move files from folder to folder, in this order, durably."""
    for name in names:
        os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
    os.fsync(target)
    os.fsync(source)


@contextmanager
def _opened(folder: Path | str, within: int | None = None) -> Iterator[int]:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    if within is not None:
        flags |= os.O_NOFOLLOW
    descriptor = os.open(folder, flags, dir_fd=within)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
