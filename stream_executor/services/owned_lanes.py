"""The lanes that are this worker's: what the group assigns, acquired and released.

Safety does not need the group: a lane that another worker has taken over is fenced
whatever is said here. Not here: what a lane does (``lane``), and how records come to it
(``fetching``).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from stream_executor.kafka.membership import GroupMembership, MembershipOptions
from stream_executor.lane.lane import Lane
from stream_executor.model.errors import BrokerRefusedError, MisuseError, TransientError

if TYPE_CHECKING:
    from typing import NoReturn

    from stream_executor.kafka.connection import KafkaConnection
    from stream_executor.lane.world import LaneWorld
    from stream_executor.services.fetching import FetchLoop
    from stream_executor.services.retries import Retries
    from stream_executor.services.surroundings import Surroundings
    from stream_executor.services.worker_settings import WorkerOrders

_COMMIT_POSITIONS_EVERY_S = 5.0
_REBALANCE_RELEASE_S = 2.0
# Whoever may not join the group asks again so often.
_JOIN_AGAIN_S = 15.0


class OwnedLanes:
    """A member of the group and its lanes, from ``join`` to ``drain``.

    Args:
        orders: who the member is, and how it is one.
        connection: the brokers.
        lanes: by partition; filled and emptied here alone.
        world: what a new lane is given.
        fetching: is told when lanes come or go.
        around: is told what the group refuses.
        retries: with which the group is joined.
    """

    def __init__(
        self,
        orders: WorkerOrders,
        connection: KafkaConnection,
        lanes: dict[int, Lane],
        world: LaneWorld,
        fetching: FetchLoop,
        around: Surroundings,
        retries: Retries,
    ) -> None:
        self._orders = orders
        self._connection = connection
        self._lanes = lanes
        self._world = world
        self._fetching = fetching
        self._around = around
        self._retries = retries
        self._membership: GroupMembership | None = None
        self._draining = False
        self._committed_at = 0.0
        self._committing: asyncio.Task[bool] | None = None

    async def join(self) -> None:
        """Begin to be a member; lanes come with the first assignment."""
        settings = self._orders.settings
        rules = settings.membership
        self._membership = GroupMembership(
            self._connection,
            topic=settings.topics.requests,
            group_id=rules.group,
            instance_id=self._orders.identity.instance,
            on_assignment=self._assigned,
            options=MembershipOptions(
                rules.session_timeout_ms, rules.heartbeat_ms, rules.rebalance_timeout_ms
            ),
        )
        await self._retries.until_done(self._membership.start)

    async def stay(self) -> NoReturn:
        """Join anew, now and then, while the brokers refuse us a right.

        Raises:
            ExecutorError: membership cannot go on.
            MisuseError: nobody has joined.
        """
        while True:
            membership = self._membership
            if membership is None:
                raise MisuseError("join before you stay")
            try:
                await membership.failed()
            except BrokerRefusedError as error:
                if not error.retryable:
                    raise
                self._around.note("group", error)
            await membership.close()
            await asyncio.sleep(_JOIN_AGAIN_S)
            await self.join()

    async def _assigned(self, partitions: set[int]) -> None:
        """Keep retained lanes as they are, give up lost ones, acquire new ones."""
        self._around.note("group", None)
        if self._draining or await self._elsewhere():
            return
        lost = [p for p in self._lanes if p not in partitions]
        released = [self._lanes.pop(p) for p in lost]
        self._fetching.lanes_changed()
        await asyncio.gather(
            *(lane.release("rebalance", _REBALANCE_RELEASE_S) for lane in released)
        )
        if self._draining:  # it began meanwhile
            return
        for partition in sorted(partitions):
            lane = self._lanes.get(partition)
            if lane is None:
                self._lanes[partition] = Lane(partition, self._world)
                self._lanes[partition].start()
            else:
                lane.reassigned()

    async def _elsewhere(self) -> bool:
        """Say whether this is another cluster's group, which gives and takes no lane.

        Back at the first one we are not known any more, and join anew.
        """
        with suppress(TransientError):
            try:
                await self._world.hold_cluster()
            except BrokerRefusedError:
                return True
        return False

    def keep_positions(self, now_s: float) -> None:
        """Tell the group now and then how far each lane has answered, for lag tools."""
        membership = self._membership
        if membership is None or self._draining:
            return
        if now_s - self._committed_at >= _COMMIT_POSITIONS_EVERY_S:
            self._committed_at = now_s
            self._committing = asyncio.create_task(
                membership.commit_positions(self._answered_positions())
            )
            # Nobody trusts these positions: whether it fails does not matter.
            self._committing.add_done_callback(lambda t: t.cancelled() or t.exception())

    def _answered_positions(self) -> dict[int, int]:
        return {
            p: lane.head.next
            for p, lane in self._lanes.items()
            if lane.head is not None and lane.running
        }

    async def drain(self) -> None:
        """Let lanes finish within the budget, then leave the group in good order."""
        self._draining = True
        settings = self._orders.settings
        await asyncio.gather(
            *(
                lane.release("drain", settings.pace.drain_s)
                for lane in self._lanes.values()
            )
        )
        if self._membership is not None:
            await self._membership.commit_positions(self._answered_positions())
            if settings.membership.leave_on_stop:
                await self._membership.leave()
            else:
                await self._membership.close()
