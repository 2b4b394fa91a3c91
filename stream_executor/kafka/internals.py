"""Everything that we touch behind aiokafka's public names, in one place.

aiokafka 0.14 keeps five things to itself that the design needs: how long it sleeps
while the last transaction's markers are written, the moment at which a transactional
request left us in doubt, a way to drop a producer without finishing its work, which
connection it uses, and what a broker answers to a token. ``probe`` refuses to start
when a newer release has moved one of them.

Not here: when to use them (``writer`` decides).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from aiokafka import AIOKafkaProducer, conn, errors
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.producer import sender
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import (
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
)

from stream_executor.model.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_TRANSACTIONAL: Final = (
    InitProducerIdRequest,
    AddPartitionsToTxnRequest,
    ProduceRequest,
    EndTxnRequest,
)
# EndTxn answers that say "not done, ask again": CONCURRENT_TRANSACTIONS and
# COORDINATOR_LOAD_IN_PROGRESS. After any other refusal the decision may be written.
_END_TXN_CERTAIN: Final = frozenset({0, 14, 51})

# Tasks that outlive the deadline of a `discard`; kept here so that they are not
# collected half done.
_lingering: set[asyncio.Task[None]] = set()


def probe() -> None:
    """Assert that aiokafka is still built the way this file relies on.

    Raises:
        ConfigError: a name has moved; the installed aiokafka is not one we know. Or
            assertions are switched off.
    """
    if not __debug__:
        raise ConfigError(
            "aiokafka checks its own state by assert: "
            "run Python without -O and PYTHONOPTIMIZE"
        )
    handler = sender.AddPartitionsToTxnHandler.handle_response.__code__
    known = (
        isinstance(getattr(sender, "BACKOFF_OVERRIDE", None), float)
        and "BACKOFF_OVERRIDE" in handler.co_names
        and "send" in vars(AIOKafkaClient)
        and "_conns" in AIOKafkaClient.__init__.__code__.co_names
        and "_sender" in AIOKafkaProducer.__init__.__code__.co_names
        and "_txn_manager" in AIOKafkaProducer.__init__.__code__.co_names
        and "_token_sent" in conn.OAuthAuthenticator.__init__.__code__.co_names
    )
    if not known:
        raise ConfigError(
            "the installed aiokafka is not built as 0.14 is: expected BACKOFF_OVERRIDE "
            "in its sender and AIOKafkaClient.send; install aiokafka>=0.14,<0.15"
        )


def connection_to(client: AIOKafkaClient, node: int) -> object | None:
    """Give the connection that fetches from a node go over; another after each break.

    aiokafka connects anew without a word. None if there is none now.
    """
    connections: dict[Any, object] = client._conns  # noqa: SLF001
    return connections.get((node, ConnectionGroup.DEFAULT))


def shorten_marker_wait(seconds: float) -> None:
    """Set how long aiokafka sleeps when the last transaction is still being marked.

    Its 20 ms are most of a transaction's time: 24 ms with them, 2 to 4 ms with 0.5 to
    1 ms (docs/adr/0012). The setting is aiokafka's and so the process's.
    """
    probe()
    sender.BACKOFF_OVERRIDE = seconds


def refuse_challenges() -> None:
    """Have a refused OAUTHBEARER token fail, once a process.

    A broker refuses a token with a challenge (RFC 7628, 3.2.2), not an error code.
    aiokafka takes that for success: the connection then answers every request with
    rubbish, and the client tries for ever.
    """
    probe()
    conn.OAuthAuthenticator.step = _step


async def _step(self: Any, payload: bytes | None) -> tuple[bytes, bool] | None:
    if payload:
        status = payload[:64].decode("ascii", "replace")
        raise errors.SaslAuthenticationFailed(f"the token is refused: {status}")
    answer: tuple[bytes, bool] | None = await _aiokafkas_step(self, payload)
    return answer


_aiokafkas_step = conn.OAuthAuthenticator.step


def watch(
    producer: AIOKafkaProducer,
    doubt: Callable[[str], None],
    compare: Callable[[str], None],
) -> None:
    """Report every transactional request of which the outcome is unknown.

    aiokafka logs a lost connection or a time-out and sends the request again. A late
    first EndTxn can then end the *next* transaction half written (Jepsen,
    Bufstream 0.1.0; ``tests/faults/test_writer_faults.py`` makes it happen), so each
    such request goes through here.

    Args:
        producer: a producer that has not started.
        doubt: called with what happened, at once, from the task that sent.
        compare: given the id of the cluster in which it is about to fence; raises if
            it must not. Connections that others hold may lead to another one.
    """
    send = producer.client.send

    async def watched(
        node_id: Any, request: Any, *, group: Any = ConnectionGroup.DEFAULT
    ) -> Any:
        if isinstance(request, FindCoordinatorRequest | InitProducerIdRequest):
            described = await send(node_id, MetadataRequest([]), group=group)
            compare(described.cluster_id)
        if not isinstance(request, _TRANSACTIONAL):
            return await send(node_id, request, group=group)
        name = type(request).__name__
        try:
            response = await send(node_id, request, group=group)
        except BaseException as error:  # cancelled in flight leaves the same doubt
            doubt(f"{name}: {error!r}")
            raise
        if (
            isinstance(request, EndTxnRequest)
            and response.error_code not in _END_TXN_CERTAIN
        ):
            doubt(f"{name}: the broker answered error {response.error_code}")
        return response

    producer.client.send = watched


def discard(producer: AIOKafkaProducer) -> asyncio.Task[None]:
    """Drop a producer without flushing, aborting or committing anything; at once.

    Its connections are closed first, so that nothing more of it reaches a broker and
    its own tasks fail instead of retrying. Left alone it would go on to send what was
    under way as soon as the broker is back.

    Returns:
        The clean-up, to be awaited for as long as the caller likes; it raises nothing
        and ends by itself.
    """
    producer._closed = True  # noqa: SLF001  # or its destructor complains
    task = asyncio.create_task(_bury(producer))
    _lingering.add(task)
    task.add_done_callback(_forget)
    return task


async def _bury(producer: AIOKafkaProducer) -> None:
    work = producer._sender.sender_task  # noqa: SLF001
    if work is not None:
        work.cancel()
    connections = list(producer.client._conns.values())  # noqa: SLF001
    for connection in connections:
        connection.close()
    if work is not None:
        with suppress(Exception, asyncio.CancelledError):
            await work
    with suppress(Exception):
        await producer.client.close()
    # Look at what failed inside, so that asyncio does not log it as forgotten.
    inner = [
        batch._drain_waiter  # noqa: SLF001
        for batches in producer._message_accumulator._batches.values()  # noqa: SLF001
        for batch in batches
    ]
    if producer._txn_manager is not None:  # noqa: SLF001
        inner.append(producer._txn_manager._transaction_waiter)  # noqa: SLF001
    for future in inner:
        if future is not None and future.done() and not future.cancelled():
            future.exception()


async def within(deadline_s: float, closing: Coroutine[Any, Any, None]) -> None:
    """Await a clean-up for at most a while; never raise, never hang.

    What has not ended by then goes on in the background.
    """
    task = asyncio.create_task(closing)
    _lingering.add(task)
    task.add_done_callback(_forget)
    await asyncio.wait([task], timeout=deadline_s)


def _forget(task: asyncio.Task[None]) -> None:
    _lingering.discard(task)
    if not task.cancelled():
        task.exception()  # a failed clean-up changes nothing: the other side times out
