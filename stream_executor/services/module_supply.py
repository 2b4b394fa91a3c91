"""Module bytes for the sandbox: those that requests bring along, and published ones.

Not here: what the modules topic holds (``modules.store``), what is compiled
(``sandbox``).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from stream_executor.model.errors import BrokerRefusedError, TransientError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stream_executor.lane.lane import Lane
    from stream_executor.modules.store import ModuleStore

_AGAIN_S = 5.0


class ModuleSupply:
    """Gives the sandbox what lanes ask to run.

    Args:
        store: the published modules.
        lanes: by partition; told of a module that cannot be had now.
    """

    def __init__(self, store: ModuleStore, lanes: Mapping[int, Lane]) -> None:
        self._store = store
        self._lanes = lanes
        self._inline: dict[bytes, tuple[bytes, int]] = {}

    def hold_inline(self, s256: bytes, module: bytes) -> None:
        """Keep an inline module while a request with it is in flight."""
        _, count = self._inline.get(s256, (module, 0))
        self._inline[s256] = (module, count + 1)

    def release_inline(self, s256: bytes) -> None:
        """Let one hold of an inline module go."""
        module, count = self._inline.pop(s256)
        if count > 1:
            self._inline[s256] = (module, count - 1)

    async def load(self, s256: bytes) -> bytes:
        """Give a module's bytes, as long as that takes.

        Raises:
            LookupError: there is none of this digest.
            ExecutorError: trying again cannot help.
        """
        held = self._inline.get(s256)
        if held is not None:
            return held[0]
        while True:
            try:
                module = await self._store.find(s256)
            except (TransientError, BrokerRefusedError) as error:
                if not error.retryable:
                    raise
                for lane in self._lanes.values():
                    if lane.intake is not None:
                        lane.intake.do_without(s256, error)
                await asyncio.sleep(_AGAIN_S)
            else:
                if module is None:
                    raise LookupError(s256.hex())
                return module
