"""An event loop whose time passes only when nothing else can happen.

A sleep of twelve seconds costs nothing, the order of everything is the same at every
run, and a lane that waits for something that will never come is an error at once.
"""

from __future__ import annotations

import asyncio
from typing import Any


class StandstillError(RuntimeError):
    """Nothing can happen any more: somebody waits for ever."""


class _NoSelector:
    """Nothing is ever ready; asking for a wait lets the time pass."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            self._loop.stand_still()
            return []
        self._loop.passed += timeout
        return []


class VirtualTimeLoop(asyncio.BaseEventLoop):
    """asyncio's own loop with a clock of its own and no input or output."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = 0.0
        self._selector = _NoSelector(self)
        self._clock_resolution = 1e-9
        self.driver: asyncio.Task[Any] | None = None

    def time(self) -> float:
        """Give the virtual time, seconds."""
        return self.passed

    def stand_still(self) -> None:
        """Let whoever drives the history know, so that its trace can be read."""
        driver, self.driver = self.driver, None
        message = "nothing is ready and no timer runs: somebody waits for ever"
        if driver is None:
            raise StandstillError(message)
        driver.cancel(message)

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody calls from another thread."""


async def settle() -> None:
    """Let everything happen that can without time passing (much)."""
    await asyncio.sleep(0.001)
