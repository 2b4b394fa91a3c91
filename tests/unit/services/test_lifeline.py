from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from stream_executor.model.audit import Certificate
from stream_executor.model.errors import ConfigError
from stream_executor.services import lifeline
from stream_executor.services.lifeline import follow_supervisor, receive_orders
from stream_executor.services.resident import usage
from stream_executor.services.worker_settings import (
    Reload,
    WorkerIdentity,
    WorkerOrders,
    WorkerSettings,
    decode_line,
    encode_line,
)
from stream_executor.settings import load

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = bytes(range(200, 232)).hex()
SECRET = "vG7b/Qx2+nT9mJp4LzR8wYc1KdHs6FeA0uViXoNq"


def worker_settings() -> WorkerSettings:
    return load(
        environment={
            "WASM_EXECUTOR_ENV_FILE": "/dev/null",
            "JWT_SECRET": SECRET,
            "WASM_EXECUTOR_OPERATOR_PUBLIC_KEY": KEY,
            "WASM_EXECUTOR_FLEET_KEY": KEY,
            "WASM_EXECUTOR_DEPLOYMENT_SECRET": KEY,
        }
    ).worker_values()


def orders(supervisor_pid: int) -> WorkerOrders:
    certificate = Certificate(bytes(32), bytes(32), 1, bytes(64))
    identity = WorkerIdentity("host-0", 0, bytes(16), bytes(range(32)), certificate)
    return WorkerOrders(worker_settings(), identity, supervisor_pid, 7)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for fd in (reading, writing):
        try:
            os.close(fd)
        except OSError:
            continue  # the test closed it


@pytest.fixture
def ties(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Whose death would be ours; the test process itself is not tied to anybody."""
    tied: list[int] = []
    monkeypatch.setattr(lifeline, "die_with", tied.append)
    return tied


def test_orders_are_read_and_tie_the_worker_to_its_supervisor(
    pipe: tuple[int, int], ties: list[int]
) -> None:
    given = orders(4711)
    os.write(pipe[1], encode_line(given))
    assert receive_orders(WorkerOrders, pipe[0]) == given
    assert ties == [4711]


def test_orders_show_no_secret_when_they_are_printed() -> None:
    shown = repr(orders(1))
    assert SECRET not in shown
    assert repr(bytes(range(32)))[2:20] not in shown


def test_a_reload_that_follows_at_once_is_not_swallowed(
    pipe: tuple[int, int], ties: list[int]
) -> None:
    heard: list[Reload] = []
    os.write(pipe[1], encode_line(orders(1)) + encode_line(Reload("debug")))
    receive_orders(WorkerOrders, pipe[0])
    assert ties
    os.close(pipe[1])
    asyncio.run(follow_supervisor(heard.append, os.dup(pipe[0])))
    assert heard == [Reload("debug")]


async def test_the_end_of_standard_input_is_the_supervisors_end(
    pipe: tuple[int, int],
) -> None:
    following = asyncio.create_task(follow_supervisor(lambda _: None, os.dup(pipe[0])))
    await asyncio.sleep(0)
    assert not following.done()
    os.close(pipe[1])
    await asyncio.wait_for(following, 5)


@pytest.mark.parametrize(
    "line", [b"", b"\n", b"{}\n", encode_line(Reload("info"))], ids=repr
)
def test_a_worker_without_orders_says_how_it_is_meant_to_be_started(
    pipe: tuple[int, int], line: bytes, ties: list[int]
) -> None:
    os.write(pipe[1], line)
    os.close(pipe[1])
    with pytest.raises(ConfigError):
        receive_orders(WorkerOrders, pipe[0])
    assert ties == []


def test_messages_are_one_line_each() -> None:
    for message in (orders(1), Reload("info")):
        line = encode_line(message)
        assert line.count(b"\n") == 1
        assert decode_line(line) == message


def test_resident_memory_counts_this_process() -> None:
    assert usage().resident_bytes > 10_000_000
