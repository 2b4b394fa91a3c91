"""Ask for executions and read their results from Python.

    async with ExecutorClient(credentials="credentials.json") as client:
        result = await client.execute("add@1", function="add", args=[2, 3])
        print(result.outputs)  # [5]

Names are imported when they are first used, so that importing the package costs
nothing to whoever only wants its version.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stream_executor.client.client import ExecutorClient
    from stream_executor.client.credentials import (
        Credentials,
        read_credentials,
        write_credentials,
    )
    from stream_executor.client.errors import (
        ArgumentError,
        ExecutionError,
        OutcomeUnknownError,
        ResultTimeoutError,
    )
    from stream_executor.client.request import call, command, transform
    from stream_executor.client.result import Result
    from stream_executor.client.submission import Submission
    from stream_executor.client.sync import SyncExecutorClient
    from stream_executor.client.values import Scalar, f32, f64, i32, i64

_HOMES = {
    "ArgumentError": "errors",
    "Credentials": "credentials",
    "ExecutionError": "errors",
    "ExecutorClient": "client",
    "OutcomeUnknownError": "errors",
    "Result": "result",
    "ResultTimeoutError": "errors",
    "Scalar": "values",
    "Submission": "submission",
    "SyncExecutorClient": "sync",
    "call": "request",
    "command": "request",
    "f32": "values",
    "f64": "values",
    "i32": "values",
    "i64": "values",
    "read_credentials": "credentials",
    "transform": "request",
    "write_credentials": "credentials",
}

__all__ = [
    "ArgumentError",
    "Credentials",
    "ExecutionError",
    "ExecutorClient",
    "OutcomeUnknownError",
    "Result",
    "ResultTimeoutError",
    "Scalar",
    "Submission",
    "SyncExecutorClient",
    "call",
    "command",
    "f32",
    "f64",
    "i32",
    "i64",
    "read_credentials",
    "transform",
    "write_credentials",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
