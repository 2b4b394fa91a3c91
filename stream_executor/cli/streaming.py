"""Commands that go on until Ctrl-C: one Ctrl-C ends them, whatever hangs behind it."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import TYPE_CHECKING

from stream_executor.cli.failures import Exit

if TYPE_CHECKING:
    from collections.abc import Coroutine

# For closing connections; a broker that does not answer must not keep a terminal.
_CLOSING_S = 5.0


def run_until_interrupted(work: Coroutine[None, None, None]) -> None:
    """Run what only Ctrl-C ends.

    Raises:
        KeyboardInterrupt: it was pressed, and everything is closed. If closing takes
            more than some seconds, the process ends with the same exit code.
    """
    try:
        asyncio.run(_interruptible(work))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _interruptible(work: Coroutine[None, None, None]) -> None:
    task = asyncio.current_task()

    def interrupt() -> None:
        end = threading.Timer(_CLOSING_S, os._exit, (int(Exit.INTERRUPTED),))
        end.daemon = True
        end.start()
        if task is not None:
            task.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupt)
    await work
