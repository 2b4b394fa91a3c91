"""Read 32-byte keys and secrets from the texts that people keep them in.

PEM (what openssl writes), base64 in either alphabet with or without padding, or hex.
No message quotes the text: it may be a secret.
"""

from __future__ import annotations

import base64
import re

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    load_pem_private_key,
    load_pem_public_key,
)

_HEX = re.compile(r"[0-9a-fA-F]{64}")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{43}=?")


def read_bytes(text: str) -> bytes:
    """Give the 32 bytes of a base64 or hex text.

    Raises:
        ValueError: it is neither, or not of 32 bytes.
    """
    text = text.strip()
    if _HEX.fullmatch(text):
        return bytes.fromhex(text)
    if _BASE64.fullmatch(text):
        standard = text.rstrip("=").replace("-", "+").replace("_", "/") + "="
        data = base64.b64decode(standard)
        if base64.b64encode(data).decode() != standard:
            raise ValueError("expected canonical base64: stray bits at its end")
        return data
    raise ValueError("expected 32 bytes in base64 or hex")


def read_public_key(text: str) -> bytes:
    """Give an Ed25519 public key's 32 bytes.

    Raises:
        ValueError: the text holds none.
    """
    if "-----BEGIN" not in text:
        raw = read_bytes(text)
        Ed25519PublicKey.from_public_bytes(raw)
        return raw
    try:
        key = load_pem_public_key(text.strip().encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("expected a public key in PEM") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("expected an Ed25519 key")  # noqa: TRY004 - wrong value
    return key.public_bytes_raw()


def read_private_key(text: str) -> Ed25519PrivateKey:
    """Give an Ed25519 private key.

    Raises:
        ValueError: the text holds none, or one under a passphrase.
    """
    if "-----BEGIN" not in text:
        return Ed25519PrivateKey.from_private_bytes(read_bytes(text))
    try:
        key = load_pem_private_key(text.strip().encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(
            "expected a private key in PEM, without a passphrase"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("expected an Ed25519 key")  # noqa: TRY004 - wrong value
    return key
