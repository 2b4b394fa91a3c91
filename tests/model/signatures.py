"""Signatures that this process made or verified before are not verified again.

Verification is pure and costs a quarter of a millisecond; the lane's recovery asks for
the same seals at every take-over. Whether it asks at all is for tests/unit/audit.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from stream_executor.audit import signing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_known: set[tuple[bytes, bytes, bytes]] = set()
_MOST = 100_000
_verify = signing._verify


def _verify_once(public_key: bytes, signature: bytes, message: bytes) -> None:
    said = (public_key, signature, message)
    if said not in _known:
        _verify(public_key, signature, message)
        _note(said)


def _note(said: tuple[bytes, bytes, bytes]) -> None:
    if len(_known) > _MOST:
        _known.clear()
    _known.add(said)


class NotedKey:
    """A process key whose signatures are known to be right."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self._public = signing.public_bytes(key)

    def sign(self, message: bytes) -> bytes:
        """Sign, and remember."""
        signature = self._key.sign(message)
        _note((self._public, signature, message))
        return signature


@contextmanager
def verified_once() -> Iterator[None]:
    """Within, no signature is verified twice."""
    signing._verify = _verify_once
    try:
        yield
    finally:
        signing._verify = _verify
