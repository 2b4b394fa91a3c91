"""What ties a worker to its supervisor: orders on standard input, and a shared end.

A worker must not outlive its supervisor: nobody would count, restart or drain it. On
Linux the kernel kills it (PR_SET_PDEATHSIG); everywhere the end of standard input says
the same a moment later.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from typing import TYPE_CHECKING, TypeVar

import msgspec

from stream_executor.model.errors import ConfigError
from stream_executor.services.worker_settings import (
    AuditLogOrders,
    Reload,
    WorkerOrders,
    decode_line,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
OrdersT = TypeVar("OrdersT", WorkerOrders, AuditLogOrders)


def receive_orders(kind: type[OrdersT], fd: int = 0) -> OrdersT:
    """Read the first line of standard input and tie this process to its supervisor.

    Blocks until the line is there. Call it before any thread is started and before
    the loop runs, from the main thread. Reads not one byte beyond the line.

    Raises:
        ConfigError: no orders: the process was not started by a supervisor.
    """
    line = bytearray()
    while not line.endswith(b"\n"):
        # Large reads would swallow a reload that follows at once: `peek` is not
        # there for pipes, and a few kilobytes once in a life may cost a few ms.
        byte = os.read(fd, 1)
        if not byte:
            raise ConfigError("this is started by `wasm-executor`, not by hand")
        line += byte
    try:
        orders = decode_line(bytes(line))
    except msgspec.DecodeError as error:
        raise ConfigError(f"orders that are none: {error}") from error
    if not isinstance(orders, kind):
        raise ConfigError("the first line of standard input must be orders")
    die_with(orders.supervisor_pid)
    return orders


def die_with(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent dies; exit if it is dead.

    The signal comes when the *thread* that started us ends, which is the supervisor's
    main thread (prctl(2), PR_SET_PDEATHSIG). Elsewhere than on Linux only the check.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # it died before the call
        os._exit(1)


async def follow_supervisor(on_reload: Callable[[Reload], None], fd: int = 0) -> None:
    """Hand on each reload; return when the supervisor is gone.

    Whoever awaits this ends the process then, at once and without a drain: the
    supervisor was killed, and the next one starts workers with the same identity. (A
    callback on a task of this must look at ``cancelled()``: the end of the loop
    cancels it, and the process then has an exit code of its own.)
    """
    loop = asyncio.get_running_loop()
    stream = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(fd, "rb", buffering=0)
    )
    try:
        while line := await stream.readline():
            message = decode_line(line)
            if isinstance(message, Reload):
                on_reload(message)
    finally:
        transport.close()
