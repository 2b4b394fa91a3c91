"""A child that breaks the protocol is killed, and nothing that it said is believed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from stream_executor.model.codes import Code
from stream_executor.sandbox import pool as pool_file
from stream_executor.sandbox.config import SandboxConfig
from stream_executor.sandbox.local import LocalSandbox
from tests.integration.sandbox import guests
from tests.integration.sandbox.guests import call

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def sandbox(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LocalSandbox]:
    """A sandbox whose children lie."""
    monkeypatch.setattr(pool_file, "ENTRY", "tests.integration.sandbox.liars")
    monkeypatch.setattr(
        "stream_executor.sandbox.process._PACKAGES",
        ("stream_executor", "msgspec", "wasmtime", "tests"),
    )
    async with LocalSandbox(SandboxConfig(children=1)) as started:
        started.add(guests.wasm(guests.ADD))
        yield started


@pytest.mark.parametrize(
    "lie",
    [
        "garbage",
        "long",
        "no_msgpack",
        "number",
        "first",
        "twice",
        "early",
        "fuel",
        "code",
        "message",
        "output",
    ],
)
@pytest.mark.threat("T-20")
async def test_a_malformed_reply_kills_the_child_and_is_not_believed(
    sandbox: LocalSandbox, lie: str
) -> None:
    """The job is tried once more, meets another liar, and is reported as crashed."""
    pids = {child.process.pid for child in sandbox.pool._children}
    async with asyncio.timeout(20):
        (report,) = await sandbox.run([call(guests.ADD, lie)])
    assert report.code == Code.SANDBOX_CRASHED
    assert len(pids & {child.process.pid for child in sandbox.pool._children}) <= 0


async def test_blame_cannot_be_shifted_for_ever(sandbox: LocalSandbox) -> None:
    """A liar that never starts a job by its marker still ends: every job is judged."""
    async with asyncio.timeout(60):
        reports = await sandbox.run([call(guests.ADD, "garbage") for _ in range(4)])
    assert {report.code for report in reports} == {Code.SANDBOX_CRASHED}


async def test_an_honest_answer_of_the_same_process_is_taken(
    sandbox: LocalSandbox,
) -> None:
    """So that the tests above test the lie and not the liar."""
    assert (await sandbox.run([call(guests.ADD, "honest")]))[0].code is None
