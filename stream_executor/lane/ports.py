"""What a lane needs from the world, as protocols; ``kafka`` and ``sandbox`` fit them.

Each port says what it may raise; adapters wrap everything else. Errors come in the
three classes of ``model.errors``: fenced, indefinite, refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from stream_executor.model.job import Job, Report
    from stream_executor.model.record import OutRecord, Range, Record


class Acknowledged(Protocol):
    """Base offsets of one committed transaction; None where a topic got nothing."""

    @property
    def results_base(self) -> int | None:
        """Offset of the first result."""
        ...

    @property
    def audit_base(self) -> int | None:
        """Offset of the first leaf."""
        ...

    @property
    def appended_ms(self) -> int | None:
        """The brokers' time of the leaves' append, if they say it."""
        ...


class TransactionalWriter(Protocol):
    """The one writer of a lane.

    After any exception it is dead: the lane makes a new one, fences and re-reads.
    """

    async def fence(self) -> None:
        """Take the transactional id over; the predecessor's transaction ends."""

    async def commit(
        self,
        results: Sequence[OutRecord],
        audit: Sequence[bytes],
    ) -> Acknowledged:
        """Write one transaction; returns only once it is certainly committed."""

    async def close(self) -> None:
        """Let go; never hangs, never raises for the broker's sake."""


class LogReader(Protocol):
    """Reads stretches of partitions, committed records only."""

    async def begin_offset(self, topic: str, partition: int) -> int:
        """Give the first offset that is still kept."""
        ...

    async def end_offset(self, topic: str, partition: int) -> int:
        """Give the end including what is not committed yet."""
        ...

    async def offset_for_time(
        self, topic: str, partition: int, timestamp_ms: int
    ) -> int | None:
        """Give the first offset with this append time or a later one."""
        ...

    def read(
        self, topic: str, partition: int, start: int, end: int
    ) -> AsyncIterator[Sequence[Record]]:
        """Give every committed record in [start, end), in order, in batches."""
        ...


class GapProver(Protocol):
    """Proves from raw batch headers that offsets hold no committed record."""

    async def prove_gap(
        self, topic: str, partition: int, start: int, end: int
    ) -> list[Range]:
        """Give the proven ranges covering [start, end); IntegrityError if not."""
        ...


class Sandbox(Protocol):
    """Runs jobs; each index is reported exactly once, in any order."""

    def submit(
        self,
        issuer: str,
        jobs: list[Job],
        on_reports: Callable[[int, list[Report]], None],
    ) -> None:
        """Run jobs of one issuer."""
        ...
