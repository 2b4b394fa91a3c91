"""Key documents: private keys in PEM or JWK, public keys in a JWK set.

Reads what an identity provider or ``wasm-executor keys`` wrote and writes it for
them. A JWK may carry three members of ours that say for whom its key may speak;
what it leaves out, the deployment's settings give:

- ``wx_issuers``: list of exact ``iss`` values
- ``wx_audience``: the one ``aud`` value
- ``wx_role``: Agent (the default), Administrator or Auditor: the role ceiling
- ``wx_retired``: true keeps the key in the document, but out of force

Where documents come from is in ``load``.

Source: RFC 7517, RFC 7518 section 6, RFC 8037 section 2.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from jwt.exceptions import InvalidKeyError

from stream_executor.auth.claims import KID
from stream_executor.auth.jose import parse_object
from stream_executor.auth.keys import (
    PUBLIC_ALGORITHMS,
    SCHEMES,
    PublicKey,
    Scope,
    VerificationKey,
    public_key,
    public_members,
)
from stream_executor.model.codes import Role
from stream_executor.model.errors import ConfigError, MalformedError

if TYPE_CHECKING:
    from collections.abc import Iterable

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

NEW_RSA_BITS = 3072
_RSA_EXPONENT = 65537
_MAX_STRUCTURE = 10_000  # brackets and commas of a document: hundreds of keys

_FAMILIES: dict[tuple[object, object], tuple[str, ...]] = {
    ("OKP", "Ed25519"): ("EdDSA",),
    ("EC", "P-256"): ("ES256",),
    ("RSA", None): ("RS256", "PS256"),
}
_FAMILY_NAMES = {"OKP": "EdDSA", "EC": "ES256", "RSA": "RS256"}
PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


class JwkSet(msgspec.Struct, frozen=True):
    """What a JWK set holds for us.

    Attributes:
        keys: the keys in force.
        retired: the key ids of those marked ``wx_retired``.
        skipped: one line for each key that is not for us, and why.
    """

    keys: tuple[VerificationKey, ...]
    retired: tuple[str, ...]
    skipped: tuple[str, ...]


class GeneratedKey(msgspec.Struct, frozen=True):
    """A new key pair.

    Attributes:
        private_pem: the private key, unencrypted PKCS 8 PEM; for the signer only.
        jwk: the public key, for the JWK set.
    """

    private_pem: bytes
    jwk: dict[str, object]

    def __repr__(self) -> str:
        return f"GeneratedKey(kid={self.jwk['kid']!r})"


class _Jwk(msgspec.Struct, frozen=True):
    """The members of a JWK that mean something here; None where absent."""

    kty: str
    crv: str | None = None
    x: str | None = None
    y: str | None = None
    n: str | None = None
    e: str | None = None
    use: str | None = None
    key_ops: list[str] | None = None
    alg: str | None = None
    kid: str | None = None
    wx_issuers: list[str] | None = None
    wx_audience: str | None = None
    wx_role: Role | None = None
    wx_retired: bool = False


class _NotForUsError(Exception):
    """A key that is none of ours to use, which is nobody's mistake."""


def read_jwk_set(document: bytes, defaults: Scope) -> JwkSet:
    """Read the public keys of a JWK set.

    Keys for other purposes (``use``, ``key_ops``), of other kinds or algorithms and
    with a kid that no token of the profile can carry are skipped, as RFC 7517
    section 5 wants. An RSA key without ``alg`` is an RS256 key: every key has one
    algorithm. A key without kid has its thumbprint as kid.

    Args:
        document: JSON text.
        defaults: the scope of keys that name none; its issuers may be empty if every
            key names its own.

    Raises:
        ConfigError: no such document; or it holds private key material, a weak or
            impossible key, a member starting with ``wx_`` that is not ours, or a
            key without issuer.
    """
    try:
        entries = parse_object(document, max_structure=_MAX_STRUCTURE).get("keys")
    except MalformedError as error:
        raise ConfigError(f"the JWK set cannot be read: {error}") from error
    if not isinstance(entries, list):
        raise ConfigError("the JWK set has no list of keys")
    keys, retired, skipped = [], [], []
    for index, entry in enumerate(entries):
        try:
            jwk = _convert(entry)
            key = _read_jwk(jwk, defaults)
        except _NotForUsError as reason:
            skipped.append(f"key {index} is not used: {reason}")
        except ConfigError as error:
            raise ConfigError(f"key {index} of the JWK set: {error}") from error
        else:
            if jwk.wx_retired:
                retired.append(key.key_id)
            else:
                keys.append(key)
    return JwkSet(tuple(keys), tuple(retired), tuple(skipped))


