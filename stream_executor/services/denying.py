"""Denials: one word of an Administrator that the whole fleet obeys within a second.

Not here: what a denial does to a request (``auth.deny``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stream_executor.services.speaking import speaking

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from stream_executor.kafka.connection import KafkaConnection
    from stream_executor.model.control import DenySubject
    from stream_executor.modules.view import ControlView


async def deny(
    connection: KafkaConnection,
    topic: str,
    operator_key: bytes,
    administrator: Ed25519PrivateKey,
    subject: DenySubject,
    value: str,
    reason: str,
) -> bool:
    """Refuse a subject, issuer, key or module from now on; False if it was denied.

    Args:
        connection: the brokers.
        topic: the control topic.
        operator_key: the deployment's trust root (32 bytes).
        administrator: an enrolled Administrator's key.
        subject: what ``value`` names.
        value: exact, no pattern; a module's digest in lower hex.
        reason: recorded, for people.

    Raises:
        OrderRefusedError: the chain would not accept it.
        UnavailableError, BrokerRefusedError, IndefiniteError: Kafka's.
    """
    async with speaking(connection, topic, operator_key, administrator) as speaker:
        return await speaker.say(
            lambda: speaker.orders.deny(subject, value, reason),
            lambda: _denied(speaker.view, subject, value),
        )


async def allow(
    connection: KafkaConnection,
    topic: str,
    operator_key: bytes,
    administrator: Ed25519PrivateKey,
    subject: DenySubject,
    value: str,
) -> bool:
    """End a denial; False if there is none. Arguments and errors as ``deny``."""
    async with speaking(connection, topic, operator_key, administrator) as speaker:
        return await speaker.say(
            lambda: speaker.orders.allow(subject, value),
            lambda: not _denied(speaker.view, subject, value),
        )


def _denied(view: ControlView, subject: DenySubject, value: str) -> bool:
    return any((one.subject, one.value) == (subject, value) for one in view.denials())
