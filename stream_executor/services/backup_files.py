"""Files of backups: written whole and durably, copied with mode and owner.

Whoever may write to a folder that root backs up could have put a link there: logs are
opened without following one, and only regular files are read.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import grp
import hashlib
import os
import pwd
import re
import secrets
import shutil
import stat
from typing import TYPE_CHECKING

from stream_executor.model.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_TOKEN_BYTES = 4
# More is no configuration: somebody keeps the file in a folder with other things.
MAX_COPIED_BYTES = 64 * 1024 * 1024
MAX_COPIED_FILES = 1_000
_NO_OTHERS = 0o770
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_LAST_ID = 2**31 - 1
_REMEDIES = {
    errno.ENOSPC: "free space there, or set WASM_EXECUTOR_BACKUP_DIR",
    errno.EDQUOT: "free space there, or set WASM_EXECUTOR_BACKUP_DIR",
    errno.EROFS: "set WASM_EXECUTOR_BACKUP_DIR to a folder that can be written to",
    errno.EACCES: "run it as root, or as the service's user with rights to both",
    errno.EPERM: "run it as root, or as the service's user with rights to both",
}


class BackupError(ConfigError):
    """A backup cannot be made or put back; nothing is half done.

    Attributes:
        remedy: one sentence or command.
    """

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Raise what the operating system refuses as ``BackupError``."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        remedy = _REMEDIES.get(error.errno or 0, "wasm-executor --test-config")
        raise BackupError(f"{error.filename or 'a file'}: {reason}", remedy) from error


def hidden(final: Path) -> Path:
    """Give a name beside the final one that nobody takes for a backup."""
    return final.with_name(f".{final.name}.{secrets.token_hex(_TOKEN_BYTES)}")


def remove_leftovers(folder: Path, name: str) -> None:
    """Remove what runs that were killed left: hidden forms of a name, a pattern."""
    pattern = re.compile(rf"\.{name}\.[0-9a-f]{{{2 * _TOKEN_BYTES}}}")
    for path in folder.iterdir():
        if pattern.fullmatch(path.name):
            if path.is_dir() and not path.is_symlink():
                remove_folder(path)
            else:
                path.unlink()


def remove_folder(folder: Path) -> None:
    """Remove a folder under a hidden name, and all that is in it."""
    if os.geteuid() == 0:
        # Root without CAP_DAC_OVERRIDE may write only to its own.
        for one in (folder, *folder.rglob("*")):
            os.chown(one, 0, -1, follow_symlinks=False)
    shutil.rmtree(folder)


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_regular(name: str, folder: int) -> int:
    """Open a regular file of an opened folder for reading, following no link.

    Raises:
        BackupError: it is something else.
        OSError: it cannot be opened.
    """
    remedy = "remove it, or let it be the file itself"
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise BackupError(f"{name} is a symbolic link", remedy) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BackupError(f"{name} is no regular file", remedy)
    return descriptor


def own(descriptor: int, uid: int, gid: int, mode: int) -> None:
    """Give an opened file its owner, as far as we may, and its mode."""
    if os.geteuid() == 0:
        os.fchown(descriptor, uid, gid)
    os.fchmod(descriptor, mode)


def owner_names(status: os.stat_result) -> tuple[str, str]:
    """Give the names of a file's owner and group; empty for one that has none."""
    try:
        user = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        user = ""
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        group = ""
    return user, group


def owner_ids(user: str, group: str, uid: int, gid: int) -> tuple[int, int]:
    """Give the owner that names mean on this host; the numbers where they mean none."""
    with contextlib.suppress(KeyError):
        uid = pwd.getpwnam(user).pw_uid
    with contextlib.suppress(KeyError):
        gid = grp.getgrnam(group).gr_gid
    # -1 leaves it as it is: a number from a file may be none of a user.
    return tuple(one if 0 <= one <= _LAST_ID else -1 for one in (uid, gid))  # type: ignore[return-value]


def write_whole(final: Path, data: bytes, mode: int) -> None:
    """Write a file durably: the name shows all of it, or what was there before."""
    draft = hidden(final)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(draft, flags, mode), "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(final)
    finally:
        draft.unlink(missing_ok=True)
    fsync_folder(final.parent)


def copy_folder(source: Path, target: Path) -> list[str]:
    """Copy a folder of configuration, durably; give what was left out.

    Files and folders keep owner (as far as we may give it), time and mode, without the
    rights of others: there are secrets in it. Of a link to a file its content is
    copied. Links to folders are left out, and whatever is neither, or forbidden to us:
    what only root may read is not the service's.

    Args:
        source: the folder.
        target: a name that is free.

    Raises:
        BackupError: it is too large for a configuration.
        OSError: something cannot be read or written; a part of it may be there.
    """
    budget = [MAX_COPIED_FILES, MAX_COPIED_BYTES]
    left_out: list[str] = []
    _copy_folder(source, target, left_out, budget)
    fsync_folder(target.parent)
    return left_out


def _copy_folder(
    source: Path, target: Path, left_out: list[str], budget: list[int]
) -> None:
    target.mkdir(mode=0o700)
    for path in sorted(source.iterdir()):
        if not path.name.isprintable() or not os.access(path, os.R_OK):
            left_out.append(str(path))
        elif path.is_file():
            data = path.read_bytes()
            budget[:] = budget[0] - 1, budget[1] - len(data)
            if min(budget) < 0:
                raise BackupError(
                    f"{source} is too large for a configuration: at most "
                    f"{MAX_COPIED_FILES} files of {MAX_COPIED_BYTES} bytes together",
                    "keep the configuration file in a folder of its own",
                )
            _write_copy(target / path.name, data, path.stat())
        elif path.is_dir() and not path.is_symlink():
            _copy_folder(path, target / path.name, left_out, budget)
        else:
            left_out.append(str(path))
    status = source.stat()
    descriptor = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mode = stat.S_IMODE(status.st_mode) & _NO_OTHERS
        own(descriptor, status.st_uid, status.st_gid, mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_copy(target: Path, data: bytes, status: os.stat_result) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(target, flags, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        mode = stat.S_IMODE(status.st_mode) & _NO_OTHERS
        own(file.fileno(), status.st_uid, status.st_gid, mode)
        os.utime(file.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
        os.fsync(file.fileno())


def sums_of(folder: Path, name: str) -> str:
    """Give the lines of `sha256sum` over a folder's files, as if it had that name."""
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  "
        f"{name}/{path.relative_to(folder)}\n"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )


def put_in_place(draft: Path, final: Path) -> None:
    """Give a folder its name, in one step where the file system can.

    If another folder had the name, that one has the draft's now.
    """
    if os.path.lexists(final):
        _exchange(draft, final)
    else:
        draft.rename(final)
    fsync_folder(final.parent)


def _exchange(one: Path, other: Path) -> None:
    """Let two names change places. Source: rename(2), RENAME_EXCHANGE."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    paths = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other))
    if renameat2 is not None and renameat2(*paths, _RENAME_EXCHANGE) == 0:
        return
    number = ctypes.get_errno()
    if renameat2 is not None and number not in {errno.EINVAL, errno.ENOSYS}:
        raise OSError(number, os.strerror(number), str(other))
    between = hidden(other)  # NFS, say: a moment without
    other.rename(between)
    one.rename(other)
    between.rename(one)
