"""Saying something on the control topic: one signed record, until it counts.

A record continues the chain as its signer saw it. If somebody else's came first, ours
is stale: it is built anew on top of theirs.

Not here: what is said (``modules.orders``).
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

from stream_executor.kafka.appender import Appender
from stream_executor.kafka.reader import PartitionReader
from stream_executor.model.errors import UnavailableError
from stream_executor.modules.orders import Orders
from stream_executor.modules.view import ControlView
from stream_executor.services.control_reading import read_control

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from stream_executor.kafka.appender import Appended
    from stream_executor.kafka.connection import KafkaConnection
    from stream_executor.services.control_reading import LogReader

_PARTITION = 0
_TRIES = 5
_MAX_RECORD_BYTES = 1 << 20


class LogAppender(Protocol):
    """Appends single records (``kafka.appender.Appender``)."""

    async def append(
        self, topic: str, partition: int, value: bytes, *, key: bytes | None = None
    ) -> Appended:
        """Append one record; returns once all in-sync replicas have it."""
        ...


class Speaker:
    """One signer at the control topic.

    Args:
        reader, appender: the brokers.
        topic: the control topic.
        view: what was read of it.
        signer: whose word it is.
        now_ms: the signer's clock, milliseconds since 1970 UTC.

    Attributes:
        appender: the brokers, for what goes with the word.
        view: everything said so far, as of the last look.
        orders: builds records that continue the view, in the signer's name.
    """

    def __init__(
        self,
        reader: LogReader,
        appender: LogAppender,
        topic: str,
        view: ControlView,
        signer: Ed25519PrivateKey,
        now_ms: int,
    ) -> None:
        self.appender = appender
        self.view = view
        self.orders = Orders(view, signer, now_ms)
        self._reader = reader
        self._topic = topic

    async def say(self, order: Callable[[], bytes], said: Callable[[], bool]) -> bool:
        """Append what ``order`` builds until ``said``; False if it was said before.

        Raises:
            OrderRefusedError: the chain would not accept it.
            UnavailableError: others kept writing; or a broker is away.
            BrokerRefusedError, IndefiniteError: Kafka's.
        """
        if said():
            return False
        for _ in range(_TRIES):
            await self.appender.append(self._topic, _PARTITION, order())
            await read_control(self._reader, self._topic, self.view)
            if said():
                return True
        raise UnavailableError(f"others keep writing {self._topic}: try again")


@asynccontextmanager
async def speaking(
    connection: KafkaConnection,
    topic: str,
    operator_key: bytes,
    signer: Ed25519PrivateKey,
    *,
    max_record_bytes: int = _MAX_RECORD_BYTES,
) -> AsyncIterator[Speaker]:
    """Read the control topic to its end and give who may speak after it.

    Args:
        connection: the brokers.
        topic: the control topic.
        operator_key: the deployment's trust root (32 bytes).
        signer: the operator's or an enrolled Administrator's key.
        max_record_bytes: of what else the speaker appends.

    Raises:
        UnavailableError: no broker answers.
        BrokerRefusedError: no such topic, or no right to it.
        IntegrityError: the chain was begun by another operator.
    """
    async with (
        PartitionReader(connection) as reader,
        Appender(
            connection, role="publish", max_record_bytes=max_record_bytes
        ) as appender,
    ):
        view = ControlView(operator_key)
        await read_control(reader, topic, view)
        now_ms = time.time_ns() // 1_000_000
        yield Speaker(reader, appender, topic, view, signer, now_ms)


async def read_view(
    connection: KafkaConnection, topic: str, operator_key: bytes
) -> ControlView:
    """Read everything operators said so far.

    Raises:
        UnavailableError, BrokerRefusedError, IntegrityError: as ``speaking``.
    """
    view = ControlView(operator_key)
    async with PartitionReader(connection) as reader:
        await read_control(reader, topic, view)
    return view
