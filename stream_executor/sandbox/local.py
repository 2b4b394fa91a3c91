"""The real sandbox without Kafka: for ``invoke``, for publishers and for tests.

The same pool, children and path as a worker's; only the waiting is done here.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from typing import TYPE_CHECKING, Self

from stream_executor.sandbox.compile import Compiler, Refusal
from stream_executor.sandbox.config import SandboxConfig
from stream_executor.sandbox.pool import SandboxPool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stream_executor.model.job import Job, Report
    from stream_executor.sandbox.artefact_cache import ArtefactCache


class LocalSandbox:
    """A started pool over modules that are handed in.

    ``async with LocalSandbox() as sandbox: reports = await sandbox.run(jobs)``.
    """

    def __init__(
        self, config: SandboxConfig | None = None, cache: ArtefactCache | None = None
    ) -> None:
        self._modules: dict[bytes, bytes] = {}
        self.pool = SandboxPool(config or SandboxConfig(), self._load, cache)

    async def __aenter__(self) -> Self:
        await self.pool.start()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.pool.stop()

    def add(self, module: bytes) -> bytes:
        """Make a module known; give its digest for ``Job.module_s256``."""
        digest = hashlib.sha256(module).digest()
        self._modules[digest] = module
        return digest

    async def run(self, jobs: list[Job], issuer: str = "local") -> list[Report]:
        """Run jobs; give their reports in the same order."""
        reports: list[Report | None] = [None] * len(jobs)
        left = len(jobs)
        done = asyncio.get_running_loop().create_future()

        def take(first: int, part: list[Report]) -> None:
            nonlocal left
            reports[first : first + len(part)] = part
            left -= len(part)
            if not left and not done.done():
                done.set_result(None)

        if jobs:
            self.pool.submit(issuer, jobs, take)
            await done
        return [report for report in reports if report is not None]

    async def _load(self, digest: bytes) -> bytes:
        return self._modules[digest]


def run_once(
    modules: Sequence[bytes], jobs: list[Job], config: SandboxConfig | None = None
) -> list[Report]:
    """Start a sandbox, run jobs on modules, stop it; for synchronous callers.

    Args:
        modules: every module that the jobs name by digest.
        jobs: what to run.
        config: one child with the defaults if None.

    Raises:
        ConfigError: the sandbox does not start here.
    """

    async def run() -> list[Report]:
        async with LocalSandbox(config or SandboxConfig(children=1)) as sandbox:
            for module in modules:
                sandbox.add(module)
            return await sandbox.run(jobs)

    return asyncio.run(run())


async def refusal_of(
    module: bytes, config: SandboxConfig | None = None
) -> Refusal | None:
    """Tell why no worker would run a module; None if it compiles.

    It is compiled in a child of its own, as workers do: any bytes may come.

    Args:
        module: a WebAssembly binary, of any origin.
        config: the defaults if None.

    Raises:
        TransientError: no compile process could do its work.
    """
    compiler = Compiler(config or SandboxConfig())
    try:
        compiled = await compiler.compile("local", module)
    finally:
        await compiler.stop()
    if isinstance(compiled, Refusal):
        return compiled
    os.close(compiled.fd)
    return None
