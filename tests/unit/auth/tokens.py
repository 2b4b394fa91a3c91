"""One good token, and the tools to spoil it; shared by the tests of auth."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from functools import cache
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from jwt.algorithms import get_default_algorithms

from stream_executor.auth.jwks import (
    GeneratedKey,
    generate_key,
    jwks,
    public_jwk,
    read_jwk_set,
)
from stream_executor.auth.keys import KeySet, Scope, VerificationKey, secret_key
from stream_executor.auth.token import (
    Place,
    Refusal,
    TokenProfile,
    VerifiedToken,
    verify_token,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stream_executor.model.codes import Code

SECRET = b"Yk0pQ7vN3mB8cL2sW9dF4gH6jR1tX5zK"
PREVIOUS = b"vG7tR2wQ9xZ4cB6nM1kJ8hF3dS5aP0yU"
ISSUER = "https://issuer.example"
AUDIENCE = "wasm-executor/test"
SUBJECT = "team-a/agent-7"
PLACE = Place("wasm.requests", 3)
VALUE = b'{"request_id":"r-1"}'
NOW_S = 1_790_000_000
PROFILE = TokenProfile()
SCOPE = Scope(frozenset({ISSUER}), AUDIENCE)
HEADER = {"alg": "HS256", "typ": "JWT"}
ALGORITHMS = ("EdDSA", "ES256", "RS256", "PS256")


def b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def s256(data: bytes) -> str:
    return b64(hashlib.sha256(data).digest()).decode()


def good_claims(**changes: object) -> dict[str, object]:
    """Give the claims of a good token, some changed; ``...`` leaves one out."""
    claims = {
        "iss": ISSUER,
        "sub": SUBJECT,
        "aud": AUDIENCE,
        "iat": NOW_S,
        "exp": NOW_S + 120,
        "jti": "0123456789abcdef",
        "role": "Agent",
        "wx": good_wx(),
    } | changes
    return {name: value for name, value in claims.items() if value is not ...}


def good_wx(**changes: object) -> dict[str, object]:
    wx = {
        "v": 1,
        "topic": PLACE.topic,
        "partition": PLACE.partition,
        "body_s256": s256(VALUE),
    } | changes
    return {name: value for name, value in wx.items() if value is not ...}


def hs256(secret: bytes = SECRET) -> Callable[[bytes], bytes]:
    return lambda signing_input: hmac.digest(secret, signing_input, "sha256")


def make_token(
    claims: Mapping[str, object] | bytes | None = None,
    header: Mapping[str, object] | bytes | None = None,
    sign: Callable[[bytes], bytes] | None = None,
) -> bytes:
    """Make a compact token; bytes are taken as they are."""
    parts = (HEADER if header is None else header, claims or good_claims())
    segments = (
        b64(part if isinstance(part, bytes) else json.dumps(part).encode())
        for part in parts
    )
    signing_input = b".".join(segments)
    return signing_input + b"." + b64((sign or hs256())(signing_input))


@cache
def pair(algorithm: str) -> GeneratedKey:
    """Make one key an algorithm; of the smallest size for RSA, to be quick."""
    kid = f"key-{algorithm}"
    if algorithm in ("EdDSA", "ES256"):
        return generate_key(algorithm, kid)
    private = rsa_key(2048)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return GeneratedKey(pem, public_jwk(private.public_key(), algorithm, kid))


@cache
def rsa_key(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def signer(algorithm: str) -> Callable[[bytes], bytes]:
    """Sign with the private key of ``pair(algorithm)``."""
    scheme = get_default_algorithms()[algorithm]
    key = scheme.prepare_key(pair(algorithm).private_pem)
    return lambda signing_input: scheme.sign(signing_input, key)


def public_keys(*algorithms: str, scope: Scope = SCOPE) -> tuple[VerificationKey, ...]:
    document = jwks(pair(algorithm).jwk for algorithm in algorithms)
    return read_jwk_set(document, scope).keys


@cache
def key_set() -> KeySet:
    """Secret, Ed25519 and P-256 (RSA keys take half a second to make)."""
    return KeySet([secret_key(SECRET, SCOPE), *public_keys("EdDSA", "ES256")])


def judge(
    token: bytes,
    *,
    keys: KeySet | None = None,
    value: bytes | None = VALUE,
    place: Place = PLACE,
    at_ms: int = NOW_S * 1000,
    profile: TokenProfile = PROFILE,
) -> VerifiedToken | Refusal:
    headers = [("content-type", b"x"), ("authorization", b"Bearer " + token)]
    return verify_token(headers, value, place, at_ms, keys or key_set(), profile)


def code_of(verdict: VerifiedToken | Refusal) -> Code | None:
    return verdict.code if isinstance(verdict, Refusal) else None
