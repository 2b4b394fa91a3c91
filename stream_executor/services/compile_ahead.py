"""Warm start: compile what is published before somebody asks for it.

One module at a time, on one of the compiler's slots, niced like every compilation;
begun only once the worker is ready, so neither readiness nor a lane waits for it. Of
the workers on one host one compiles at a time, the others find its work in the cache.
The newest publication comes first. It stops at half of what the sandbox keeps in
memory: the other half is for what is really used.

Not here: compiling (``sandbox``), fetching (``modules.store``).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from stream_executor.lane.admission import module_bytes_limit
from stream_executor.sandbox.modules import MAX_ARTEFACTS

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from stream_executor.lane.admission import Ceilings
    from stream_executor.modules.view import ControlView, PublishedModule
    from stream_executor.sandbox.artefact_cache import ArtefactCache
    from stream_executor.sandbox.pool import SandboxPool

SHARE = 2
"""One in so many bytes and artefacts of the sandbox's memory may be used ahead."""

log = structlog.get_logger()


class CompileAhead:
    """Follows the control view for publications.

    Args:
        view: what was published.
        ceilings: which modules may run at all.
        sandbox: where they are compiled.
        cache: whose turn keeps workers of one host apart.
        most_bytes: of compiled modules that the sandbox keeps in memory.
    """

    def __init__(
        self,
        view: ControlView,
        ceilings: Ceilings,
        sandbox: SandboxPool,
        cache: ArtefactCache,
        most_bytes: int,
    ) -> None:
        self._view, self._ceilings = view, ceilings
        self._sandbox, self._cache, self._most_bytes = sandbox, cache, most_bytes
        self._seen: set[bytes] = set()
        self._changed = asyncio.Event()
        self._changed.set()

    def control_changed(self) -> None:
        """Tell that something may have been published."""
        self._changed.set()

    async def run(self) -> None:
        """Compile ahead for ever."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            while module := next_module(self._view, self._ceilings, self._seen):
                if self._full:
                    log.info("compile_ahead.full", bytes=self._sandbox.artefact_bytes)
                    return
                self._seen.add(module.s256)
                async with self._cache.turn():
                    await self._sandbox.prepare(module.s256)
                log.info("compile_ahead.done", module=module.name)

    @property
    def _full(self) -> bool:
        return (
            self._sandbox.artefact_bytes >= self._most_bytes // SHARE
            or len(self._seen) >= MAX_ARTEFACTS // SHARE
        )


def next_module(
    view: ControlView, ceilings: Ceilings, seen: AbstractSet[bytes]
) -> PublishedModule | None:
    """Give the newest publication that may run and was not looked at yet. Pure."""
    for module in reversed(view.modules()):
        if (
            module.s256 not in seen
            and not module.revoked
            and module.s256 not in view.denied.modules
            and module.size_bytes <= module_bytes_limit(ceilings, module.grant)
        ):
            return module
    return None
