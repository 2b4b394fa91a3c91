"""Numbers and interfaces of WASI preview 1 that the guest and we agree on.

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