def read_private_key(document: str | bytes) -> PrivateKey:
    """Read an unencrypted PEM (PKCS 8 or traditional) or a private OKP JWK.

    Raises:
        ConfigError: anything else, without quoting the document.
    """
    raw = document.encode() if isinstance(document, str) else document
    try:
        if raw.lstrip().startswith(b"{"):
            key = SCHEMES["EdDSA"].from_jwk(parse_object(raw))
        else:
            key = load_pem_private_key(raw, password=None)
    except (MalformedError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError("not an unencrypted private key") from error
    except (InvalidKeyError, UnsupportedAlgorithm) as error:
        raise ConfigError("not a private key of a supported kind") from error
    if not isinstance(key, PrivateKey):
        raise ConfigError("not a private key of a supported kind")
    return key


def algorithms_of(public: PublicKey) -> tuple[str, ...]:
    """Give the algorithms that a key can serve, the usual one first."""
    members = public_members(public)
    return _FAMILIES.get((members["kty"], members.get("crv")), ())


def public_jwk(
    public: PublicKey, algorithm: str, kid: str | None = None
) -> dict[str, object]:
    """Write the JWK of a public key; without a kid it is the thumbprint.

    Raises:
        ConfigError: as ``keys.public_key``.
    """
    anyone = Scope(frozenset({"-"}), "-")
    key = public_key(public, algorithm, kid, anyone)
    members = public_members(public)
    return {**members, "kid": key.kid, "alg": algorithm, "use": "sig"}


def generate_key(algorithm: str, kid: str | None = None) -> GeneratedKey:
    """Make a new key pair for one of EdDSA, ES256, RS256, PS256.

    Raises:
        ConfigError: another algorithm.
    """
    private: PrivateKey
    match algorithm:
        case "EdDSA":
            private = ed25519.Ed25519PrivateKey.generate()
        case "ES256":
            private = ec.generate_private_key(ec.SECP256R1())
        case "RS256" | "PS256":
            private = rsa.generate_private_key(_RSA_EXPONENT, NEW_RSA_BITS)
        case _:
            raise ConfigError(f"keys are made for {', '.join(PUBLIC_ALGORITHMS)}")
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return GeneratedKey(pem, public_jwk(private.public_key(), algorithm, kid))


def jwks(keys: Iterable[dict[str, object]]) -> bytes:
    """Write a JWK set document of public JWKs, one key a line group, sorted names."""
    document = {"keys": list(keys)}
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()


def _convert(entry: object) -> _Jwk:
    if not isinstance(entry, dict):
        raise ConfigError("not a JSON object")
    if not PRIVATE_MEMBERS.isdisjoint(entry):
        raise ConfigError("it holds private key material; publish public keys only")
    foreign = [
        name
        for name in entry
        if name.startswith("wx_") and name not in _Jwk.__struct_fields__
    ]
    if foreign:
        raise ConfigError(f"unknown member {foreign[0]!r}")
    try:
        return msgspec.convert(entry, _Jwk, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(str(error)) from error


def _read_jwk(jwk: _Jwk, defaults: Scope) -> VerificationKey:
    algorithm = _algorithm(jwk)
    if jwk.kid is not None and not KID.fullmatch(jwk.kid):
        raise _NotForUsError("no token of this profile can carry its kid")
    scope = Scope(
        defaults.issuers if jwk.wx_issuers is None else frozenset(jwk.wx_issuers),
        defaults.audience if jwk.wx_audience is None else jwk.wx_audience,
        defaults.ceiling if jwk.wx_role is None else jwk.wx_role,
    )
    return public_key(_public(jwk), algorithm, jwk.kid, scope)


def _algorithm(jwk: _Jwk) -> str:
    """Give the one algorithm of the key."""
    family = _FAMILIES.get((jwk.kty, jwk.crv))
    if family is None:
        raise _NotForUsError("its kind of key is not among those we verify with")
    if jwk.use not in (None, "sig"):
        raise _NotForUsError("its use is not sig")
    if jwk.key_ops is not None and "verify" not in jwk.key_ops:
        raise _NotForUsError("its key_ops lack verify")
    if jwk.alg is not None and jwk.alg not in family:
        raise _NotForUsError(f"its alg is none of {', '.join(family)}")
    return jwk.alg or family[0]


def _public(jwk: _Jwk) -> PublicKey:
    """Make the key, and hold it against the members: one form for each key."""
    members = {
        name: value
        for name in ("crv", "e", "kty", "n", "x", "y")
        if (value := getattr(jwk, name)) is not None
    }
    try:
        public = SCHEMES[_FAMILY_NAMES[jwk.kty]].from_jwk(members)
    except (InvalidKeyError, ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError("its members make no key") from error
    if public_members(public) != members:
        raise ConfigError("its members are not in canonical form")
    return cast("PublicKey", public)
