from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from stream_executor.services.notify import Notifier

if TYPE_CHECKING:
    from pathlib import Path


def test_messages_go_to_the_address_one_datagram_each(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        notifier = Notifier.from_environment({"NOTIFY_SOCKET": address})
        notifier.ready()
        notifier.status("3 of 4 lanes\nREADY=1")
        notifier.stopping(30)
        heard = [manager.recv(4096).decode() for _ in range(3)]
    assert heard == [
        "READY=1",
        "STATUS=3 of 4 lanes READY=1",
        "STOPPING=1\nEXTEND_TIMEOUT_USEC=30000000",
    ]


def test_an_abstract_address_is_understood() -> None:
    name = f"wasm-executor-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name)
        Notifier(f"@{name}").alive()
        assert manager.recv(4096) == b"WATCHDOG=1"


def test_without_a_manager_nothing_happens(tmp_path: Path) -> None:
    Notifier.from_environment({}).ready()
    Notifier(str(tmp_path / "nobody")).ready()


@pytest.mark.parametrize(
    ("environment", "watchdog_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_ours_only_if_it_names_us(
    environment: dict[str, str], watchdog_s: float | None
) -> None:
    assert Notifier.from_environment(environment).watchdog_s == watchdog_s
