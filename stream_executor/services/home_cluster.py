"""The cluster that a worker met when it started: no other one's topics are its own.

A name that points elsewhere for a while, or another Kafka on the same host and port,
brings the same client to other logs without a word. Nothing is read into a view and
nothing is written there; as soon as the first cluster answers again, work goes on.

Not here: a log that says which cluster it was begun on (``lane.audit_log``).
"""

from __future__ import annotations

from typing import Protocol

from stream_executor.model.errors import BrokerRefusedError


class Asks(Protocol):
    """Whoever can ask a broker (``kafka.reader.PartitionReader``)."""

    async def cluster_id(self) -> str:
        """Give the id of the cluster that answers now."""
        ...


class HomeCluster:
    """Remembers the cluster's id and holds others against it.

    Args:
        reader: asks; started before ``hold``.

    Attributes:
        cluster_id: empty until the worker has connected.
    """

    def __init__(self, reader: Asks) -> None:
        self.cluster_id = ""
        self._reader = reader

    async def hold(self) -> None:
        """Ask which cluster answers now.

        Raises:
            BrokerRefusedError: ``cluster_changed``.
            UnavailableError: no answer in time.
        """
        self.compare(await self._reader.cluster_id())

    def compare(self, found: str) -> None:
        """Hold an answer against what was met first; raises as ``hold``."""
        if found != self.cluster_id:
            raise BrokerRefusedError(
                f"cluster {found} answers; this worker belongs to {self.cluster_id}",
                "cluster_changed",
            )
