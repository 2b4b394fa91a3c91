"""``SyncExecutorClient``: the same client for programs without asyncio."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Self, TypeVar

from stream_executor.client.client import ExecutorClient
from stream_executor.model.errors import MisuseError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
    from types import TracebackType

    from stream_executor.client.request import Module
    from stream_executor.client.result import Result
    from stream_executor.client.submission import Submission
    from stream_executor.model.request import ExecutionRequest

T = TypeVar("T")


class SyncExecutorClient:
    """``ExecutorClient`` behind blocking calls; a context manager.

    A thread of its own runs the event loop. May be used from several threads at
    once. Arguments, guarantees and errors are ``ExecutorClient``'s.
    """

    def __init__(self, **options: Any) -> None:
        self._client = ExecutorClient(**options)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def open(self) -> None:
        """Connect; see ``ExecutorClient.open``."""
        if self._loop is not None:
            raise MisuseError("this client is open already")
        loop = self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=loop.run_forever, name="executor-client", daemon=True
        )
        self._thread.start()
        try:
            self._run(self._client.open())
        except BaseException:
            self._end()
            raise

    def close(self) -> None:
        """Finish the sends under way and disconnect. May be called twice."""
        if self._loop is None:
            return
        try:
            self._run(self._client.close())
        finally:
            self._end()

    def execute(self, module: Module, **arguments: Any) -> Result:
        """Run a module once and give its result; see ``ExecutorClient.execute``."""
        return self._run(self._client.execute(module, **arguments))

    def submit(
        self, request: ExecutionRequest, *, partition: int | None = None
    ) -> Submission:
        """Send one request; see ``ExecutorClient.submit``."""
        return self._run(self._client.submit(request, partition=partition))

    def submit_many(
        self, requests: Iterable[ExecutionRequest], *, partition: int | None = None
    ) -> list[Submission]:
        """Send many requests; see ``ExecutorClient.submit_many``."""
        return self._run(self._client.submit_many(requests, partition=partition))

    def result(
        self, submission: Submission, *, timeout_s: float | None = None
    ) -> Result:
        """Wait for one result; see ``ExecutorClient.result``."""
        return self._run(self._client.result(submission, timeout_s=timeout_s))

    def results(
        self, submissions: Iterable[Submission], *, timeout_s: float | None = None
    ) -> Iterator[tuple[Submission, Result]]:
        """Give results as they arrive; see ``ExecutorClient.results``."""
        return self._iterate(self._client.results(submissions, timeout_s=timeout_s))

    def follow(self) -> Iterator[Result]:
        """Give every result on the topic from now on; see ``ExecutorClient.follow``."""
        return self._iterate(self._client.follow())

    def _iterate(self, items: AsyncIterator[T]) -> Iterator[T]:
        async def following() -> T:
            return await anext(items)

        try:
            while True:
                try:
                    yield self._run(following())
                except StopAsyncIteration:
                    return
        finally:
            closing = getattr(items, "aclose", None)
            if closing is not None and self._loop is not None:
                self._run(closing())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            work.close()
            raise MisuseError("open the client first: with SyncExecutorClient(…)")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _end(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None and self._thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join()
            loop.close()
