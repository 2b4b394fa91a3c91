"""Which keys are taken, what they are called, and for whom they speak."""

from __future__ import annotations

import hashlib
import hmac
import secrets

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import HMACAlgorithm

from stream_executor.auth.keys import (
    KeySet,
    PublicKey,
    Scope,
    public_key,
    secret_key,
    thumbprint,
)
from stream_executor.model.codes import Role
from stream_executor.model.errors import ConfigError
from tests.unit.auth.tokens import (
    AUDIENCE,
    ISSUER,
    PREVIOUS,
    SCOPE,
    SECRET,
    b64,
    public_keys,
    rsa_key,
)

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P


def test_the_thumbprint_is_that_of_rfc_7638() -> None:
    """RFC 7638 section 3.1."""
    n = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuh"
        "DR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w"
        "6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5haj"
        "rn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw"
        "0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
    )
    assert (
        thumbprint({"kty": "RSA", "n": n, "e": "AQAB"})
        == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
    )


def test_the_thumbprint_of_an_ed25519_key_is_that_of_rfc_8037() -> None:
    """RFC 8037 appendix A.3."""
    raw = bytes.fromhex(
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    )
    public = ed25519.Ed25519PublicKey.from_public_bytes(raw)
    key = public_key(public, "EdDSA", None, SCOPE)

    assert key.key_id == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    assert key.kid == key.key_id


def test_a_secrets_id_is_four_bytes_of_a_mac() -> None:
    key = secret_key(SECRET, SCOPE)

    assert key.key_id == hmac.digest(SECRET, b"wx/key/v1", "sha256")[:4].hex()
    assert key.kid == key.key_id
    assert key.algorithm == "HS256"


def test_a_secret_shows_nowhere() -> None:
    key = secret_key(SECRET, SCOPE)

    assert SECRET.decode() not in repr(key)
    assert SECRET.decode() not in repr(KeySet([key]).keys)


@pytest.mark.parametrize("size", [32, 33, 63, 64, 65, 200])
@pytest.mark.parametrize("length", [0, 1, 55, 64, 8192])
def test_our_hmac_is_pyjwts(size: int, length: int) -> None:
    secret, message = secrets.token_bytes(size), secrets.token_bytes(length)
    mac = HMACAlgorithm(HMACAlgorithm.SHA256).sign(message, secret)
    key = secret_key(secret, SCOPE)

    assert key.verify(message, b64(mac))
    assert not key.verify(message + b"x", b64(mac))
    assert not key.verify(message, b64(mac[:-1]))
    assert not key.verify(message, mac)


@pytest.mark.threat("T-01")
@pytest.mark.parametrize(
    "secret",
    [
        b"",
        b"x" * 31,
        SECRET[:31],
        b"x" * 64,
        b"abcd" * 16,
        b"0123456789" * 5,
        (b"correct horse battery staple " * 3)[:70],
        b"abababababababababababababababababababac",
        b"change-me-change-me-change-me-32-bytes",
        b"please CHANGEME before the first start!",
        b"your-secret-key-goes-here-32-characters",
        b"your_jwt_secret_with_at_least_32_bytes",
        b"<generated-secret> with more than 32 bytes",
        b"$(openssl rand -base64 48) is not evaluated",
        ed25519.Ed25519PrivateKey.generate()
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        b'{"kty":"oct","k":"c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"}',
        b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5sW0 somebody@somewhere",
    ],
    ids=range(17),
)
def test_a_weak_or_placeholder_secret_is_refused(secret: bytes) -> None:
    with pytest.raises(ConfigError, match=r"JWT_SECRET .*openssl rand") as caught:
        secret_key(secret, SCOPE)
    assert secret.decode()[:20] not in str(caught.value) or not secret


@pytest.mark.parametrize("_", range(50))
def test_what_openssl_rand_makes_is_taken(_: int) -> None:
    for secret in (
        secrets.token_bytes(32),
        secrets.token_hex(16).encode(),
        secrets.token_hex(32).encode(),
        secrets.token_urlsafe(48).encode(),
    ):
        secret_key(secret, SCOPE)


@pytest.mark.parametrize(
    "scope",
    [
        Scope(frozenset(), AUDIENCE),
        Scope(frozenset({""}), AUDIENCE),
        Scope(frozenset({ISSUER}), ""),
        Scope(frozenset({ISSUER, "x" * 257}), AUDIENCE),
    ],
)
def test_a_key_without_an_issuer_or_audience_is_refused(scope: Scope) -> None:
    with pytest.raises(ConfigError):
        secret_key(SECRET, scope)


