"""Belong to the consumer group, and nothing else: which partitions are ours to serve.

The group decides who *should* serve a partition; whether that worker may is decided by
its fence (ADR 0010). So this member never fetches: it is aiokafka's group coordinator
without the consumer around it, whose fetcher would look up committed offsets, reset
positions or raise when there are none, and whose poll interval would expel a member
that reads elsewhere.

Membership is static (KIP-345): a worker that restarts within the session timeout has
its partitions back without a rebalance. aiokafka's heartbeats carry no instance id, so
two processes with one id would push each other out in turn: the caller holds a lock.

Not here: what to do with an assignment.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from aiokafka import ConsumerRebalanceListener, OffsetAndMetadata, TopicPartition
from aiokafka.client import ConnectionGroup
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.coordinator.assignors.sticky.sticky_assignor import (
    StickyPartitionAssignor,
)
from aiokafka.errors import KafkaError
from aiokafka.protocol.group import LeaveGroupRequest

from stream_executor.kafka.client import BrokerClient
from stream_executor.kafka.failures import classify, seen
from stream_executor.kafka.internals import within
from stream_executor.model.errors import (
    BrokerRefusedError,
    ExecutorError,
    MisuseError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from typing import NoReturn

    from stream_executor.kafka.connection import KafkaConnection

_COMMIT_DEADLINE_S: Final = 5.0
_CLOSE_DEADLINE_S: Final = 5.0
_LOOK_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class MembershipOptions:
    """How the group finds out that a member is gone.

    Attributes:
        session_timeout_ms: silence after which the group gives our partitions away; a
            false alarm costs a take-over, never correctness.
        heartbeat_interval_ms: at most a third of it.
        rebalance_timeout_ms: how long the group waits for a slow member to rejoin.
        request_timeout_ms: the group answers a join only when all members have joined,
            so this is longer than for other requests. A join that is given up is
            harmless: the next one takes its place by the instance id.
    """

    session_timeout_ms: int = 10_000
    heartbeat_interval_ms: int = 3_000
    rebalance_timeout_ms: int = 60_000
    request_timeout_ms: int = 25_000


DEFAULT_OPTIONS: Final = MembershipOptions()


class GroupMembership:
    """One static member of a consumer group, subscribed to one topic."""

    def __init__(
        self,
        connection: KafkaConnection,
        *,
        group_id: str,
        instance_id: str,
        topic: str,
        on_assignment: Callable[[set[int]], Awaitable[None]],
        options: MembershipOptions = DEFAULT_OPTIONS,
    ) -> None:
        """Prepare; nothing is joined before ``start``.

        Args:
            connection: the brokers.
            group_id: the group of all workers of a deployment.
            instance_id: ``<instance>-<slot>``; one live process per id.
            topic: the requests topic.
            on_assignment: called with the whole set of partitions after each rebalance,
                never twice at a time. If several rebalances pass while it runs, only
                the last is delivered. It may take long: heartbeats go on. What it
                raises is raised by ``failed``.
            options: the group's clocks.
        """
        self._connection = connection
        self._group_id = group_id
        self._instance_id = instance_id
        self._topic = topic
        self._on_assignment = on_assignment
        self._options = options
        self._client: BrokerClient | None = None
        self._coordinator: GroupCoordinator | None = None
        self._subscription: SubscriptionState | None = None
        self._assigned: set[int] = set()
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._failure: asyncio.Future[NoReturn] | None = None

    @property
    def assigned(self) -> frozenset[int]:
        """The partitions of the last rebalance, delivered or not."""
        return frozenset(self._assigned)

    async def start(self) -> None:
        """Connect and begin to join; the first assignment comes by ``on_assignment``.

        Raises:
            UnavailableError: no broker answered in time.
            BrokerRefusedError: ``unknown_topic`` or ``not_authorised``.
            MisuseError: started before.
        """
        if self._client is not None:
            raise MisuseError("this member has been started already")
        options = self._options
        patient = replace(
            self._connection, request_timeout_ms=options.request_timeout_ms
        )
        self._client = BrokerClient(patient, f"member-{self._instance_id}")
        self._failure = asyncio.get_running_loop().create_future()
        self._failure.add_done_callback(seen)
        try:
            await self._client.start()
            client = self._client.raw
            await self._client.partition_count(self._topic)
            await client.add_topic(self._topic)
        except BaseException:
            await self._disconnect()  # so that it may be tried again
            raise
        self._subscription = subscription = SubscriptionState()
        subscription.register_fetch_waiters(set())  # there is no fetcher
        subscription.subscribe({self._topic}, listener=_Listener(self._receive))
        self._coordinator = GroupCoordinator(
            client,
            subscription,
            group_id=self._group_id,
            group_instance_id=self._instance_id,
            session_timeout_ms=options.session_timeout_ms,
            heartbeat_interval_ms=options.heartbeat_interval_ms,
            rebalance_timeout_ms=options.rebalance_timeout_ms,
            enable_auto_commit=False,
            # One assignor: aiokafka joins once per assignor it is given. And one class
            # per member: the sticky assignor keeps its state in class attributes.
            assignors=(type("StickyAssignor", (StickyPartitionAssignor,), {}),),
            # Nobody polls this member, so it must never count as idle.
            max_poll_interval_ms=float("inf"),
        )
        self._tasks = [
            asyncio.create_task(self._deliver()),
            asyncio.create_task(self._watch()),
        ]

    async def failed(self) -> NoReturn:
        """Wait until membership cannot go on, and raise why.

        Ordinary trouble (a coordinator that moves, a broker that restarts, an expired
        session) is not a failure: the member joins again by itself.

        Raises:
            BrokerRefusedError: ``not_authorised`` for the group, or the group refuses
                our protocol or session timeout (``other``).
            UnavailableError: aiokafka's coordination task died.
            Exception: whatever ``on_assignment`` raised.
        """
        if self._failure is None:
            raise MisuseError("start the member before waiting for its failure")
        await asyncio.shield(self._failure)
        raise MisuseError("unreachable: the failure only ever holds an exception")

    async def commit_positions(self, positions: Mapping[int, int]) -> bool:
        """Commit positions for lag tools; errors are ignored, nobody trusts these.

        Args:
            positions: partition to *position* (next offset, past markers).

        Returns:
            Whether the group took them, for a metric.
        """
        coordinator, subscription = self._coordinator, self._subscription
        if coordinator is None or subscription is None or not positions:
            return False
        offsets = {
            TopicPartition(self._topic, partition): OffsetAndMetadata(position, "")
            for partition, position in positions.items()
        }
        try:
            async with asyncio.timeout(_COMMIT_DEADLINE_S):
                await coordinator.commit_offsets(None, offsets)
        except (KafkaError, TimeoutError):
            return False
        return True

    async def leave(self) -> None:
        """Leave for good, when scaling in: partitions move at once, then disconnect.

        Never hangs, never raises; if the group cannot be told, the session timeout
        does it.
        """
        member = None
        if self._coordinator is not None:
            member = (self._coordinator.coordinator_id, self._coordinator.member_id)
        await self._stop()
        if member is not None and self._client is not None:
            node, member_id = member
            request = LeaveGroupRequest(self._group_id, member_id)
            # By member id, which KIP-345 allows for static members as well: aiokafka
            # knows LeaveGroup only up to v1, without instance ids.
            await within(
                _CLOSE_DEADLINE_S,
                self._client.raw.send(
                    node, request, group=ConnectionGroup.COORDINATION
                ),
            )
        await self._disconnect()

    async def close(self) -> None:
        """Stop without leaving: whoever comes back within the session keeps all.

        Never hangs, never raises, may be called twice.
        """
        await self._stop()
        await self._disconnect()

    # -- inside -----------------------------------------------------------------------

    def _receive(self, assigned: set[int]) -> None:
        self._assigned = assigned
        self._news.set()

    async def _deliver(self) -> None:
        """Call back outside aiokafka's listener, which holds up heartbeats."""
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                await self._on_assignment(set(self._assigned))
        except Exception as error:  # noqa: BLE001  # the caller's; `failed` raises it
            self._fail(error)

    async def _watch(self) -> None:
        """Look after aiokafka's coordination, which waits until its errors are seen."""
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                self._coordinator.check_errors()  # type: ignore[union-attr]
            except KafkaError as error:
                ours = classify(error, f"group {self._group_id}", UnavailableError)
                died = self._coordinator._coordination_task.done()  # type: ignore[union-attr]  # noqa: SLF001
                if died or isinstance(ours, BrokerRefusedError):
                    self._fail(ours)
                    return

    def _fail(self, error: Exception | ExecutorError) -> None:
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(error)

    async def _stop(self) -> None:
        coordinator, self._coordinator = self._coordinator, None
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            if task is not asyncio.current_task():  # `on_assignment` may close us
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        if coordinator is not None:
            # It may be waiting for the group's answer to a join, for as long as another
            # member is slow, and aiokafka would wait with it. There is nothing to save:
            # it commits no offsets.
            joining = coordinator._coordination_task  # noqa: SLF001
            joining.cancel()
            await asyncio.wait({joining}, timeout=_CLOSE_DEADLINE_S)
            await within(_CLOSE_DEADLINE_S, coordinator.close())

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is untyped
    """Hands each settled assignment on at once; awaits nothing."""

    def __init__(self, receive: Callable[[set[int]], None]) -> None:
        self._receive = receive

    def on_partitions_revoked(self, revoked: set[Any]) -> None:
        """Do nothing: a lane runs on until the new assignment leaves it out."""

    def on_partitions_assigned(self, assigned: set[Any]) -> None:
        """Pass the partitions on."""
        self._receive({partition.partition for partition in assigned})
