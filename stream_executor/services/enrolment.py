"""Keys that count: the operator enrols them on the control topic, and retires them.

A retired key never comes back; what it signed before its retirement stays believed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stream_executor.services.speaking import speaking

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from stream_executor.kafka.connection import KafkaConnection
    from stream_executor.model.control import KeyPurpose
    from stream_executor.modules.view import ControlView, EnrolledKey


async def enrol(
    connection: KafkaConnection,
    topic: str,
    operator: Ed25519PrivateKey,
    operator_key: bytes,
    purpose: KeyPurpose,
    public_key: bytes,
    name: str,
) -> bool:
    """Make a key valid for its purpose; False if it is valid already.

    Args:
        connection: the brokers.
        topic: the control topic.
        operator: the operator's private key.
        operator_key: its public key, as the deployment's trust root says it.
        purpose: what the key may sign.
        public_key: raw Ed25519 public key.
        name: for people.

    Raises:
        OrderRefusedError: the key was retired, or the signer is not the operator.
        UnavailableError, BrokerRefusedError, IndefiniteError: Kafka's.
    """
    async with speaking(connection, topic, operator_key, operator) as speaker:
        return await speaker.say(
            lambda: speaker.orders.enrol(purpose, public_key, name),
            lambda: _valid(speaker.view, purpose, public_key),
        )


async def retire(
    connection: KafkaConnection,
    topic: str,
    operator: Ed25519PrivateKey,
    operator_key: bytes,
    purpose: KeyPurpose,
    public_key: bytes,
    reason: str,
) -> bool:
    """End a key's validity for good; False if it had ended.

    Raises:
        LookupError: it was never enrolled for this purpose.
        OrderRefusedError, UnavailableError, BrokerRefusedError, IndefiniteError: as
            ``enrol``.
    """
    async with speaking(connection, topic, operator_key, operator) as speaker:
        if _enrolled(speaker.view, purpose, public_key) is None:
            raise LookupError(public_key.hex())
        return await speaker.say(
            lambda: speaker.orders.retire(purpose, public_key, reason),
            lambda: not _valid(speaker.view, purpose, public_key),
        )


def _enrolled(
    view: ControlView, purpose: KeyPurpose, public_key: bytes
) -> EnrolledKey | None:
    keys = view.enrolled_keys(purpose)
    return next((key for key in keys if key.public_key == public_key), None)


def _valid(view: ControlView, purpose: KeyPurpose, public_key: bytes) -> bool:
    key = _enrolled(view, purpose, public_key)
    return key is not None and key.retired_at is None
