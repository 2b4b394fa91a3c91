"""Ed25519 signatures in the logs: who may say what, and how it is checked.

Every signed record ends in a 64-byte signature over a tag that names its kind and
every byte before it (``wire.avro.signed_part``). A seal is believed under a process
key that carries a fleet key's certificate; the fleet key is believed because the
control chain enrolled it, which only the operator key can.

Whether a key was enrolled at that time is the caller's question
(``modules.view.ControlView``); here is only the mathematics.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from stream_executor.model.audit import Certificate
from stream_executor.model.errors import IntegrityError
from stream_executor.wire.avro import (
    SIGNATURE_BYTES,
    encode,
    signed_part,
    signing_tag,
)

if TYPE_CHECKING:
    import msgspec


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """Give the raw 32-byte public key."""
    return key.public_key().public_bytes_raw()


def signed(record: msgspec.Struct, key: Ed25519PrivateKey) -> bytes:
    """Give the record's bytes with its signature in place.

    The record's own ``signature`` field is ignored; it must be the last one.
    """
    value = encode(record)
    return value[:-SIGNATURE_BYTES] + key.sign(signed_part(value))


def verify_signed(value: bytes, public_key: bytes) -> None:
    """Verify a signed record's bytes.

    Raises:
        IntegrityError: the signature is not this key's over these bytes.
    """
    _verify(public_key, value[-SIGNATURE_BYTES:], signed_part(value))


def _certified(process_key: bytes, fleet_key: bytes, certified_ms: int) -> bytes:
    return (
        signing_tag("certificate")
        + process_key
        + fleet_key
        + certified_ms.to_bytes(8, "big")
    )


def certify(
    process_key: bytes, fleet: Ed25519PrivateKey, certified_ms: int
) -> Certificate:
    """Give the fleet key's certificate for a process key."""
    fleet_key = public_bytes(fleet)
    signature = fleet.sign(_certified(process_key, fleet_key, certified_ms))
    return Certificate(process_key, fleet_key, certified_ms, signature)


def verify_certificate(holder: Any) -> None:
    """Verify the certificate in a certificate, a seal or a lane.acquired leaf.

    Raises:
        IntegrityError: it is not the named fleet key's.
    """
    if holder.certified_ms < 0:  # an Avro long may be; what is signed is unsigned
        text = f"a certificate is dated {holder.certified_ms}"
        raise IntegrityError(text)
    _hold_certificate(
        holder.process_key, holder.fleet_key, holder.certified_ms, holder.certificate
    )


@lru_cache(maxsize=1024)  # a process seals thousands of times under one certificate
def _hold_certificate(
    process_key: bytes, fleet_key: bytes, certified_ms: int, certificate: bytes
) -> None:
    certified = _certified(process_key, fleet_key, certified_ms)
    _verify(fleet_key, certificate, certified)  # what it raises is not remembered


def _verify(public_key: bytes, signature: bytes, message: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        text = f"a signature does not verify under key {public_key.hex()[:16]}…"
        raise IntegrityError(text) from error
