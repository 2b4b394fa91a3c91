"""Keeps a worker's view of the control topic at the topic's end, and says how sure.

Deny entries, publications and key changes act on a running fleet because every
worker follows this topic; a worker that cannot confirm its view for 10 s stops
deciding, because it might be deciding on a stale deny-list.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from stream_executor.model.errors import (
    BrokerRefusedError,
    ConfigError,
    IntegrityError,
    TransientError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream_executor.kafka.reader import PartitionReader
    from stream_executor.modules.view import ControlView
    from stream_executor.services.home_cluster import HomeCluster

CONFIRM_DEADLINE_S = 5.0
STALE_AFTER_S = 10.0
_PARTITION = 0
_RETRY_S = 0.5
_LOOK_EVERY_S = 2.0


class ControlFollower:
    """Reads the control topic into a view, for ever.

    Args:
        view: what grows.
        topic: the control topic.
        home: the cluster that it must be of.
        follow: a reader of its own: following occupies its connection.
        query: a reader for end offsets.
        changed: called after records were applied.
    """

    def __init__(
        self,
        view: ControlView,
        topic: str,
        home: HomeCluster,
        follow: PartitionReader,
        query: PartitionReader,
        changed: Callable[[], None],
    ) -> None:
        self.view = view
        self._topic = topic
        self._home = home
        self._follow = follow
        self._query = query
        self._changed = changed
        self._confirmed_at: float | None = None
        self._end_at: tuple[int, float] | None = None  # the topic's end, and when
        self._idle = 0
        self._moved = asyncio.Condition()
        self._confirming: asyncio.Task[None] | None = None

    @property
    def confirmed(self) -> bool:
        """Whether the view was known to be at the topic's end within 10 s."""
        if self._confirmed_at is None:
            return False
        return asyncio.get_running_loop().time() - self._confirmed_at < STALE_AFTER_S

    async def run(self) -> None:
        """Follow for ever; trouble with brokers, rights and topic is waited out.

        Raises:
            ConfigError: the topic was begun under another operator's key.
            BrokerRefusedError: it was shortened or made anew.
        """
        while True:
            try:
                start = max(
                    self.view.next_offset,
                    await self._query.begin_offset(self._topic, _PARTITION),
                )
                async for records in self._follow.read(self._topic, _PARTITION, start):
                    await self._home.hold()
                    for record in records:
                        self.view.apply(record.offset, record.timestamp, record.value)
                    if records:
                        self._changed()
                        await self._confirm_if_due()
                    else:  # nothing new within a long poll: this was the end
                        self._idle += 1
                        self._confirmed_at = asyncio.get_running_loop().time()
                    async with self._moved:
                        self._moved.notify_all()
            except (TransientError, BrokerRefusedError) as error:
                if not (error.retryable or await self._elsewhere()):
                    raise
                await asyncio.sleep(_RETRY_S)
            except IntegrityError as error:
                message = (
                    f"{error}; set KAFKA_BOOTSTRAP_SERVERS and "
                    "WASM_EXECUTOR_OPERATOR_PUBLIC_KEY to what `wasm-executor init` "
                    "printed for this deployment"
                )
                raise ConfigError(message) from error

    async def _elsewhere(self) -> bool:
        """Say whether another cluster answers, or none: what it says is not ours."""
        try:
            await self._home.hold()
        except (TransientError, BrokerRefusedError):
            return True
        return False

    async def _confirm_if_due(self) -> None:
        """Look at the topic's end now and then: busy writers leave no idle poll.

        They may write faster than we look, so the view need not be at the end of now:
        once it has passed an end, it was complete when that end was asked for.
        """
        now = asyncio.get_running_loop().time()
        confirmed_at = self._confirmed_at
        if self._end_at is None and (
            confirmed_at is None or now - confirmed_at > _LOOK_EVERY_S
        ):
            end = await self._query.end_offset(self._topic, _PARTITION)
            self._end_at = end, now
        if self._end_at is not None and self.view.next_offset >= self._end_at[0]:
            self._confirmed_at = max(confirmed_at or 0.0, self._end_at[1])
            self._end_at = None

    async def confirm(self) -> None:
        """Return once the view has passed what is now the topic's end.

        Callers at the same moment share one look at the broker, if it began after
        they asked.

        Raises:
            UnavailableError: not within ``CONFIRM_DEADLINE_S``; nothing is known.
        """
        if self._confirming is not None:
            # That one may have looked before what this caller waits for was written.
            await asyncio.wait({self._confirming})
        if self._confirming is None or self._confirming.done():
            self._confirming = asyncio.create_task(self._confirm())
        await asyncio.shield(self._confirming)

    async def _confirm(self) -> None:
        try:
            async with asyncio.timeout(CONFIRM_DEADLINE_S):
                await self._home.hold()
                end = await self._query.end_offset(self._topic, _PARTITION)
                # A marker at the end is no record that the view could pass; but of
                # two idle long polls from here on, the second began after now.
                idle = self._idle + 2
                async with self._moved:
                    await self._moved.wait_for(
                        lambda: self.view.next_offset >= end or self._idle >= idle
                    )
        except TimeoutError as error:
            message = f"the view of {self._topic} did not reach the topic's end in time"
            raise UnavailableError(message) from error
        self._confirmed_at = asyncio.get_running_loop().time()
