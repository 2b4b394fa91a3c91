"""A worker's retries: a step is repeated until the world lets it pass.

Says meanwhile what is waited for. Not here: which steps there are (``worker_runtime``).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from stream_executor.model.errors import BrokerRefusedError, TransientError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stream_executor.services.surroundings import Surroundings

_FIRST_WAIT_S, _MOST_WAIT_S, _GROWTH = 0.05, 5.0, 1.1

log = structlog.get_logger()


class Retries:
    """Waits out what can pass; not thread-safe.

    Args:
        around: is told of what a step meets.

    Attributes:
        note: what is being done or waited for, in words; empty when nothing is.
        waits: whether a step has failed and is about to be tried again.
    """

    def __init__(self, around: Surroundings) -> None:
        self.note = "starting"
        self.waits = False
        self._around = around

    async def until_done(self, step: Callable[[], Awaitable[object]]) -> None:
        """Repeat a step while the world is away, or refuses what it may yet grant.

        Raises:
            ExecutorError: trying again cannot help.
        """
        wait_s = _FIRST_WAIT_S
        while True:
            try:
                await step()
            except (TransientError, BrokerRefusedError) as error:
                if not error.retryable:
                    raise
                if str(error) != self.note:
                    self.note = str(error)
                    log.warning("worker.waiting", reason=self.note)
                self.waits = True
                self._around.note("start", error)
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * _GROWTH, _MOST_WAIT_S)
            else:
                self.waits, self.note = False, ""
                self._around.note("start", None)
                return
