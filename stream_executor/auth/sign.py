"""Sign requests, as the SDK, the command line and the tests do.

A worker never signs a request; it only verifies (``token``).

Source: RFC 7515 section 7.1, RFC 8037 section 2.
"""

from __future__ import annotations

import secrets
from hashlib import sha256
from typing import TYPE_CHECKING

import jwt

from stream_executor.auth.claims import KID
from stream_executor.auth.jose import encode_segment
from stream_executor.auth.jwks import algorithms_of, read_private_key
from stream_executor.auth.keys import HMAC_ALGORITHM, validate_secret
from stream_executor.model.errors import ConfigError

if TYPE_CHECKING:
    from stream_executor.auth.jwks import PrivateKey

DEFAULT_LIFETIME_S = 120
_JTI_BYTES = 18  # 144 bits, 24 characters


class RequestSigner:
    """Signs one request at a time for one subject of one issuer.

    Attributes:
        issuer, subject, audience: the claims of every token.
        algorithm: the header's ``alg``.
        kid: the header's ``kid``; None leaves it out (HS256 only).
    """

    def __init__(
        self,
        key: bytes | PrivateKey,
        *,
        algorithm: str,
        issuer: str,
        subject: str,
        audience: str,
        kid: str | None = None,
    ) -> None:
        """Bind a key; ``from_secret`` and ``from_private_key`` read one first."""
        self.issuer = issuer
        self.subject = subject
        self.audience = audience
        self.algorithm = algorithm
        self.kid = kid
        self._key = key

    @classmethod
    def from_secret(
        cls,
        secret: str | bytes,
        *,
        issuer: str,
        subject: str,
        audience: str,
        kid: str | None = None,
    ) -> RequestSigner:
        """Sign with HS256 under the deployment's ``JWT_SECRET``.

        Raises:
            ConfigError: the secret is one that no worker accepts.
        """
        key = secret.encode() if isinstance(secret, str) else secret
        validate_secret(key)
        return cls(
            key,
            algorithm=HMAC_ALGORITHM,
            issuer=issuer,
            subject=subject,
            audience=audience,
            kid=kid,
        )

    @classmethod
    def from_private_key(
        cls,
        document: str | bytes,
        *,
        kid: str,
        issuer: str,
        subject: str,
        audience: str,
        algorithm: str | None = None,
    ) -> RequestSigner:
        """Sign with a private key.

        Args:
            document: unencrypted PEM (PKCS 8), or a private OKP JWK (Ed25519).
            kid: how the JWKS names the public key.
            issuer: the ``iss`` of every token; one that the key may speak for.
            subject: the ``sub`` of every token.
            audience: the ``aud`` of every token.
            algorithm: PS256 instead of RS256 for an RSA key; others follow from the
                key.

        Raises:
            ConfigError: the document is no such key, or the key has another
                algorithm.
        """
        if not KID.fullmatch(kid):
            raise ConfigError("a kid has 1 to 64 characters of A-Z a-z 0-9 . _ -")
        key = read_private_key(document)
        algorithms = algorithms_of(key.public_key())
        if algorithm is not None and algorithm not in algorithms:
            raise ConfigError(f"the private key is no {algorithm} key")
        return cls(
            key,
            algorithm=algorithm or algorithms[0],
            issuer=issuer,
            subject=subject,
            audience=audience,
            kid=kid,
        )

    def sign(
        self,
        topic: str,
        partition: int,
        value: bytes,
        *,
        now_s: int,
        jti: str | None = None,
        lifetime_s: int = DEFAULT_LIFETIME_S,
        role: str = "Agent",
    ) -> bytes:
        """Sign one record; give the compact token, without ``Bearer``.

        Args:
            topic: the requests topic.
            partition: where the record will be produced; it is valid nowhere else.
            value: the record's exact value.
            now_s: the signer's clock, seconds since 1970 UTC (``iat``).
            jti: 16 to 64 characters, never used before; None makes a random one.
            lifetime_s: ``exp - iat``.
            role: the role to claim.
        """
        claims = {
            "iss": self.issuer,
            "sub": self.subject,
            "aud": self.audience,
            "iat": now_s,
            "exp": now_s + lifetime_s,
            "jti": jti or secrets.token_urlsafe(_JTI_BYTES),
            "role": role,
            "wx": {
                "v": 1,
                "topic": topic,
                "partition": partition,
                "body_s256": encode_segment(sha256(value).digest()).decode(),
            },
        }
        headers = None if self.kid is None else {"kid": self.kid}
        return jwt.encode(claims, self._key, self.algorithm, headers).encode()
