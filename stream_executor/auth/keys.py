"""The keys that may vouch for a token, and for whom each may speak, as values.

The key decides, never the token: a key fixes its algorithm, the issuers and the
audience it may speak for and the highest role it may give. A token can only name a
key, not change what the key may do. How keys are read from documents is in ``jwks``,
where they come from in ``load``.

Source: RFC 8725 sections 3.1 to 3.5, RFC 7638, RFC 2104.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import TYPE_CHECKING, cast

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import get_default_algorithms

from stream_executor.auth.claims import KID, MAX_NAME_BYTES
from stream_executor.auth.jose import decode_segment, encode_segment
from stream_executor.model.codes import Role
from stream_executor.model.errors import ConfigError, MalformedError

if TYPE_CHECKING:
    from jwt.algorithms import Algorithm

MIN_SECRET_BYTES = 32
MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192  # verifying takes time in proportion to its square
_SHA256_BLOCK = 64

HMAC_ALGORITHM = "HS256"
PUBLIC_ALGORITHMS = ("EdDSA", "ES256", "RS256", "PS256")

PublicKey = Ed25519PublicKey | EllipticCurvePublicKey | RSAPublicKey
Verify = Callable[[bytes, bytes], bool]

_KEY_ID_TAG = b"wx/key/v1"
_SECRET_ID_BYTES = 4
_MAX_REMEMBERED_HEADERS = 64
_DEFAULTS = get_default_algorithms()
SCHEMES: dict[str, Algorithm] = {
    name: _DEFAULTS[name] for name in (HMAC_ALGORITHM, *PUBLIC_ALGORITHMS)
}
"""PyJWT's objects for the five algorithms that exist here, and for no other."""

_THUMBPRINT_MEMBERS = {  # RFC 7638 section 3.2, RFC 8037 section 2
    "EC": ("crv", "kty", "x", "y"),
    "OKP": ("crv", "kty", "x"),
    "RSA": ("e", "kty", "n"),
}

# Words that only a secret which nobody chose contains.
_PLACEHOLDERS = (
    "changeme",
    "replaceme",
    "yoursecret",
    "yourjwtsecret",
    "insertsecret",
    "placeholder",
    "generatedsecret",
    "opensslrand",
    "0123456789abcdef0123456789abcdef",
)
_MIN_DISTINCT_BYTES = 8

_ED25519_PRIME = 2**255 - 19
_ED25519_ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
# The y coordinates of the points of order 1, 2, 4 and 8: under such a "key" anyone
# can make signatures. Source: RFC 8032 section 5.1; a test computes them anew.
_ED25519_SMALL_ORDER = frozenset(
    {
        0,
        1,
        _ED25519_PRIME - 1,
        _ED25519_ORDER_8,
        _ED25519_PRIME - _ED25519_ORDER_8,
    }
)


class Scope(msgspec.Struct, frozen=True):
    """For whom a key may speak.

    Attributes:
        issuers: exact ``iss`` values; never empty, never a pattern.
        audience: the one exact ``aud`` value.
        ceiling: the highest role that a token under this key may claim.
    """

    issuers: frozenset[str]
    audience: str
    ceiling: Role = Role.AGENT

    def validate(self) -> Scope:
        """Give the scope back.

        Raises:
            ConfigError: an empty or over-long name, or no issuer at all.
        """
        names = (*self.issuers, self.audience)
        if not self.issuers:
            raise ConfigError("a key needs at least one issuer it may speak for")
        if not all(0 < len(name.encode()) <= MAX_NAME_BYTES for name in names):
            raise ConfigError(
                f"issuers and audience have 1 to {MAX_NAME_BYTES} bytes of UTF-8"
            )
        return self


class VerificationKey(msgspec.Struct, frozen=True, eq=False):
    """One key: one algorithm, one scope, one function.

    Neither the representation nor any attribute shows a secret.

    Attributes:
        algorithm: the one ``alg`` value that may name this key.
        kid: what a token's ``kid`` must be, ``claims.KID``.
        key_id: for the audit: RFC 7638 thumbprint in base64url; for HS256 the first
            four bytes, in hex, of HMAC-SHA-256(secret, "wx/key/v1").
        issuers, audience, ceiling: see ``Scope``.
        verify: ``verify(signing_input, signature_segment)``: whether the segment is
            the canonical base64url form of a signature over the input. Never raises.
    """

    algorithm: str
    kid: str
    key_id: str
    issuers: frozenset[str]
    audience: str
    ceiling: Role
    verify: Verify


class Candidates(msgspec.Struct, frozen=True, gc=False):
    """What a validated header points at: the keys to try, in order."""

    kid: str
    keys: tuple[VerificationKey, ...]