def edwards_add(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    """Add two points of the curve of RFC 8032 section 5.1."""
    (x1, y1), (x2, y2) = a, b
    t = D * x1 * x2 * y1 * y2 % P
    x3 = (x1 * y2 + x2 * y1) * pow(1 + t, -1, P)
    y3 = (y1 * y2 + x1 * x2) * pow(1 - t, -1, P)
    return x3 % P, y3 % P


def small_order_points() -> list[tuple[int, int]]:
    """Find the eight points of the torsion subgroup, from any point times the order."""
    order = 2**252 + 27742317777372353535851937790883648493
    for y in range(2, 100):
        square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
        x = pow(square, (P + 3) // 8, P)
        if (x * x - square) % P:
            x = x * pow(2, (P - 1) // 4, P) % P
        if (x * x - square) % P:
            continue
        result, point, factor = (0, 1), (x, y), order
        while factor:
            if factor & 1:
                result = edwards_add(result, point)
            point, factor = edwards_add(point, point), factor >> 1
        points = [(0, 1)]
        while edwards_add(points[-1], result) != (0, 1):
            points.append(edwards_add(points[-1], result))
        if len(points) == 8:
            return points
    raise AssertionError("no point of order eight")


@pytest.mark.threat("T-01")
def test_ed25519_keys_of_small_order_are_refused() -> None:
    """Under such a key anyone can make signatures."""
    encodings = set()
    for x, y in small_order_points():
        encodings.add((y | (x & 1) << 255).to_bytes(32, "little"))
        encodings.add((y | (1 - x & 1) << 255).to_bytes(32, "little"))
        if y + P < 2**255:  # the same point, spelled otherwise
            encodings.add((y + P).to_bytes(32, "little"))
            encodings.add((y + P | 1 << 255).to_bytes(32, "little"))

    assert len(encodings) == 14
    for encoded in encodings:
        public = ed25519.Ed25519PublicKey.from_public_bytes(encoded)
        with pytest.raises(ConfigError, match="small order"):
            public_key(public, "EdDSA", None, SCOPE)


@pytest.mark.threat("T-01")
@pytest.mark.parametrize("bits", [1024, 2040])
def test_rsa_keys_under_2048_bits_are_refused(bits: int) -> None:
    with pytest.raises(ConfigError, match=f"not {bits}"):
        public_key(rsa_key(bits).public_key(), "RS256", None, SCOPE)


@pytest.mark.parametrize(
    "algorithm", ["EdDSA", "ES256", "RS256", "PS256", "HS256", "x"]
)
def test_a_key_serves_its_own_algorithm_only(algorithm: str) -> None:
    keys: dict[str, PublicKey] = {
        "EdDSA": ed25519.Ed25519PrivateKey.generate().public_key(),
        "ES256": ec.generate_private_key(ec.SECP256R1()).public_key(),
        "RS256": rsa_key(2048).public_key(),
        "PS256": rsa_key(2048).public_key(),
        "ES384": ec.generate_private_key(ec.SECP384R1()).public_key(),
    }
    for own, public in keys.items():
        if own == algorithm or {own, algorithm} == {"RS256", "PS256"}:
            assert public_key(public, algorithm, "k", SCOPE).algorithm == algorithm
        else:
            with pytest.raises(ConfigError):
                public_key(public, algorithm, "k", SCOPE)


@pytest.mark.parametrize("kid", ["", "a b", "x" * 65, "a/b"])
def test_a_kid_that_no_token_can_carry_is_refused(kid: str) -> None:
    public = ed25519.Ed25519PrivateKey.generate().public_key()
    with pytest.raises(ConfigError, match="kid"):
        public_key(public, "EdDSA", kid, SCOPE)


def test_a_key_set_needs_a_key_and_distinct_kids() -> None:
    key = secret_key(SECRET, SCOPE)
    with pytest.raises(ConfigError, match="no verification key"):
        KeySet([])
    with pytest.raises(ConfigError, match="same kid"):
        KeySet([key, key])


def test_the_digest_covers_the_active_key_ids_in_any_order() -> None:
    keys = [secret_key(SECRET, SCOPE), *public_keys("EdDSA", "ES256")]
    text = "".join(f"{key_id}\n" for key_id in sorted(key.key_id for key in keys))

    assert KeySet(keys).digest == hashlib.sha256(text.encode()).digest()
    assert KeySet(reversed(keys), ["retired"]).digest == KeySet(keys).digest
    assert KeySet(keys[:2]).digest != KeySet(keys).digest


def test_key_sets_are_the_same_if_they_decide_alike() -> None:
    def one(scope: Scope = SCOPE, secret: bytes = SECRET) -> KeySet:
        return KeySet([secret_key(secret, scope)])

    assert one().is_same(one())
    assert not one().is_same(one(secret=PREVIOUS))
    assert not one().is_same(one(Scope(SCOPE.issuers, AUDIENCE, Role.AUDITOR)))
    assert not one().is_same(one(Scope(SCOPE.issuers, "other")))
    assert not one().is_same(KeySet(one().keys, ["retired"]))
