"""Compiled modules, from the parent's side: fetched, compiled, kept, refused.

A module is asked for by digest. The first job that needs it starts fetching and
compiling; its jobs wait here and block nobody. Artefacts are kept up to a number of
bytes, least recently used first out; modules that cannot be compiled are remembered,
so that a compile bomb costs its price once. Before fetching and compiling, the cache
on disk is asked, if there is one.

Not here: which child has which module (``pool``), the cache (``artefact_cache``).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING

import structlog

from stream_executor.model.codes import Code
from stream_executor.model.errors import IntegrityError
from stream_executor.sandbox.compile import Artefact, Compiler, Refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stream_executor.sandbox.artefact_cache import ArtefactCache
    from stream_executor.sandbox.schedule import Segment

_log = structlog.get_logger(__name__)

FIRST_ESTIMATE_US = 200.0
MAX_REFUSALS = 4096
MAX_ARTEFACTS = 256  # each holds a descriptor
_REMEMBERED = frozenset({Code.INVALID_WASM, Code.COMPILE_LIMIT, Code.MEMORY_LIMIT})
_FORGET = 0.3  # weight of the newest measurement in an estimate
_HASH_INLINE_BYTES = 256 * 1024  # larger modules are hashed off the loop


class Module:
    """One module by digest: being compiled, ready, or refused.

    Attributes:
        artefact: set when ready; refusal: set when refused; neither while compiling.
        waiting: segments that wait for the compiler.
        users: jobs that are queued or running; an artefact with users is not dropped.
        estimate_us: expected time of one job.
    """

    __slots__ = ("artefact", "estimate_us", "refusal", "s256", "users", "waiting")

    def __init__(self, s256: bytes) -> None:
        self.s256 = s256
        self.artefact: Artefact | None = None
        self.refusal: Refusal | None = None
        self.waiting: list[Segment] = []
        self.users = 0
        self.estimate_us = FIRST_ESTIMATE_US

    def measured(self, mean_us: float) -> None:
        """Learn from finished jobs."""
        self.estimate_us += _FORGET * (max(mean_us, 1.0) - self.estimate_us)


class ModuleStore:
    """Modules by digest.

    Args:
        max_bytes: of artefacts kept; those in use may exceed it.
        load: gives a module's bytes; ``LookupError`` means that there is none.
        on_settled: told when a module became ready or refused; takes ``waiting``.
        cache: artefacts and refusals on disk, or None.

    Attributes:
        compiled: how many modules went through the compiler.
        artefact_bytes: of the artefacts in memory.
    """

    def __init__(
        self,
        max_bytes: int,
        compiler: Compiler,
        load: Callable[[bytes], Awaitable[bytes]],
        on_settled: Callable[[Module], None],
        cache: ArtefactCache | None = None,
    ) -> None:
        self._max_bytes, self._compiler = max_bytes, compiler
        self._load, self._on_settled, self._cache = load, on_settled, cache
        self._modules: OrderedDict[bytes, Module] = OrderedDict()
        self._tasks: dict[bytes, asyncio.Task[None]] = {}
        self.artefact_bytes = self.compiled = 0

    def find(self, s256: bytes, issuer: str) -> Module:
        """Give a module; starts its compilation if it is new."""
        module = self._modules.get(s256)
        if module is not None:
            self._modules.move_to_end(s256)
            return module
        module = self._modules[s256] = Module(s256)
        task = asyncio.get_running_loop().create_task(self._settle(module, issuer))
        self._tasks[s256] = task
        task.add_done_callback(partial(self._done, s256))
        return module

    def _done(self, s256: bytes, task: asyncio.Task[None]) -> None:
        # A refused module may have been asked for anew before this one's end.
        if self._tasks.get(s256) is task:
            del self._tasks[s256]

    async def prepare(self, s256: bytes, issuer: str) -> None:
        """Have a module ready or refused before a job needs it; never raises."""
        if s256 not in self._modules:
            self.find(s256, issuer)
        if (task := self._tasks.get(s256)) is not None:
            await asyncio.wait({task})

    def forget_refusals(self) -> None:
        """Try modules again that the cache was told to forget."""
        for s256 in self._cache.forgotten() if self._cache is not None else ():
            module = self._modules.get(s256)
            if module is not None and module.refusal is not None:
                del self._modules[s256]

    def waited_for(self, digests: frozenset[bytes]) -> list[Module]:
        """Give those of these modules that jobs wait for while they are compiled."""
        found = (self._modules.get(s256) for s256 in digests)
        return [module for module in found if module is not None and module.waiting]

    async def stop(self) -> None:
        """Cancel what is under way and close all artefacts."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for module in self._modules.values():
            if module.artefact is not None:
                os.close(module.artefact.fd)
        self._modules.clear()

    async def _settle(self, module: Module, issuer: str) -> None:
        """Bring a module from new to ready or refused; never raises."""
        try:
            outcome = await self._obtain(module.s256, issuer)
        except LookupError:
            outcome = Refusal(Code.MODULE_NOT_FOUND, "no module has this digest")
        except Exception:  # noqa: BLE001 - the caller's loader
            _log.exception("sandbox.module_failed", module=module.s256.hex())
            outcome = Refusal(Code.INTERNAL, "the module could not be prepared")
        if isinstance(outcome, Artefact):
            module.artefact = outcome
            self.artefact_bytes += outcome.size
        else:
            module.refusal = outcome
            if outcome.code not in _REMEMBERED:
                self._modules.pop(module.s256, None)  # the next job tries again
        self._on_settled(module)
        self._evict()

    async def _obtain(self, s256: bytes, issuer: str) -> Artefact | Refusal:
        if self._cache is not None:
            found = await self._cache.find(s256)
            if found is not None:
                return found
        data = await self._load(s256)
        if len(data) > _HASH_INLINE_BYTES:
            digest = await asyncio.to_thread(lambda: hashlib.sha256(data).digest())
        else:
            digest = hashlib.sha256(data).digest()
        if digest != s256:
            raise IntegrityError(f"module {s256.hex()} has other bytes")
        outcome = await self._compiler.compile(issuer, data)
        self.compiled += 1
        if self._cache is not None:
            self._cache.keep(s256, outcome)
        return outcome

    def _evict(self) -> None:
        """Drop the least recently used artefacts, and refusals, over the limits."""
        kept = list(self._modules.values())
        artefacts = sum(module.artefact is not None for module in kept)
        refusals = sum(module.refusal is not None for module in kept)
        for module in kept:
            if module.artefact is not None:
                over = (
                    self.artefact_bytes > self._max_bytes or artefacts > MAX_ARTEFACTS
                )
                if over and not module.users:
                    artefacts -= 1
                    self.artefact_bytes -= module.artefact.size
                    os.close(module.artefact.fd)
                    del self._modules[module.s256]
            elif module.refusal is not None and refusals > MAX_REFUSALS:
                refusals -= 1
                del self._modules[module.s256]
