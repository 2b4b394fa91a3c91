from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from stream_executor.key_text import read_bytes, read_private_key, read_public_key

RAW = bytes(range(224, 256))
KEY = Ed25519PrivateKey.from_private_bytes(RAW)
PUBLIC = KEY.public_key().public_bytes_raw()
PRIVATE_PEM = KEY.private_bytes(
    Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
).decode()
PUBLIC_PEM = (
    KEY.public_key()
    .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    .decode()
)


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(RAW).decode(),
        base64.urlsafe_b64encode(RAW).decode().rstrip("="),
        RAW.hex(),
        RAW.hex().upper() + "\n",
    ],
)
def test_32_bytes_in_any_of_their_texts(text: str) -> None:
    assert read_bytes(text) == RAW
    assert read_private_key(text).private_bytes_raw() == RAW


def test_keys_in_pem() -> None:
    assert read_private_key(PRIVATE_PEM).private_bytes_raw() == RAW
    assert read_public_key(PUBLIC_PEM) == PUBLIC
    assert read_public_key(PUBLIC.hex()) == PUBLIC


@pytest.mark.parametrize(
    "text",
    ["", "short", RAW.hex()[:-2], base64.b64encode(RAW + b"x").decode(), "ä" * 43],
)
def test_other_texts_are_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        read_bytes(text)
    assert not text or text not in str(caught.value)


def test_stray_bits_in_base64_are_refused() -> None:
    text = base64.b64encode(bytes(32)).decode()
    assert text.endswith("A=")
    with pytest.raises(ValueError, match="canonical"):
        read_bytes(text[:-2] + "B=")


def test_pem_of_another_kind_is_refused() -> None:
    other = generate_private_key(SECP256R1())
    private = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    locked = KEY.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")
    )
    public = other.public_key().public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    )
    for text in (private.decode(), locked.decode(), PUBLIC_PEM):
        with pytest.raises(ValueError, match="expected"):
            read_private_key(text)
    for text in (public.decode(), PRIVATE_PEM):
        with pytest.raises(ValueError, match="expected"):
            read_public_key(text)
