"""A worker's look at the world around it: brokers, topics, clock, and what they cost.

Asks the brokers over a new connection now and then, as somebody does who comes anew:
that finds a name that has gone, a password that changed and a topic that was deleted or
set otherwise, while the connections that are open still work. What lanes and the start
meet on their way is noted here, too.

Not here: what a lane does about it (``lane``), and the disks (``disks``).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from stream_executor.kafka.admin import KafkaAdmin
from stream_executor.kafka.topics import Action
from stream_executor.model.conditions import Condition
from stream_executor.model.errors import BrokerRefusedError, ExecutorError
from stream_executor.model.lanes import LaneState
from stream_executor.services.broker_clock import BrokerClock
from stream_executor.services.conditions import Conditions

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream_executor.kafka.admin import Survey
    from stream_executor.kafka.connection import KafkaConnection
    from stream_executor.kafka.topics import TopicNames
    from stream_executor.lane.lane import Lane
    from stream_executor.services.home_cluster import HomeCluster

LOOK_EVERY_S = 10.0
_LOOK_AGAIN_S = 2.0
_AT_WORK = frozenset({LaneState.RUNNING, LaneState.SUSPICIOUS, LaneState.RELEASING})


class Surroundings:
    """What one worker sees; not thread-safe.

    Args:
        connection, topics: the brokers, and what the six topics are called.
        home: the cluster that they must be of.
        replaced: called with a topic's name when another has taken its place.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        topics: TopicNames,
        home: HomeCluster,
        replaced: Callable[[str], None],
    ) -> None:
        self.conditions = Conditions()
        self.clock = BrokerClock()
        self._connection = connection
        self._topics = topics
        self._home = home
        self._replaced = replaced
        self._ids: dict[str, bytes] = {}

    def note(self, source: str, error: ExecutorError | None) -> None:
        """Take note of what somebody met; None if that is over."""
        found: dict[Condition, str] = {}
        if error is not None and error.condition is not None:
            found[error.condition] = str(error)
        self.conditions.see(source, found)

    def note_lane(self, lane: Lane, error: ExecutorError | None = None) -> None:
        """Take note of why a lane does not work, or that it does."""
        source = f"lane {lane.partition}"
        if error is None:
            if lane.state in _AT_WORK:
                self.note(source, None)
        elif error.condition is not Condition.BROKERS_AWAY:
            # A connection that broke is the lane's to mend; `run` says if none holds.
            self.note(source, error)

    def look_at_clock(self) -> None:
        """Hold our clock against the brokers'."""
        finding = self.clock.finding
        found = {Condition.CLOCK_APART: finding} if finding else {}
        self.conditions.see("clock", found)

    async def run(self) -> None:
        """Look for ever; never raises for the brokers' sake."""
        while True:
            found = await self._look()
            self.conditions.see("brokers", found)
            # Whoever mends something waits for the word that it is mended.
            await asyncio.sleep(_LOOK_AGAIN_S if found else LOOK_EVERY_S)

    async def _look(self) -> dict[Condition, str]:
        try:
            async with KafkaAdmin(self._connection) as admin:
                survey = await admin.survey(self._topics)
            self._home.compare(survey.cluster.cluster_id)
        except BrokerRefusedError as error:
            if error.condition in {None, Condition.RIGHTS_MISSING}:
                return {}  # the start has said that topics cannot be described
            return {error.condition: str(error)}
        except ExecutorError as error:
            return {error.condition or Condition.BROKERS_AWAY: str(error)}
        self._compare({name: one.id for name, one in survey.facts.items()})
        return judged(survey)

    def _compare(self, ids: dict[str, bytes]) -> None:
        """Tell of topics that were deleted and made anew under their name."""
        for topic, found in ids.items():
            if self._ids.setdefault(topic, found) != found:
                self._ids[topic] = found
                self._replaced(topic)


def judged(survey: Survey) -> dict[Condition, str]:
    """Give the conditions that the topics are in, with the first finding of each."""
    found: dict[Condition, str] = {}
    for reason in survey.lacking.values():
        found.setdefault(Condition.REPLICAS_MISSING, reason)
    for change in survey.changes:
        missing = change.action is Action.CREATE
        condition = Condition.TOPIC_MISSING if missing else Condition.TOPIC_SETTINGS
        if change.matters:
            found.setdefault(condition, str(change))
    return found
