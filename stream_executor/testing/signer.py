"""A signer for tests: a secret of its own, valid tokens, and tokens that are wrong.

    signer = SecretSigner(audience="wasm-executor/tests")
    client = ExecutorClient(bootstrap_servers=…, signer=signer)

Give the executor under test ``JWT_SECRET=signer.secret`` and
``WASM_EXECUTOR_JWT_SECRET_ISSUERS=signer.issuer``.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from stream_executor.auth.sign import RequestSigner

if TYPE_CHECKING:
    from collections.abc import Callable

ISSUER = "tests"
SUBJECT = "test-agent"
_SECRET_BYTES = 40


class SecretSigner:
    """Signs with an HS256 secret that it knows; fits ``ExecutorClient(signer=…)``.

    Attributes:
        secret: for the executor's ``JWT_SECRET``.
        issuer, subject, audience: the claims of every token.
    """

    def __init__(
        self,
        *,
        audience: str,
        issuer: str = ISSUER,
        subject: str = SUBJECT,
        secret: str | None = None,
    ) -> None:
        self.secret = secret or secrets.token_urlsafe(_SECRET_BYTES)
        self.issuer = issuer
        self.subject = subject
        self.audience = audience
        self._signer = RequestSigner.from_secret(
            self.secret, issuer=issuer, subject=subject, audience=audience
        )

    def sign(self, topic: str, partition: int, value: bytes, *, now_s: int) -> bytes:
        """Sign one record, as ``RequestSigner.sign``."""
        return self._signer.sign(topic, partition, value, now_s=now_s)

    def altered(
        self, change: Callable[[str, int, bytes, int], tuple[str, int, bytes, int]]
    ) -> AlteredSigner:
        """Give a signer that signs something else than what is sent.

        Args:
            change: takes topic, partition, value and the time in seconds; gives what
                is signed in their place.
        """
        return AlteredSigner(self, change)


class AlteredSigner:
    """Signs something else than what is sent; made by ``SecretSigner.altered``."""

    def __init__(
        self,
        signer: SecretSigner,
        change: Callable[[str, int, bytes, int], tuple[str, int, bytes, int]],
    ) -> None:
        self._signer = signer
        self._change = change

    def sign(self, topic: str, partition: int, value: bytes, *, now_s: int) -> bytes:
        """Sign what ``change`` makes of the record."""
        topic, partition, value, now_s = self._change(topic, partition, value, now_s)
        return self._signer.sign(topic, partition, value, now_s=now_s)
