"""What this process has verified or decoded before is not verified or decoded again.

Both are pure, and most of a history's time: a lane's recovery asks for the same seals
at every take-over. Whether it asks at all is for tests/unit/audit.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from stream_executor.audit import signing
from stream_executor.wire.avro import Codec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_known: set[tuple[bytes, bytes, bytes]] = set()
_decoded: dict[bytes, Any] = {}
_MOST = 20_000
_verify = signing._verify
_decode = Codec.decode


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


def _decode_once(codec: Codec[Any], value: bytes) -> Any:
    """Values are frozen, so all who ask may have the same one."""
    known = _decoded.get(value)
    if known is None:
        if len(_decoded) > _MOST:
            _decoded.clear()
        known = _decoded[value] = _decode(codec, value)
    return known


@contextmanager
def verified_once() -> Iterator[None]:
    """Within, nothing is verified or decoded twice."""
    signing._verify = _verify_once
    Codec.decode = _decode_once  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        signing._verify = _verify
        Codec.decode = _decode  # type: ignore[method-assign]
