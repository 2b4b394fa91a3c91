"""Names, numbers and interfaces of WASI preview 1 that the guest and we agree on.

Source: the preview 1 witx (``wasi_snapshot_preview1.witx``), numbers as there.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Protocol


class Errno(IntEnum):
    """The error numbers that we give."""

    SUCCESS = 0
    BADF = 8
    FAULT = 21
    ILSEQ = 25
    INVAL = 28
    ISDIR = 31
    MFILE = 33
    NAMETOOLONG = 37
    NOENT = 44
    NOTDIR = 54
    NOTSUP = 58
    PERM = 63
    ROFS = 69
    SPIPE = 70


class FileType(IntEnum):
    """File types; streams are UNKNOWN, as pipes are in native hosts."""

    UNKNOWN = 0
    DIRECTORY = 3
    REGULAR = 4


CALLS: dict[str, str] = {
    # Parameters: i is i32, I is i64. All but proc_exit give an errno.
    "args_get": "ii",
    "args_sizes_get": "ii",
    "environ_get": "ii",
    "environ_sizes_get": "ii",
    "clock_res_get": "ii",
    "clock_time_get": "iIi",
    "fd_advise": "iIIi",
    "fd_allocate": "iII",
    "fd_close": "i",
    "fd_datasync": "i",
    "fd_fdstat_get": "ii",
    "fd_fdstat_set_flags": "ii",
    "fd_fdstat_set_rights": "iII",
    "fd_filestat_get": "ii",
    "fd_filestat_set_size": "iI",
    "fd_filestat_set_times": "iIIi",
    "fd_pread": "iiiIi",
    "fd_prestat_get": "ii",
    "fd_prestat_dir_name": "iii",
    "fd_pwrite": "iiiIi",
    "fd_read": "iiii",
    "fd_readdir": "iiiIi",
    "fd_renumber": "ii",
    "fd_seek": "iIii",
    "fd_sync": "i",
    "fd_tell": "ii",
    "fd_write": "iiii",
    "path_create_directory": "iii",
    "path_filestat_get": "iiiii",
    "path_filestat_set_times": "iiiiIIi",
    "path_link": "iiiiiii",
    "path_open": "iiiiiIIii",
    "path_readlink": "iiiiii",
    "path_remove_directory": "iii",
    "path_rename": "iiiiii",
    "path_symlink": "iiiii",
    "path_unlink_file": "iii",
    "poll_oneoff": "iiii",
    "proc_exit": "i",
    "proc_raise": "i",
    "random_get": "ii",
    "sched_yield": "",
    "sock_accept": "iii",
    "sock_recv": "iiiiii",
    "sock_send": "iiiii",
    "sock_shutdown": "ii",
}
"""Every function of preview 1, in the order of its witx."""

_READ_ONLY = frozenset(
    {
        "fd_allocate",
        "fd_filestat_set_size",
        "fd_filestat_set_times",
        "fd_pwrite",
        "path_create_directory",
        "path_filestat_set_times",
        "path_link",
        "path_remove_directory",
        "path_rename",
        "path_symlink",
        "path_unlink_file",
    }
)
CONSTANT: dict[str, Errno] = {
    **dict.fromkeys(_READ_ONLY, Errno.ROFS),
    "path_readlink": Errno.INVAL,  # there are no links
    "proc_raise": Errno.NOTSUP,
    "sched_yield": Errno.SUCCESS,
    "sock_accept": Errno.NOTSUP,
    "sock_recv": Errno.NOTSUP,
    "sock_send": Errno.NOTSUP,
    "sock_shutdown": Errno.NOTSUP,
}
"""Calls whose answer depends on nothing."""


class WasiError(Exception):
    """A host call gives an error number; carries nothing else."""

    def __init__(self, errno: Errno) -> None:
        super().__init__()
        self.errno = errno


class GuestExit(Exception):  # noqa: N818 - an end, not an error
    """The guest called ``proc_exit``; carries nothing: the code is on the process."""


class OutOfFuel(Exception):  # noqa: N818 - an end, not an error
    """A host call costs more fuel than there is."""


class GuestMemory(Protocol):
    """The guest's linear memory; every range is checked, ``WasiError(FAULT)`` else."""

    def read(self, at: int, length: int) -> bytes:
        """Copy bytes out."""

    def write(self, at: int, data: bytes) -> None:
        """Copy bytes in."""

    def charge(self, units: int) -> None:
        """Take fuel; raises ``OutOfFuel``."""
