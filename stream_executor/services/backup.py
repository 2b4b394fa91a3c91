"""Make a backup: ``audit.log`` with all that belongs to it, and the configuration.

    1. alone in the backup folder; what a killed run left there is removed
    2. the configuration's folder is copied under a hidden name, then gets its own
    3. the position is read, then the log's files are opened (``backup_log``)
    4. the archive is written and fsynced under a hidden name
    5. the old checksum goes, the archive gets its name, then its checksum is written
    6. what is older than it must be kept goes, but never the newest

Whatever dies in between, a name shows a whole archive or none; one without its
checksum still has those of the manifest within. A second run on one day replaces the
day's archive. Source: ADR 0027.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import os
import stat
import tarfile
import time
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

from stream_executor import __version__
from stream_executor.audit.project import utc
from stream_executor.model.errors import UnavailableError
from stream_executor.services.backup_archive import (
    FORMAT,
    MANIFEST,
    Manifest,
    Member,
    archive_name,
    archives,
    configuration_name,
    configurations,
    member_folder,
    sum_file,
)
from stream_executor.services.backup_files import (
    BackupError,
    copy_folder,
    explained,
    hidden,
    owner_names,
    put_in_place,
    remove_folder,
    remove_leftovers,
    sums_of,
    write_whole,
)
from stream_executor.services.backup_log import (
    LogChangedError,
    OpenedLog,
    Source,
    open_log,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date

KEEP_DAYS = 2_555  # seven years: the operations manual, "HIPAA Audit Log Retention"
_ARCHIVE_MODE = 0o640
_SECRET_MODE = 0o600
_OURS = r"wasm-(audit|executor-config)-\d{8}.*"
_LOCK = ".wasm-executor-backup.lock"
_LEVEL = 6
_ATTEMPTS = 5
_PAUSE_S = 0.2


class Plan(msgspec.Struct, frozen=True):
    """What to back up, and where to.

    Attributes:
        audit_log: ``AUDIT_LOG_PATH``.
        folder: ``WASM_EXECUTOR_BACKUP_DIR``; made if it is missing.
        configuration: the configuration file, whose folder is copied; None if there
            is none.
        log_expected: refuse to make an archive without an audit.log.
        keep_days: how long archives are kept.
    """

    audit_log: Path
    folder: Path
    configuration: Path | None = None
    log_expected: bool = True
    keep_days: int = KEEP_DAYS

    @property
    def configuration_file_name(self) -> str | None:
        """The configuration file's name within its folder."""
        return None if self.configuration is None else self.configuration.name


class Made(msgspec.Struct, frozen=True):
    """What a backup consists of.

    Attributes:
        archive: the archive.
        sha256: its digest, lower hex.
        size_bytes: its size.
        files: names of the log's files in it.
        configuration: the copy of the configuration; None without one.
        left_out: what of the configuration was not copied.
        pruned: names of what was too old.
    """

    archive: Path
    sha256: str
    size_bytes: int
    files: list[str]
    configuration: Path | None
    left_out: list[str]
    pruned: list[str]


def back_up(plan: Plan, now: datetime) -> Made:
    """Make the backup of a day.

    Args:
        plan: what and where.
        now: local time; its day is in the names.

    Raises:
        BackupError: something is missing, or the system refuses something.
        UnavailableError: another run is at it, or files kept changing.
    """
    with explained():
        plan.folder.mkdir(parents=True, exist_ok=True)
        with _alone(plan.folder):  # 1
            remove_leftovers(plan.folder, _OURS)
            left_out: list[str] = []
            copy = None
            if plan.configuration is not None:
                copy = plan.folder / configuration_name(now)
                left_out = _copy_configuration(plan.configuration.parent, copy)  # 2
            final = plan.folder / archive_name(now)
            draft = hidden(final)
            try:
                files = _write_archive(plan, draft, copy, now)  # 3, 4
                digest, size = _digest(draft), draft.stat().st_size
                sum_file(final).unlink(missing_ok=True)  # 5
                draft.replace(final)
            finally:
                draft.unlink(missing_ok=True)
            text = f"{digest}  {final.name}\n"
            write_whole(sum_file(final), text.encode(), _ARCHIVE_MODE)
            pruned = _prune(plan.folder, now.date(), plan.keep_days)  # 6
    return Made(final, digest, size, files, copy, left_out, pruned)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / _LOCK).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"another backup into {folder} is running"
            raise UnavailableError(message) from None
        yield


