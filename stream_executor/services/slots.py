"""Slots: which static member ids of this host are ours, held by file locks.

Worker ``<instance>-<slot>`` must exist once: a second member with its id would throw
it out of the group. Two supervisors on one host therefore take different slots, and a
restarted one gets the lowest free ones back, so that a worker keeps its id. The lock
goes with the process that holds it, however it ends. The files mean nothing and stay.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import TYPE_CHECKING

from stream_executor.model.conditions import REMEDIES, Condition
from stream_executor.model.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

MAX_SLOTS = 1024
_CONDITIONS = {
    errno.ENOSPC: Condition.DISK_FULL,
    errno.EROFS: Condition.DISK_READ_ONLY,
}


class Slots:
    """The slots that this process holds, lowest first.

    Args:
        state_dir: the folder that all supervisors of this host share.
        count: how many to take.

    Raises:
        ConfigError: the folder cannot be used, or no slot is free.
    """

    def __init__(self, state_dir: Path, count: int) -> None:
        self.numbers: list[int] = []
        self._descriptors: list[int] = []
        folder = state_dir / "slots"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for number in range(MAX_SLOTS):
                if len(self.numbers) == count:
                    return
                self._try(folder, number)
        except OSError as error:
            self.release()
            remedy = "the service's user must be able to write there"
            if error.errno in _CONDITIONS:
                remedy = REMEDIES[_CONDITIONS[error.errno]]
            raise ConfigError(
                f"WASM_EXECUTOR_STATE_DIR={state_dir}: {error.strerror}; {remedy}"
            ) from error
        self.release()
        raise ConfigError(f"{folder}: all {MAX_SLOTS} slots are taken")

    def _try(self, folder: Path, number: int) -> None:
        """Take one slot unless another process holds it."""
        # Not inherited by workers (PEP 446): the lock ends with this process.
        descriptor = os.open(folder / f"{number}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
        else:
            self._descriptors.append(descriptor)
            self.numbers.append(number)

    def release(self) -> None:
        """Let all slots go."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []
        self.numbers = []
