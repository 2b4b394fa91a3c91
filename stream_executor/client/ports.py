"""What the SDK needs from the world, as protocols; ``kafka`` and ``auth`` fit them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stream_executor.model.record import Record


class Signer(Protocol):
    """Signs one record; ``auth.sign.RequestSigner`` is one."""

    def sign(self, topic: str, partition: int, value: bytes, *, now_s: int) -> bytes:
        """Give a token that is good for this record alone, without ``Bearer``."""
        ...


class RequestLog(Protocol):
    """The requests topic, for appending."""

    async def partition_count(self) -> int:
        """Give the topic's number of partitions."""
        ...

    async def append(
        self, partition: int, records: Sequence[tuple[bytes, list[tuple[str, bytes]]]]
    ) -> int:
        """Append (value, headers) records as one batch; give the first's offset.

        Offsets are consecutive. Retried inside only where the broker can tell a
        repetition (idempotent producer).

        Raises:
            UnavailableError: certainly nothing was appended.
            IndefiniteError: the batch may or may not have been appended.
            BrokerRefusedError: it was not, and never will be.
        """
        ...

    async def close(self) -> None:
        """Let go; never hangs."""
        ...


class ResultLog(Protocol):
    """The results topic, read committed, from a position fixed at ``start``."""

    async def start(self) -> None:
        """Fix the position at the end of every partition."""
        ...

    async def read(self) -> Sequence[tuple[int, Sequence[Record]]]:
        """Wait for more; give (partition, records in offset order) of each partition.

        May give nothing after some time. The position moves past what was given.

        Raises:
            UnavailableError: not now; the position is kept, call again.
            BrokerRefusedError: not ever.
        """
        ...

    async def close(self) -> None:
        """Let go; never hangs."""
        ...
