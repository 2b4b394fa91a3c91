"""The one loop that fetches for all lanes of a worker.

Each lane is fetched from its own position and only while it runs; congested lanes are
paused. Not here: which lanes there are (``owned_lanes``), and how a fetch becomes
records (``kafka/fetcher``).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stream_executor.kafka.fetcher import TopicFetcher
    from stream_executor.lane.intake import Intake
    from stream_executor.lane.lane import Lane

# Records of one poll: enough to amortise it, few enough not to hold the loop long.
POLL_RECORDS = 200
_POLL_MS = 100
_POSITION_EVERY_S = 1.0
_IDLE_S = 0.5


class FetchLoop:
    """Feeds lanes, for as long as ``run`` runs.

    Args:
        fetcher: started; its assignment, positions and pauses are this loop's alone.
        lanes: the worker's lanes by partition; read anew at every turn.
        may_fetch: whether decisions may be made now; while False nothing is fetched.

    Attributes:
        ends: end offsets of the partitions, as of the last look.
    """

    def __init__(
        self,
        fetcher: TopicFetcher,
        lanes: Mapping[int, Lane],
        may_fetch: Callable[[], bool],
    ) -> None:
        self.ends: dict[int, int] = {}
        self._fetcher = fetcher
        self._lanes = lanes
        self._may_fetch = may_fetch
        self._seeks: dict[int, int] = {}
        self._stale = False
        self._paused: set[int] = set()
        self._positions_at = 0.0
        self._work = asyncio.Event()

    def seek(self, partition: int, offset: int) -> None:
        """Have the next poll of this partition begin at an offset."""
        self._seeks[partition] = offset
        self.lanes_changed()

    def lanes_changed(self) -> None:
        """Take note that lanes came, went or changed their state."""
        self._stale = True
        self._work.set()

    async def run(self) -> None:
        """Fetch for all running lanes, for ever."""
        assigned: set[int] = set()
        while True:
            if self._stale:
                assigned = self._place_positions(assigned)
            if not assigned or not self._may_fetch():
                await self._idle()
                continue
            self._pause_congested(assigned)
            fetched = await self._fetcher.getmany(POLL_RECORDS, _POLL_MS)
            for partition, records in fetched.items():
                intake = self._intake(partition)
                if intake is not None and partition not in self._seeks:
                    intake.feed(records)
            self._note_positions(assigned)
            # Replies, commits and heartbeats run between two polls.
            await asyncio.sleep(0)

    def _intake(self, partition: int) -> Intake | None:
        """Where records of this partition go; None while its lane takes none."""
        lane = self._lanes.get(partition)
        intake = None if lane is None else lane.intake
        return intake if intake is not None and intake.open else None

    async def _idle(self) -> None:
        self._work.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_IDLE_S):
                await self._work.wait()

    def _place_positions(self, assigned: set[int]) -> set[int]:
        """Give the fetcher every running lane: new ones and those that seek, anew.

        The others go on. Each life of a lane begins with a seek.
        """
        self._stale = False
        seeks, self._seeks = self._seeks, {}
        running = {
            partition: intake
            for partition in self._lanes
            if (intake := self._intake(partition)) is not None
        }
        kept = (assigned & running.keys()) - seeks.keys()
        self._fetcher.assign(
            {
                partition: seeks.get(partition, intake.fetch_position)
                for partition, intake in running.items()
                if partition not in kept
            },
            kept,
        )
        self._fetcher.resume(running)
        self._paused = set()
        return set(running)

    def _pause_congested(self, assigned: set[int]) -> None:
        congested = {
            p
            for p in assigned
            if (intake := self._intake(p)) is None or intake.congested
        }
        if congested != self._paused:
            self._fetcher.pause(congested - self._paused)
            self._fetcher.resume(self._paused - congested)
            self._paused = congested

    def _note_positions(self, assigned: set[int]) -> None:
        """Tell lanes of failures, and where fetching stands if no record says it."""
        for partition, error in self._fetcher.take_failures().items():
            lane = self._lanes.get(partition)
            if lane is not None and lane.intake is not None:
                lane.intake.fail(error)
        now = time.monotonic()
        if self._stale or now - self._positions_at < _POSITION_EVERY_S:
            return
        self._positions_at = now
        for partition in assigned:
            intake = self._intake(partition)
            if intake is not None:
                intake.reached(self._fetcher.position(partition))
                self.ends[partition] = self._fetcher.high_watermark(partition)
