"""What the SDK raises. An unsuccessful execution is a ``Result``, not an exception.

Errors of the brokers come as the classes of ``model.errors``: ``UnavailableError``
(nothing was sent, try again), ``BrokerRefusedError`` (it will be refused every time).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stream_executor.model.errors import ConfigError, ExecutorError, TransientError

if TYPE_CHECKING:
    from stream_executor.client.result import Result
    from stream_executor.client.submission import Submission


class ArgumentError(ExecutorError, ValueError):
    """A value that the caller gave cannot become a request; nothing was sent."""


class CredentialsError(ConfigError):
    """The credentials file is not there, or is none.

    Attributes:
        remedy: how to come by one.
    """

    remedy = (
        "start `wasm-executor dev` and export EXECUTOR_CREDENTIALS as it prints it, "
        "or give the file of your operator"
    )


class OutcomeUnknownError(TransientError):
    """A request may or may not have been appended; it was not sent a second time.

    It runs at most once either way. Whether it did is said by the audit log:
    ``wasm-executor request show <request_id>``.

    Attributes:
        request_ids: the requests in doubt.
    """

    def __init__(self, message: str, request_ids: list[str]) -> None:
        super().__init__(message)
        self.request_ids = request_ids


class ResultTimeoutError(TransientError, TimeoutError):
    """No result arrived in time. The request stays valid, and its result will come.

    Attributes:
        submission: ask again with ``client.result(error.submission)``.
    """

    def __init__(self, submission: Submission, timeout_s: float) -> None:
        super().__init__(
            f"no result for {submission} within {timeout_s:g} s; "
            f"`wasm-executor request show {submission.position}` tells where it is"
        )
        self.submission = submission


class ExecutionError(ExecutorError):
    """``Result.raise_for_status``: the execution did not succeed.

    Attributes:
        result: the whole result.
    """

    def __init__(self, result: Result) -> None:
        detail = f": {result.message}" if result.message else ""
        super().__init__(f"{result.status} {result.code}{detail}")
        self.result = result
