"""The worker as a lane sees it: ports, identity and shared state, behind one protocol.

Not here: what a lane does with it (``lane``), and the worker's side (``services``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from stream_executor.auth.replay import ReplayBudget
    from stream_executor.lane.admission import AdmissionContext
    from stream_executor.lane.audit_log import Expected
    from stream_executor.lane.conclusion import LaneIdentity, Tally
    from stream_executor.lane.head import LaneHead
    from stream_executor.lane.lane import Lane
    from stream_executor.lane.ports import (
        GapProver,
        LogReader,
        Sandbox,
        TransactionalWriter,
    )
    from stream_executor.model.audit import LaneAcquired
    from stream_executor.model.errors import (
        BrokerRefusedError,
        FencedError,
        TransientError,
    )


class LaneSettings(msgspec.Struct, frozen=True):
    """Numbers and names that all lanes of a worker share.

    Attributes:
        window_requests, window_bytes: most in flight before intake pauses.
        max_result_bytes: most bytes of one encoded result.
        batch_bytes: most bytes of one produced batch.
        commit_requests, commit_bytes: most that one transaction carries.
        most_floor_s: the wait between two commits under load rises up to this.
    """

    window_requests: int
    window_bytes: int
    max_result_bytes: int
    batch_bytes: int
    commit_requests: int
    commit_bytes: int
    most_floor_s: float


class Basis(Protocol):
    """What decisions rest on."""

    def context(self) -> AdmissionContext:
        """Give all of it; the same object until it changes."""
        ...

    def refresh_keys(self, context: AdmissionContext) -> Awaitable[None] | None:
        """Give what to await before an unknown key is final; None if it is."""
        ...

    async def confirm_view(self) -> None:
        """Return once the control view has passed the topic's present end."""
        ...


class InlineModules(Protocol):
    """Modules that came with requests, for the sandbox."""

    def hold_inline(self, s256: bytes, module: bytes) -> None:
        """Keep an inline module's bytes."""
        ...

    def release_inline(self, s256: bytes) -> None:
        """Let one hold go."""
        ...


class News(Protocol):
    """Who hears what becomes of lanes."""

    def committed(self, partition: int, tally: Tally, seconds: float) -> None:
        """Count a committed transaction that took so long."""
        ...

    def appended(self, appended_ms: int, asked_ms: int) -> None:
        """Take note of the brokers' time of an append, and of ours before it."""

    def gave_up(
        self, lane: Lane, error: FencedError | BrokerRefusedError | TransientError
    ) -> None:
        """Take note that a lane gave its producer up and will begin anew."""

    def changed(self, lane: Lane) -> None:
        """Take note of the lane's new state."""
        ...

    def failed(self, lane: Lane, error: BaseException) -> None:
        """Take note that the lane halted, and why."""
        ...


class LaneWorld(Protocol):
    """The worker, as a lane sees it: ports, identity and shared state."""

    @property
    def settings(self) -> LaneSettings:
        """Numbers that all lanes share."""
        ...

    @property
    def sandbox(self) -> Sandbox:
        """Where jobs run."""
        ...

    @property
    def prover(self) -> GapProver:
        """Who proves gaps."""
        ...

    @property
    def basis(self) -> Basis:
        """What decisions rest on."""
        ...

    @property
    def modules(self) -> InlineModules:
        """Who keeps what requests bring along."""
        ...

    @property
    def news(self) -> News:
        """Who is told what happens."""
        ...

    @property
    def process_key(self) -> Ed25519PrivateKey:
        """The key that signs seals."""
        ...

    @property
    def replay_budget(self) -> ReplayBudget:
        """Memory for spent tokens, shared by all lanes."""
        ...

    async def hold_cluster(self) -> None:
        """Return if the worker's own cluster answers still; ask before each fence.

        Raises:
            BrokerRefusedError: another does.
            UnavailableError: none does.
        """

    def expected(self, partition: int) -> Expected:
        """Give what the log of a partition must be."""
        ...

    def reader(self) -> LogReader:
        """Give a reader for recovery."""
        ...

    def writer(self, partition: int, batch_bytes: int) -> TransactionalWriter:
        """Give a new writer that has fenced nobody yet."""
        ...

    def opening(self, term: int, head: LaneHead) -> LaneAcquired:
        """Give a term's lane.acquired leaf; seq and prev are the lane's."""
        ...

    def identity(
        self, partition: int, log_id: bytes, term: int, max_result_bytes: int
    ) -> LaneIdentity:
        """Give a lane's constants during a term."""
        ...

    def now_ms(self) -> int:
        """Give the worker's clock, milliseconds since 1970 UTC."""
        ...

    def seek(self, partition: int, offset: int) -> None:
        """Have records fetched from this offset on."""
        ...