class KeySet:
    """The keys in force; a value: it never changes, a refresh makes a new one.

    ``recall`` and ``remember`` are a bounded memo of a pure function (header segment
    to candidates); they change speed, never an outcome.

    Attributes:
        keys: the active keys, in the order given; of several HS256 secrets the
            current one comes first.
        retired: key ids that were once in force; a token under one of them has an
            unknown key.
        digest: SHA-256 over the sorted ids of the active keys, one a line.

    Raises:
        ConfigError: no key at all, or two active keys with one kid.
    """

    __slots__ = (
        "_by_kid",
        "_headers",
        "_secrets",
        "digest",
        "keys",
        "recall",
        "retired",
    )

    def __init__(
        self, keys: Iterable[VerificationKey], retired: Iterable[str] = ()
    ) -> None:
        self.keys = tuple(keys)
        self.retired = frozenset(retired)
        self._by_kid = {key.kid: key for key in self.keys}
        self._secrets = tuple(k for k in self.keys if k.algorithm == HMAC_ALGORITHM)
        if not self.keys:
            raise ConfigError("no verification key is configured")
        if len(self._by_kid) != len(self.keys):
            raise ConfigError("two verification keys have the same kid")
        lines = "".join(f"{key_id}\n" for key_id in sorted(k.key_id for k in self.keys))
        self.digest = sha256(lines.encode()).digest()
        self._headers: dict[bytes, Candidates] = {}
        self.recall = self._headers.get

    def find(self, alg: str, kid: str | None) -> Candidates:
        """Give the keys that a header may mean; none if its kid or alg is unknown.

        Only HS256 tokens may go without kid: the current secret is tried first, the
        previous one second.
        """
        if kid is None:
            return Candidates("", self._secrets if alg == HMAC_ALGORITHM else ())
        key = self._by_kid.get(kid)
        return Candidates(kid, () if key is None or key.algorithm != alg else (key,))

    def is_same(self, other: KeySet) -> bool:
        """Tell whether both decide alike about every token."""
        return self.retired == other.retired and self._terms() == other._terms()

    def _terms(self) -> list[tuple[object, ...]]:
        return [
            (k.algorithm, k.kid, k.key_id, k.issuers, k.audience, k.ceiling)
            for k in self.keys
        ]

    def remember(self, segment: bytes, candidates: Candidates) -> None:
        """Keep what a header segment meant, once a signature under it has held.

        Strangers cannot fill the memo; a requester who varies the header only makes
        it start over.
        """
        if len(self._headers) >= _MAX_REMEMBERED_HEADERS:
            self._headers.clear()
        self._headers[segment] = candidates


def secret_key(secret: bytes, scope: Scope) -> VerificationKey:
    """Make the HS256 key of a shared secret.

    Its kid is its key id, for signers that want to name it.

    Raises:
        ConfigError: the secret is weak (``validate_secret``).
    """
    validate_secret(secret)
    key_id = secret_key_id(secret)
    return _key(HMAC_ALGORITHM, key_id, key_id, scope, _hmac_verifier(secret))


def secret_key_id(secret: bytes) -> str:
    """Name a secret in eight hex digits: the start of a MAC under it."""
    return hmac.digest(secret, _KEY_ID_TAG, "sha256")[:_SECRET_ID_BYTES].hex()


def public_key(
    public: PublicKey, algorithm: str, kid: str | None, scope: Scope
) -> VerificationKey:
    """Make the key of an asymmetric public key; without a kid it is its thumbprint.

    Raises:
        ConfigError: algorithm and key do not fit, or the key is weak: RSA outside
            2,048 to 8,192 bits, a curve other than P-256 and Ed25519, an Ed25519
            point of small order or in a non-canonical form.
    """
    signature_bytes = _validate_public(public, algorithm)
    key_id = thumbprint(public_members(public))
    if kid is not None and not KID.fullmatch(kid):
        raise ConfigError("a kid has 1 to 64 characters of A-Z a-z 0-9 . _ -")
    verify = _public_verifier(SCHEMES[algorithm], public, signature_bytes)
    return _key(algorithm, kid or key_id, key_id, scope, verify)


def public_members(public: PublicKey) -> dict[str, str]:
    """Give the members that make the public key, in the order of RFC 7638."""
    match public:
        case Ed25519PublicKey():
            scheme = SCHEMES["EdDSA"]
        case EllipticCurvePublicKey():
            scheme = SCHEMES["ES256"]
        case _:
            scheme = SCHEMES["RS256"]
    members = scheme.to_jwk(public, as_dict=True)
    required = _THUMBPRINT_MEMBERS[cast("str", members["kty"])]
    return {name: str(members[name]) for name in required}


