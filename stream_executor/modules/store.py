"""Module bytes on demand: fetched by the published offset, believed by digest.

The modules topic is a store of bytes that nobody is believed to keep: a publication
names an offset, and what lies there counts only if its SHA-256 is the published
one. What was fetched is remembered up to a bound.

Not here: which module is meant (``modules.view``) and whether it may run.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from hashlib import sha256
from typing import TYPE_CHECKING, Protocol

from stream_executor.model.errors import IntegrityError, MalformedError
from stream_executor.model.request import ModuleDigest
from stream_executor.wire.modules import decode_module

if TYPE_CHECKING:
    from stream_executor.model.record import Record
    from stream_executor.modules.view import ControlView, PublishedModule

_PARTITION = 0


class RecordReader(Protocol):
    """Gives single records of a topic."""

    async def read_one(self, topic: str, partition: int, offset: int) -> Record | None:
        """Give the committed record at an offset, or None if there is none.

        Raises:
            UnavailableError: the broker could not tell.
        """
        ...


class ModuleStore:
    """The bytes of published modules.

    Args:
        view: what was published.
        reader: reads the modules topic.
        topic: the modules topic.
        max_module_bytes: no module above this is given (HARD_MAX_MODULE_BYTES).
        cache_bytes: most bytes of modules to remember; the least recently used go.
    """

    def __init__(
        self,
        view: ControlView,
        reader: RecordReader,
        topic: str,
        max_module_bytes: int,
        cache_bytes: int = 64 << 20,
    ) -> None:
        self._view = view
        self._reader = reader
        self._topic = topic
        self._max_module_bytes = max_module_bytes
        self._cache_bytes = cache_bytes
        self._cached: OrderedDict[bytes, bytes] = OrderedDict()
        self._held_bytes = 0
        self._fetching: dict[bytes, asyncio.Task[bytes]] = {}

    def cached(self, s256: bytes) -> bytes | None:
        """Give a module's bytes if they are at hand; never waits."""
        module = self._cached.get(s256)
        if module is not None:
            self._cached.move_to_end(s256)
        return module

    async def find(self, s256: bytes) -> bytes | None:
        """Give a published module's bytes by digest, revoked or not.

        None if no module of this digest was ever published. Raises like ``fetch``.
        """
        published = self._view.resolve(ModuleDigest(s256))
        return None if published is None else await self.fetch(published)

    async def fetch(self, module: PublishedModule) -> bytes:
        """Give a published module's bytes.

        Callers that ask for the same digest at once share one fetch.

        Raises:
            UnavailableError: the topic could not be read now; try again.
            IntegrityError: no module of this digest lies where it was published,
                or it is above the size cap: trying again cannot help.
        """
        at_hand = self.cached(module.s256)
        if at_hand is not None:
            return at_hand
        task = self._fetching.get(module.s256)
        if task is None:
            task = asyncio.create_task(self._fetch(module))
            self._fetching[module.s256] = task
            task.add_done_callback(lambda _: self._fetching.pop(module.s256, None))
        # One caller's cancellation must not take the bytes from the others.
        return await asyncio.shield(task)

    async def _fetch(self, module: PublishedModule) -> bytes:
        where = f"{self._topic}-{_PARTITION} at {module.modules_offset}"
        if module.size_bytes > self._max_module_bytes:
            message = (
                f"module {module.s256.hex()} was published with {module.size_bytes} "
                f"bytes, above the maximum of {self._max_module_bytes}"
            )
            raise IntegrityError(message)
        record = await self._reader.read_one(
            self._topic, _PARTITION, module.modules_offset
        )
        if record is None or record.value is None:
            message = f"no module in {where}: its bytes were deleted or never written"
            raise IntegrityError(message)
        try:
            found = decode_module(record.value)
        except MalformedError as error:
            message = f"no module in {where}: {error}"
            raise IntegrityError(message) from error
        if len(found) != module.size_bytes or sha256(found).digest() != module.s256:
            message = (
                f"expected module {module.s256.hex()} of {module.size_bytes} bytes in "
                f"{where}, found {sha256(found).hexdigest()} of {len(found)}"
            )
            raise IntegrityError(message)
        self._remember(module.s256, found)
        return found

    def _remember(self, s256: bytes, module: bytes) -> None:
        if len(module) > self._cache_bytes:
            return
        self._cached[s256] = module
        self._held_bytes += len(module)
        while self._held_bytes > self._cache_bytes:
            _, dropped = self._cached.popitem(last=False)
            self._held_bytes -= len(dropped)