def _copy_configuration(source: Path, copy: Path) -> list[str]:
    if copy.parent.resolve().is_relative_to(source.resolve()):
        raise BackupError(
            f"{copy.parent} lies in {source}, which is to be copied there",
            "set WASM_EXECUTOR_BACKUP_DIR to a folder elsewhere",
        )
    draft = hidden(copy)
    try:
        left_out = copy_folder(source, draft)
        sum_file(copy).unlink(missing_ok=True)
        put_in_place(draft, copy)
    finally:
        if draft.exists():  # a part of it, or what had the name before
            remove_folder(draft)
    write_whole(sum_file(copy), sums_of(copy, copy.name).encode(), _SECRET_MODE)
    return left_out


def _write_archive(
    plan: Plan, draft: Path, copy: Path | None, now: datetime
) -> list[str]:
    """Write the archive under its hidden name; give the names of the log's files."""
    for _ in range(_ATTEMPTS):
        try:
            with ExitStack() as stack:
                log = _open(plan, stack)
                file = stack.enter_context(draft.open("xb"))
                os.fchmod(file.fileno(), _ARCHIVE_MODE)
                if os.geteuid() == 0:  # whoever may read the log may read this
                    os.fchown(file.fileno(), -1, log.folder.st_gid)
                _write_tar(file, plan, log, copy, now)
                file.flush()
                os.fsync(file.fileno())
                return [one.name for one in log.sources]
        except LogChangedError:
            draft.unlink(missing_ok=True)
            time.sleep(_PAUSE_S)
    message = f"the files of {plan.audit_log} changed while they were copied"
    raise UnavailableError(message)


def _open(plan: Plan, stack: ExitStack) -> OpenedLog:
    path = plan.audit_log
    if not plan.log_expected and not path.parent.is_dir():
        return OpenedLog(plan.folder.stat(), {}, [])
    log = open_log(path, stack)
    if plan.log_expected and path.name not in {one.name for one in log.sources}:
        raise BackupError(
            f"{path}: no such file",
            "start the service, which writes it; or ENABLE_AUDIT_LOGGING=false",
        )
    return log


def _write_tar(
    file: IO[bytes], plan: Plan, log: OpenedLog, copy: Path | None, now: datetime
) -> None:
    """Write the archive's bytes: the same ones for the same files at the same time."""
    path = plan.audit_log
    folder = member_folder(path)
    written: list[Member] = []
    with (
        gzip.GzipFile("", "wb", _LEVEL, file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):

        def add(member: Source) -> None:
            header = _header(f"{folder}/{member.name}", member.status, member.size)
            reader = _Hashing(member.file)
            tar.addfile(header, reader)
            digest = reader.hash.hexdigest()
            written.append(Member(member.name, member.size, digest))

        if log.sources and not path.parent.is_symlink():
            # For one that is missing. Of a link tar would make a folder.
            tar.addfile(_header(folder, log.folder))
        for one in log.sources:
            add(one)
        manifest = Manifest(
            format=FORMAT,
            release=__version__,
            made=utc(int(now.timestamp() * 1000)),
            audit_log=str(path),
            configuration=None if copy is None else copy.name,
            configuration_file=plan.configuration_file_name,
            log_ids=log.log_ids,
            files=written.copy(),
        )
        text = msgspec.json.format(msgspec.json.encode(manifest))
        add(Source(MANIFEST, BytesIO(text + b"\n"), len(text) + 1, log.folder))


class _Hashing:
    """Reads a file of known size and hashes it on the way.

    Raises:
        LogChangedError: it is shorter by now.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.hash = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        """Give exactly so many bytes."""
        data = self._file.read(size)
        if len(data) < size:
            raise LogChangedError
        self.hash.update(data)
        return data


def _header(
    name: str, status: os.stat_result, size: int | None = None
) -> tarfile.TarInfo:
    """Give the header of a file of that size, or of a folder."""
    header = tarfile.TarInfo(name)
    header.mode = stat.S_IMODE(status.st_mode)
    if size is None:
        header.type = tarfile.DIRTYPE
    else:
        header.size = size
        header.mode &= 0o666  # `status` may be that of the folder
    header.uid, header.gid = status.st_uid, status.st_gid
    header.uname, header.gname = owner_names(status)
    header.mtime = int(status.st_mtime)
    return header


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _prune(folder: Path, today: date, keep_days: int) -> list[str]:
    """Remove what is older than it must be kept; the newest of a kind stays."""
    pruned = []
    for kind in (archives(folder), configurations(folder)):
        for day in list(kind)[:-1]:
            if day >= today - timedelta(days=keep_days):
                continue
            path = kind[day]
            sum_file(path).unlink(missing_ok=True)
            if path.is_dir():
                going = hidden(path)  # its name never shows a part of it
                path.rename(going)
                remove_folder(going)
            else:
                path.unlink()
            pruned.append(path.name)
    return pruned
