"""Publishing modules: the bytes first, then the signed word about them.

Bytes lie in the modules topic and mean nothing until an Administrator's record in the
control chain names their offset and digest. If somebody else's record came first, ours
is stale and is built anew on top of theirs.
"""

from __future__ import annotations

import time
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

from stream_executor.kafka.appender import Appender
from stream_executor.kafka.reader import PartitionReader
from stream_executor.model.errors import UnavailableError
from stream_executor.model.request import ModuleName
from stream_executor.modules.orders import Orders
from stream_executor.modules.store import ModuleStore
from stream_executor.modules.view import ControlView
from stream_executor.services.control_reading import read_control as take_control
from stream_executor.wire.modules import encode_module

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from stream_executor.kafka.connection import KafkaConnection
    from stream_executor.kafka.topics import TopicNames
    from stream_executor.model.job import Limits
    from stream_executor.modules.view import PublishedModule

_PARTITION = 0
_TRIES = 5
_MAX_RECORD_BYTES = 63 << 20  # wasm.modules takes 64 MiB


class Publication(msgspec.Struct, frozen=True):
    """What was published; ``new`` is False if it had been before, just so."""

    name: ModuleName
    s256: bytes
    size_bytes: int
    modules_offset: int
    new: bool


async def read_control(
    connection: KafkaConnection, topic: str, operator_key: bytes
) -> ControlView:
    """Read everything operators said so far.

    Raises:
        UnavailableError: no broker answers.
        BrokerRefusedError: no such topic, or no right to read it.
        IntegrityError: the chain was begun by another operator.
    """
    view = ControlView(operator_key)
    async with PartitionReader(connection) as reader:
        await take_control(reader, topic, view)
    return view


async def read_module(
    connection: KafkaConnection,
    topics: TopicNames,
    view: ControlView,
    module: PublishedModule,
) -> bytes:
    """Give a published module's bytes, compared with their digest.

    Raises:
        UnavailableError, IntegrityError: as ``ModuleStore.fetch``.
    """
    async with PartitionReader(connection) as reader:
        store = ModuleStore(view, reader, topics.modules, _MAX_RECORD_BYTES)
        return await store.fetch(module)


async def publish(
    connection: KafkaConnection,
    topics: TopicNames,
    operator_key: bytes,
    administrator: Ed25519PrivateKey,
    name: ModuleName,
    module: bytes,
    grant: Limits | None = None,
) -> Publication:
    """Publish a module; again with the same bytes it changes nothing but the grant.

    Args:
        connection: the brokers.
        topics: where modules and control records go.
        operator_key: the deployment's trust root (32 bytes).
        administrator: an enrolled Administrator's key.
        name: what it shall be called.
        module: a WebAssembly binary.
        grant: limits above the ceilings for this module.

    Raises:
        OrderRefusedError: the chain would not accept it (another module has the
            name, the key is not enrolled).
        UnavailableError, BrokerRefusedError, IndefiniteError: Kafka's.
    """
    s256 = sha256(module).digest()
    async with (
        PartitionReader(connection) as reader,
        Appender(
            connection, role="publish", max_record_bytes=_MAX_RECORD_BYTES
        ) as appender,
    ):
        view = ControlView(operator_key)
        await take_control(reader, topics.control, view)
        before = view.resolve(name)
        if before is not None and before.s256 == s256 and before.grant == grant:
            return Publication(
                name, s256, before.size_bytes, before.modules_offset, new=False
            )
        offset = None if before is None else before.modules_offset
        for _ in range(_TRIES):
            # Asked before the upload, so that a refusal leaves nothing behind.
            orders = Orders(view, administrator, int(time.time() * 1000))
            orders.publish(name, s256, len(module), offset or 0, grant=grant)
            if offset is None:
                appended = await appender.append(
                    topics.modules,
                    _PARTITION,
                    encode_module(module),
                    key=s256.hex().encode(),
                )
                offset = appended.offset
            value = orders.publish(name, s256, len(module), offset, grant=grant)
            await appender.append(topics.control, _PARTITION, value)
            await take_control(reader, topics.control, view)
            said = view.resolve(name)
            if said is not None and said.s256 == s256 and said.grant == grant:
                return Publication(name, s256, len(module), offset, new=True)
    raise UnavailableError(
        f"others keep writing {topics.control}: {name} is unpublished; try again"
    )
