"""Reading results: one task that reads the topic and wakes whoever waits.

Its position is fixed before the first request is sent, so no result is missed, and
results are kept until somebody asks for them, as long as their submission lives.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from stream_executor.client.correlation import Correlator
from stream_executor.client.errors import ResultTimeoutError
from stream_executor.client.result import Result
from stream_executor.model.errors import (
    BrokerRefusedError,
    ExecutorError,
    MalformedError,
    MisuseError,
    TransientError,
)
from stream_executor.wire.results import decode_result

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from stream_executor.client.ports import ResultLog
    from stream_executor.client.submission import Submission
    from stream_executor.model.result import ExecutionResult

_RETRY_S = 0.2
Place = tuple[int, int]
Heard = Place | ExecutorError


class ResultReader:
    """Keeps the results of this client's submissions until they are taken.

    Memory: a few hundred bytes for each submission whose result was not taken yet;
    a client that wants no results is opened with ``results=False``.

    Args:
        log: the results topic.
        topic: the *requests* topic: results of others on a shared topic are passed
            over.
    """

    def __init__(self, log: ResultLog, topic: str) -> None:
        self._log = log
        self._topic = topic
        self._correlator: Correlator[Place] = Correlator()
        self._arrived: dict[Place, Result] = {}
        self._listeners: dict[Place, Callable[[Heard], object]] = {}
        self._followers: set[asyncio.Queue[Result | ExecutorError]] = set()
        self._task: asyncio.Task[None] | None = None
        self._failure: ExecutorError | None = None

    async def start(self) -> None:
        """Fix the position and begin to read."""
        await self._log.start()
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop; whoever still waits gets a ``MisuseError``."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._fail(MisuseError("the client was closed"))
        await self._log.close()

    def sending(self, partition: int) -> None:
        """A send to this partition begins."""
        self._correlator.sending(partition)

    def sent(self, partition: int, submissions: Sequence[Submission]) -> None:
        """A send ended; these requests were appended."""
        places = [(s.offset, (partition, s.offset)) for s in submissions]
        self._deliver(self._correlator.sent(partition, places))

    async def take(self, submission: Submission, timeout_s: float | None) -> Result:
        """Wait for one submission's result and hand it over; it is kept no longer.

        Raises:
            ResultTimeoutError: it did not come in time; it can be asked for again.
            BrokerRefusedError: the results topic cannot be read.
            MisuseError: somebody else waits for this one, or the client was closed.
        """
        place = (submission.partition, submission.offset)
        if place not in self._arrived:
            news: asyncio.Future[Heard] = asyncio.get_running_loop().create_future()

            def tell(heard: Heard) -> None:
                if not news.done():
                    news.set_result(heard)

            self._listen(place, tell)
            try:
                async with asyncio.timeout(timeout_s):
                    heard = await news
            except TimeoutError:
                raise ResultTimeoutError(submission, timeout_s or 0.0) from None
            finally:
                self._listeners.pop(place, None)
            if isinstance(heard, ExecutorError):
                raise heard
        return self._arrived.pop(place)

    async def take_all(
        self, submissions: Iterable[Submission], timeout_s: float | None
    ) -> AsyncIterator[tuple[Submission, Result]]:
        """Hand over the results of many submissions as they come, in that order.

        Args:
            submissions: each at most once.
            timeout_s: for the wait between one result and the next.

        Raises:
            ResultTimeoutError: naming one of those that are missing.
            BrokerRefusedError, MisuseError: as ``take``.
        """
        left = {(s.partition, s.offset): s for s in submissions}
        news: asyncio.Queue[Heard] = asyncio.Queue()
        try:
            for place in left:
                if place in self._arrived:
                    news.put_nowait(place)
                else:
                    self._listen(place, news.put_nowait)
            while left:
                try:
                    async with asyncio.timeout(timeout_s):
                        heard = await news.get()
                except TimeoutError:
                    missing = next(iter(left.values()))
                    raise ResultTimeoutError(missing, timeout_s or 0.0) from None
                if isinstance(heard, ExecutorError):
                    raise heard
                yield left.pop(heard), self._arrived.pop(heard)
        finally:
            for place in left:
                self._listeners.pop(place, None)

    async def follow(self) -> AsyncIterator[Result]:
        """Give every result on the topic from now on, whoever asked for it."""
        queue: asyncio.Queue[Result | ExecutorError] = asyncio.Queue()
        if self._failure is not None:
            raise self._failure
        self._followers.add(queue)
        try:
            while True:
                item = await queue.get()
                if isinstance(item, ExecutorError):
                    raise item
                yield item
        finally:
            self._followers.discard(queue)

    def _listen(self, place: Place, listener: Callable[[Heard], object]) -> None:
        if self._failure is not None:
            raise self._failure
        if place in self._listeners:
            raise MisuseError("a result is handed over once: somebody waits for it")
        self._listeners[place] = listener

    async def _run(self) -> None:
        while True:
            try:
                fetched = await self._log.read()
            except BrokerRefusedError as error:
                self._fail(error)
                return
            except TransientError:
                await asyncio.sleep(_RETRY_S)
                continue
            for _, records in fetched:
                for record in records:
                    self._read(record.value)

    def _read(self, value: bytes | None) -> None:
        try:
            result = decode_result(value or b"")
        except MalformedError:
            return  # no result of ours; executors alone may write here
        if self._followers:
            view = Result(result)
            for queue in self._followers:
                queue.put_nowait(view)
        if result.topic == self._topic:
            self._deliver(self._correlator.arrived(result))

    def _deliver(self, matched: list[tuple[Place, ExecutionResult]]) -> None:
        for place, record in matched:
            self._arrived[place] = Result(record)
            listener = self._listeners.pop(place, None)
            if listener is not None:
                listener(place)

    def _fail(self, error: ExecutorError) -> None:
        self._failure = error
        listeners, self._listeners = self._listeners, {}
        for listener in listeners.values():
            listener(error)
        for queue in self._followers:
            queue.put_nowait(error)