def thumbprint(members: dict[str, str]) -> str:
    """Give the RFC 7638 SHA-256 thumbprint of required members, in base64url."""
    canonical = json.dumps(members, separators=(",", ":"), sort_keys=True)
    return encode_segment(sha256(canonical.encode()).digest()).decode()


def validate_secret(secret: bytes) -> None:
    """Refuse a secret that can be guessed.

    Raises:
        ConfigError: under 32 bytes (RFC 7518 section 3.2), a placeholder from an
            example, a short pattern repeated, or hardly any different bytes; or an
            asymmetric key in text form, which would be public.
    """
    remedy = "; make one with `openssl rand -base64 48`"
    if len(secret) < MIN_SECRET_BYTES:
        raise ConfigError(f"JWT_SECRET has fewer than 32 bytes{remedy}")
    letters = bytes(c for c in secret.lower() if chr(c).isalnum()).decode("latin-1")
    if any(word in letters for word in _PLACEHOLDERS):
        raise ConfigError(f"JWT_SECRET is a placeholder from an example{remedy}")
    if len(set(secret)) < _MIN_DISTINCT_BYTES or _is_repetition(secret):
        raise ConfigError(f"JWT_SECRET is a repeated pattern{remedy}")
    try:
        SCHEMES[HMAC_ALGORITHM].prepare_key(secret)
    except Exception as error:  # PyJWT's boundary: InvalidKeyError and its parsers'
        raise ConfigError(
            f"JWT_SECRET is a key document, not a secret{remedy}"
        ) from error


def _key(
    algorithm: str, kid: str, key_id: str, scope: Scope, verify: Verify
) -> VerificationKey:
    scope.validate()
    return VerificationKey(
        algorithm, kid, key_id, scope.issuers, scope.audience, scope.ceiling, verify
    )


def _is_repetition(secret: bytes) -> bool:
    """Tell whether the secret is a unit of at most half its length, repeated."""
    return any(
        secret[unit:] == secret[:-unit] for unit in range(1, len(secret) // 2 + 1)
    )


def _hmac_verifier(secret: bytes) -> Verify:
    """Bind RFC 2104's two hashes to the secret, so that a MAC only continues them.

    Half the time of PyJWT's ``HMACAlgorithm``, which the tests hold it against. The
    MAC is encoded and compared as text: nothing has to be decoded, and no second
    text can stand for it.
    """
    block = sha256(secret).digest() if len(secret) > _SHA256_BLOCK else secret
    block = block.ljust(_SHA256_BLOCK, b"\0")
    inner_start = sha256(bytes(byte ^ 0x36 for byte in block)).copy
    outer_start = sha256(bytes(byte ^ 0x5C for byte in block)).copy
    same = hmac.compare_digest

    def verify(signing_input: bytes, signature_segment: bytes) -> bool:
        inner, outer = inner_start(), outer_start()
        inner.update(signing_input)
        outer.update(inner.digest())
        return same(encode_segment(outer.digest()), signature_segment)

    return verify


def _public_verifier(
    scheme: Algorithm, public: PublicKey, signature_bytes: int
) -> Verify:
    verify_signature = scheme.verify

    def verify(signing_input: bytes, signature_segment: bytes) -> bool:
        try:
            signature = decode_segment(signature_segment)
        except MalformedError:
            return False
        return len(signature) == signature_bytes and verify_signature(
            signing_input, public, signature
        )

    return verify


def _validate_public(public: PublicKey, algorithm: str) -> int:
    """Refuse weak keys and those of another algorithm; give the signature's bytes."""
    match public:
        case Ed25519PublicKey() if algorithm == "EdDSA":
            encoded = public.public_bytes_raw()
            y = int.from_bytes(encoded, "little") & (2**255 - 1)
            if y >= _ED25519_PRIME or y in _ED25519_SMALL_ORDER:
                raise ConfigError("an Ed25519 key is a point of small order")
            return 64
        case EllipticCurvePublicKey(curve=SECP256R1()) if algorithm == "ES256":
            return 64
        case RSAPublicKey() if algorithm in ("RS256", "PS256"):
            if not MIN_RSA_BITS <= public.key_size <= MAX_RSA_BITS:
                raise ConfigError(
                    f"RSA keys have {MIN_RSA_BITS} to {MAX_RSA_BITS} bits, "
                    f"not {public.key_size}"
                )
            return (public.key_size + 7) // 8
        case _:
            raise ConfigError(f"the key is no {algorithm} key")
