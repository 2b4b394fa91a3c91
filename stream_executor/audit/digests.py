"""Content digests: what the audit says of bytes that it must not hold.

A digest of content is salted, so that nobody guesses a short body from the log, and
the salt is derived, so that it need not be kept: whoever holds the result has it,
and so can show with public data alone what was asked and answered.

    salt   = HMAC-SHA-256(deployment secret, log_id || u64be(offset))[:16]
    digest = SHA-256(tag || 0x00 || salt || content)

Source: docs/wire-format.md, "Content digests".
"""

from __future__ import annotations

from hashlib import sha256

BODY_TAG = b"wx/body/v1"
INPUT_TAG = b"wx/input/v1"
OUTPUT_TAG = b"wx/output/v1"
SEED_TAG = b"wx/seed/v1"
SALT_BYTES = 16
_BLOCK = 64


class Salter:
    """Gives the salt of each request of one log.

    The HMAC's two keyed blocks are hashed once here, not once a request
    (RFC 2104 section 4).
    """

    def __init__(self, secret: bytes, log_id: bytes) -> None:
        key = sha256(secret).digest() if len(secret) > _BLOCK else secret
        key = key.ljust(_BLOCK, b"\0")
        self._inner = sha256(bytes(b ^ 0x36 for b in key) + log_id)
        self._outer = sha256(bytes(b ^ 0x5C for b in key))

    def salt(self, offset: int) -> bytes:
        """Give the 16-byte salt of the request at this offset."""
        inner = self._inner.copy()
        inner.update(offset.to_bytes(8, "big"))
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()[:SALT_BYTES]


def content_digest(tag: bytes, salt: bytes, content: bytes) -> bytes:
    """Give the salted digest (32 bytes) of some content."""
    return sha256(b"%b\0%b%b" % (tag, salt, content)).digest()


def guest_seed(module_s256: bytes, body: bytes) -> bytes:
    """Give the 32 bytes that seed a guest's randomness.

    From the module and the exact request bytes alone, so that a re-execution
    without the deployment secret gives the same bytes.
    """
    return sha256(b"%b\0%b%b" % (SEED_TAG, module_s256, body)).digest()
