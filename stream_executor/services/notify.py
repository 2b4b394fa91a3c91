"""Tell systemd how the service is: sd_notify(3), one datagram a message.

The protocol is made to be re-implemented. Without ``NOTIFY_SOCKET`` every call does
nothing, and a message that cannot be sent is dropped: the service does not depend on
who watches it. These variables are systemd's, not settings.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_STATUS_CHARACTERS = 200


class Notifier:
    """Sends messages to the service manager, if there is one.

    Args:
        address: ``NOTIFY_SOCKET``; empty sends nothing.
        watchdog_s: seconds within which the manager wants a sign of life, or None.
    """

    def __init__(self, address: str = "", watchdog_s: float | None = None) -> None:
        # An abstract address is written with a leading @ (systemd's convention).
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = watchdog_s

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Notifier:
        """Read what systemd set for this process."""
        watchdog_us = environment.get("WATCHDOG_USEC", "")
        ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watchdog_s = int(watchdog_us) / 1e6 if watchdog_us.isdigit() and ours else None
        return cls(environment.get("NOTIFY_SOCKET", ""), watchdog_s or None)

    def ready(self) -> None:
        """Started, or done with a reload."""
        self._send("READY=1")

    def reloading(self) -> None:
        """A reload begins; ``ready`` ends it."""
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now_us}")

    def stopping(self, within_s: float) -> None:
        """A drain begins; it must not be cut short before so many seconds."""
        self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={round(within_s * 1e6)}")

    def alive(self) -> None:
        """A sign of life, wanted every ``watchdog_s`` seconds."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self._send("STATUS=" + text.replace("\n", " ")[:_MAX_STATUS_CHARACTERS])

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
        ):
            sender.setblocking(False)  # a manager that hangs must not hang us
            sender.sendto(message.encode(), self._address)
