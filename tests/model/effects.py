"""Where an incarnation ends, freezes or loses an answer: between any two effects."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import TYPE_CHECKING

from stream_executor.model.errors import IndefiniteError
from tests.memory_log import LateError

if TYPE_CHECKING:
    from collections.abc import Callable


class Fate(StrEnum):
    """What happens to an incarnation at a point."""

    # SIGKILL: nothing more of it happens.
    CRASH = "crash"
    # SIGSTOP: it goes on later, when somebody else has its lane.
    FREEZE = "freeze"
    # The connection is lost: what was asked may have happened or not.
    DOUBT = "doubt"
    # As DOUBT; where the end of a transaction is under way, it arrives later.
    LATE = "late"


class Effects:
    """One incarnation's passage from effect to effect; counts and names them.

    Args:
        trace: where the points are written down, for whoever reads a failed history.
        name: of the incarnation.
    """

    def __init__(self, trace: Callable[[str], None], name: str) -> None:
        self.name = name
        self.count = 0
        self.dead = False
        self.reached: list[str] = []
        self._fates: dict[int, Fate] = {}
        self._trace = trace
        self._thawed = asyncio.Event()
        self._thawed.set()

    @property
    def works(self) -> bool:
        """Whether it is neither dead nor frozen."""
        return not self.dead and self._thawed.is_set()

    def plan(self, after: int, fate: Fate) -> None:
        """Let a fate strike at the n-th point from now on."""
        self._fates[self.count + after] = fate

    def thaw(self) -> None:
        """Let a frozen one go on."""
        self._thawed.set()

    async def __call__(self, point: str) -> None:
        """Pass a point, or not."""
        fate = self.strike(point)
        while not self.works:
            await (asyncio.get_running_loop().create_future() if self.dead
                   else self._thawed.wait())  # fmt: skip
        if fate is Fate.LATE and point == "9 commit: end on its way":
            message = "the end of the transaction is late"
            raise LateError(message)
        if fate in {Fate.DOUBT, Fate.LATE}:
            message = f"the connection was lost at {point!r}"
            raise IndefiniteError(message)

    def strike(self, point: str) -> Fate | None:
        """Count a point; say what happens there."""
        self.count += 1
        self.reached.append(point)
        fate = self._fates.pop(self.count, None)
        if self.dead:
            return None
        self._trace(f"{self.name} {point}" + (f"  <-- {fate}" if fate else ""))
        if fate is Fate.CRASH:
            self.dead = True
        elif fate is Fate.FREEZE:
            self._thawed.clear()
        return fate
