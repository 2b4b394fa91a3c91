"""Compiled modules, from the parent's side: fetched, compiled, kept, refused.

A module is asked for by digest. The first job that needs it starts fetching and
compiling; its jobs wait here and block nobody. Artefacts are kept up to a number of
bytes, least recently used first out; modules that cannot be compiled are remembered,
so that a compile bomb costs its price once.

A cache on disk would stand between ``_load`` and the compiler, keyed by module
digest, native engine, configuration and CPU, and authenticated with a key that only
the parent holds. Not built here.

Not here: which child has which module (``pool``).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import OrderedDict
from typing import TYPE_CHECKING

import structlog

from stream_executor.model.codes import Code
from stream_executor.model.errors import IntegrityError
from stream_executor.sandbox.compile import Artefact, Compiler, Refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

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
    """

    def __init__(
        self,
        max_bytes: int,
        compiler: Compiler,
        load: Callable[[bytes], Awaitable[bytes]],
        on_settled: Callable[[Module], None],
    ) -> None:
        self._max_bytes, self._compiler = max_bytes, compiler
        self._load, self._on_settled = load, on_settled
        self._modules: OrderedDict[bytes, Module] = OrderedDict()
        self._bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def find(self, s256: bytes, issuer: str) -> Module:
        """Give a module; starts its compilation if it is new."""
        module = self._modules.get(s256)
        if module is not None:
            self._modules.move_to_end(s256)
            return module
        module = self._modules[s256] = Module(s256)
        task = asyncio.get_running_loop().create_task(self._settle(module, issuer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return module

    def waited_for(self, digests: frozenset[bytes]) -> list[Module]:
        """Give those of these modules that jobs wait for while they are compiled."""
        found = (self._modules.get(s256) for s256 in digests)
        return [module for module in found if module is not None and module.waiting]

    async def stop(self) -> None:
        """Cancel what is under way and close all artefacts."""
        tasks = list(self._tasks)
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
            _log.exception("sandbox_module_failed", module=module.s256.hex())
            outcome = Refusal(Code.INTERNAL, "the module could not be prepared")
        if isinstance(outcome, Artefact):
            module.artefact = outcome
            self._bytes += outcome.size
        else:
            module.refusal = outcome
            if outcome.code not in _REMEMBERED:
                self._modules.pop(module.s256, None)  # the next job tries again
        self._on_settled(module)
        self._evict()

    async def _obtain(self, s256: bytes, issuer: str) -> Artefact | Refusal:
        data = await self._load(s256)
        if len(data) > _HASH_INLINE_BYTES:
            digest = await asyncio.to_thread(lambda: hashlib.sha256(data).digest())
        else:
            digest = hashlib.sha256(data).digest()
        if digest != s256:
            raise IntegrityError(f"module {s256.hex()} has other bytes")
        return await self._compiler.compile(issuer, data)

    def _evict(self) -> None:
        """Drop the least recently used artefacts, and refusals, over the limits."""
        kept = list(self._modules.values())
        artefacts = sum(module.artefact is not None for module in kept)
        refusals = sum(module.refusal is not None for module in kept)
        for module in kept:
            if module.artefact is not None:
                over = self._bytes > self._max_bytes or artefacts > MAX_ARTEFACTS
                if over and not module.users:
                    artefacts -= 1
                    self._bytes -= module.artefact.size
                    os.close(module.artefact.fd)
                    del self._modules[module.s256]
            elif module.refusal is not None and refusals > MAX_REFUSALS:
                refusals -= 1
                del self._modules[module.s256]
