"""The folder and the port that ``dev`` stands on: had before anything is started."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from typing import TYPE_CHECKING

from stream_executor.model.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

_USUAL_PORT = 9090
_LOCK = "lock"
# What a folder has from its first start on.
_OURS = {"kafka", "begun.json"}


class DevStackError(ConfigError):
    """The stack cannot start here; ``remedy`` is what to try."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


def take_folder(folder: Path) -> int:
    """Make a folder if it is missing and lock it; give the lock, to be closed.

    Raises:
        DevStackError: it cannot be had, holds something else, or is in use.
    """
    another = "give another --data DIR: one that is empty, or not there yet"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = {one.name for one in folder.iterdir()}
        if names - {_LOCK} and not names & _OURS:
            raise DevStackError(
                f"{folder} is not empty, and no `wasm-executor dev` began it", another
            )
        lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    except (FileExistsError, NotADirectoryError):
        raise DevStackError(f"{folder} is no folder", another) from None
    except OSError as error:
        why = (error.strerror or "cannot be had").lower()
        raise DevStackError(
            f"the folder {folder} cannot be had: {why}", another
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise DevStackError(
            f"{folder} is in use by another `wasm-executor dev`",
            "stop that one, or give another --data",
        ) from None
    return lock


def need_port(port: int) -> None:
    """See that a port of 127.0.0.1 is free at this moment.

    Raises:
        DevStackError: it is in use, or not for this user.
    """
    try:
        _bind(port)
    except OSError as error:
        in_use = error.errno == errno.EADDRINUSE
        why = "in use" if in_use else f"not to be had: {error.strerror}"
        raise DevStackError(f"port {port} is {why}", "give another --port") from None


def free_port() -> int:
    """Give the usual port if it is free, else any.

    Raises:
        DevStackError: there is none.
    """
    for wanted in (_USUAL_PORT, 0):
        with contextlib.suppress(OSError):
            return _bind(wanted)
    raise DevStackError("no port is free", "give one: --port PORT")


def _bind(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        bound: int = probe.getsockname()[1]
        return bound
