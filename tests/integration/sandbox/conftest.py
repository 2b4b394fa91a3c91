"""One running sandbox for all tests of a file that only send jobs to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest_asyncio

from stream_executor.sandbox.config import SandboxConfig
from stream_executor.sandbox.local import LocalSandbox
from tests.integration.sandbox import guests

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from stream_executor.model.job import Job, Report

_TEXTS = [
    text
    for name, text in vars(guests).items()
    if name.isupper() and isinstance(text, str) and text.startswith("(module")
]


def add_all(sandbox: LocalSandbox, *more: str) -> None:
    """Make every guest of ``guests`` known to a sandbox."""
    for text in (*_TEXTS, *more):
        sandbox.add(guests.wasm(text))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[LocalSandbox]:
    """A hardened sandbox with two children."""
    config = SandboxConfig(children=2, require_hardening=True)
    async with LocalSandbox(config) as started:
        add_all(started)
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def run(sandbox: LocalSandbox) -> Callable[[Job], Awaitable[Report]]:
    """Run one job."""

    async def one(job: Job) -> Report:
        (report,) = await sandbox.run([job])
        return report

    return one
