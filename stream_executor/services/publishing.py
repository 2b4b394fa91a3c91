"""Publishing and revoking modules: the bytes first, then the signed word about them.

Bytes lie in the modules topic and mean nothing until an Administrator's record in the
control chain names their offset and digest. How it is said
is ``services.speaking``.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

from stream_executor.kafka.reader import PartitionReader
from stream_executor.model.request import ModuleDigest, ModuleName
from stream_executor.modules.orders import OrderRefusedError
from stream_executor.modules.store import ModuleStore
from stream_executor.sandbox.local import refusal_of
from stream_executor.services.speaking import speaking
from stream_executor.wire.modules import encode_module

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from stream_executor.kafka.connection import KafkaConnection
    from stream_executor.kafka.topics import TopicNames
    from stream_executor.model.codes import Code
    from stream_executor.model.job import Limits
    from stream_executor.modules.view import ControlView, PublishedModule

_PARTITION = 0
_MAX_RECORD_BYTES = 63 << 20  # wasm.modules takes 64 MiB


class ModuleRefusedError(OrderRefusedError):
    """No worker would run the module; ``remedy`` explains the code it would answer."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(f"{code.value}: {message}")
        self.remedy = f"wasm-executor explain {code.value}"


class Publication(msgspec.Struct, frozen=True):
    """What was published; ``new`` is False if it had been before, just so."""

    name: ModuleName
    s256: bytes
    size_bytes: int
    modules_offset: int
    new: bool


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
    hard_max: Limits | None = None,
) -> Publication:
    """Publish a module; again with the same bytes it changes nothing but the grant.

    Args:
        connection: the brokers.
        topics: where modules and control records go.
        operator_key: the deployment's trust root (32 bytes).
        administrator: an enrolled Administrator's key.
        name: what it shall be called.
        module: a WebAssembly binary.
        grant: limits above the ceilings for this module; None takes an earlier
            grant back.
        hard_max: what no grant may exceed; None leaves that to the workers, which
            never give more.

    Raises:
        ModuleRefusedError: workers would refuse to run it; nothing was written.
        OrderRefusedError: the chain would not accept it (another module has the
            name, the module is revoked, the key is not enrolled).
        TransientError: the module could not be tried here.
        UnavailableError, BrokerRefusedError, IndefiniteError: Kafka's.
    """
    s256 = sha256(module).digest()
    async with speaking(
        connection,
        topics.control,
        operator_key,
        administrator,
        max_record_bytes=_MAX_RECORD_BYTES,
    ) as speaker:
        view, orders = speaker.view, speaker.orders
        if s256 in view.revoked_modules:
            message = f"{s256.hex()} is revoked, for good: publish other bytes"
            raise OrderRefusedError(message)

        def order(offset: int) -> bytes:
            return orders.publish(
                name, s256, len(module), offset, grant=grant, hard_max=hard_max
            )

        def said() -> bool:
            now = view.resolve(name)
            return now is not None and now.s256 == s256 and now.grant == grant

        before = view.resolve(name)
        if before is not None:
            offset = before.modules_offset
        else:
            order(0)  # before the upload, so that a refusal leaves nothing behind
            refusal = await refusal_of(module)  # a version is for good: it must run
            if refusal is not None:
                raise ModuleRefusedError(refusal.code, refusal.message)
            appended = await speaker.appender.append(
                topics.modules,
                _PARTITION,
                encode_module(module),
                key=s256.hex().encode(),
            )
            offset = appended.offset
        new = await speaker.say(lambda: order(offset), said)
        return Publication(name, s256, len(module), offset, new=new)


async def revoke(
    connection: KafkaConnection,
    topics: TopicNames,
    operator_key: bytes,
    administrator: Ed25519PrivateKey,
    ref: ModuleName | ModuleDigest,
    reason: str,
) -> tuple[bytes, bool]:
    """Forbid a module's execution by whatever name, inline too, for good.

    Args:
        connection: as ``publish``.
        topics: as ``publish``.
        operator_key: as ``publish``.
        administrator: as ``publish``.
        ref: which; a digest may be one that was never published.
        reason: recorded, for people.

    Returns:
        Its digest, and whether it was this call that revoked it.

    Raises:
        LookupError: no module has this name.
        OrderRefusedError, UnavailableError, BrokerRefusedError, IndefiniteError: as
            ``publish``.
    """
    async with speaking(
        connection, topics.control, operator_key, administrator
    ) as speaker:
        view = speaker.view
        if isinstance(ref, ModuleDigest):
            s256 = ref.s256
        elif found := view.resolve(ref):
            s256 = found.s256
        else:
            raise LookupError(f"{ref} was never published")
        new = await speaker.say(
            lambda: speaker.orders.revoke(s256, reason),
            lambda: s256 in view.revoked_modules,
        )
        return s256, new
