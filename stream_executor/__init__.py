"""Run signed WebAssembly requests from Kafka and answer each exactly once.

The public names are the SDK's (``stream_executor.client``), imported when they are
first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stream_executor.client import (
        ExecutorClient,
        Result,
        Submission,
        SyncExecutorClient,
        call,
        command,
        f32,
        f64,
        i32,
        i64,
        transform,
    )

# A test holds this equal to the distribution's metadata, whose lookup costs 80 ms.
__version__ = "0.2.0"

__all__ = [
    "ExecutorClient",
    "Result",
    "Submission",
    "SyncExecutorClient",
    "__version__",
    "call",
    "command",
    "f32",
    "f64",
    "i32",
    "i64",
    "transform",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from stream_executor import client  # noqa: PLC0415 - that is the point

    return getattr(client, name)
