"""Key documents: what is read, what is skipped, what is refused."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from jwt.algorithms import OKPAlgorithm

from stream_executor.auth.jwks import (
    generate_key,
    jwks,
    public_jwk,
    read_jwk_set,
    read_private_key,
)
from stream_executor.auth.keys import Scope, thumbprint
from stream_executor.model.codes import Role
from stream_executor.model.errors import ConfigError
from tests.unit.auth.tokens import ALGORITHMS, AUDIENCE, ISSUER, SCOPE, pair, rsa_key


def jwk(algorithm: str = "EdDSA", **changes: object) -> dict[str, object]:
    members = pair(algorithm).jwk | changes
    return {name: value for name, value in members.items() if value is not ...}


def test_a_generated_key_of_each_algorithm_can_be_read_back() -> None:
    keys = [generate_key(algorithm) for algorithm in ALGORITHMS]
    found = read_jwk_set(jwks(key.jwk for key in keys), SCOPE)

    assert tuple(key.algorithm for key in found.keys) == ALGORITHMS
    assert [key.kid for key in found.keys] == [key.key_id for key in found.keys]
    assert not found.skipped
    assert not found.retired
    for key in keys:
        assert b"PRIVATE" in key.private_pem
        assert "PRIVATE" not in repr(key)
        assert not {"d", "p", "q"} & key.jwk.keys()


def test_no_key_is_made_for_another_algorithm() -> None:
    with pytest.raises(ConfigError, match="EdDSA, ES256, RS256, PS256"):
        generate_key("HS256")


def test_a_key_speaks_for_whom_its_members_or_the_settings_say() -> None:
    own = jwk(wx_issuers=["a", "b"], wx_audience="own", wx_role="Administrator")
    plain = jwk("ES256")
    first, second = read_jwk_set(jwks([own, plain]), SCOPE).keys

    assert (first.issuers, first.audience) == (frozenset({"a", "b"}), "own")
    assert first.ceiling is Role.ADMINISTRATOR
    assert (second.issuers, second.audience) == (frozenset({ISSUER}), AUDIENCE)
    assert second.ceiling is Role.AGENT


def test_a_retired_key_is_out_of_force() -> None:
    found = read_jwk_set(jwks([jwk(wx_retired=True), jwk("ES256")]), SCOPE)

    assert [key.algorithm for key in found.keys] == ["ES256"]
    assert len(found.retired) == 1


@pytest.mark.parametrize(
    "entry",
    [
        jwk(use="enc"),
        jwk(key_ops=["sign"]),
        jwk(key_ops=[]),
        jwk(alg="ES256"),
        jwk(alg="HS256"),
        jwk(alg="none"),
        jwk(crv="Ed448"),
        jwk(kty="unknown"),
        jwk(kid="has space"),
        jwk(kid="AAAA="),
        jwk("ES256", crv="P-384"),
        jwk("RS256", alg="RS512"),
        jwk("RS256", crv="P-256"),
    ],
    ids=repr,
)
def test_a_key_that_is_not_for_us_is_skipped_and_said_so(
    entry: dict[str, object],
) -> None:
    found = read_jwk_set(jwks([entry, jwk("ES256", kid="good")]), SCOPE)

    assert [key.kid for key in found.keys] == ["good"]
    assert len(found.skipped) == 1
    assert found.skipped[0].startswith("key 0 is not used: ")


def test_key_ops_with_verify_and_use_sig_are_taken() -> None:
    entry = jwk(use="sig", key_ops=["sign", "verify"])

    assert len(read_jwk_set(jwks([entry]), SCOPE).keys) == 1


def test_an_rsa_key_without_alg_is_an_rs256_key() -> None:
    found = read_jwk_set(jwks([jwk("PS256", alg=...)]), SCOPE)

    assert found.keys[0].algorithm == "RS256"


def test_a_key_without_kid_has_its_thumbprint() -> None:
    entry = jwk(kid=...)
    expected = thumbprint({n: str(entry[n]) for n in ("crv", "kty", "x")})

    assert read_jwk_set(jwks([entry]), SCOPE).keys[0].kid == expected


@pytest.mark.threat("T-07")
@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (jwk(d="AAAA"), "private"),
        ({"kty": "oct", "k": "AAAA", "kid": "x"}, "private"),
        (jwk(wx_issuer="typo"), "wx_issuer"),
        (jwk(wx_issuers="a"), "wx_issuers"),
        (jwk(wx_issuers=[]), "issuer"),
        (jwk(wx_role="Root"), "wx_role"),
        (jwk(wx_audience=""), "audience"),
        (jwk(kty=1), "kty"),
        (jwk(kid=7), "kid"),
        (jwk(x=...), "no key"),
        (jwk(x="AAAA"), "no key"),
        (jwk(x="A" * 43), "small order"),
        (jwk(y="AAAA"), "canonical"),
        (jwk(x=str(pair("EdDSA").jwk["x"]) + "="), "canonical"),
        (jwk("ES256", y=pair("ES256").jwk["x"]), "no key"),
        (jwk("ES256", x="AAAA"), "no key"),
        (jwk("RS256", e="AA"), "no key"),
        (jwk("RS256", n="AAAA"), "no key"),
        (jwk("RS256", n=public_jwk(rsa_key(2048).public_key(), "RS256")["e"]), "key"),
        (jwk("RS256", n="AA" + str(pair("RS256").jwk["n"])), "canonical"),
        ("text", "object"),
        (None, "object"),
    ],
    ids=repr,
)
def test_a_set_with_a_dangerous_or_impossible_key_is_refused(
    entry: object, reason: str
) -> None:
    document = json.dumps({"keys": [jwk("ES256"), entry]}).encode()
    with pytest.raises(ConfigError, match=f"key 1 of the JWK set: .*{reason}"):
        read_jwk_set(document, SCOPE)


def test_a_key_needs_an_issuer_from_somewhere() -> None:
    nobody = Scope(frozenset(), AUDIENCE)
    with pytest.raises(ConfigError, match="issuer"):
        read_jwk_set(jwks([jwk()]), nobody)
    assert read_jwk_set(jwks([jwk(wx_issuers=["a"])]), nobody).keys


@pytest.mark.parametrize(
    "document",
    [b"", b"[]", b"{}", b'{"keys":{}}', b'{"keys":[],"keys":[]}', b"\xff", b"[" * 9999],
)
def test_what_is_no_jwk_set_is_refused(document: bytes) -> None:
    with pytest.raises(ConfigError):
        read_jwk_set(document, SCOPE)


def test_a_private_key_is_read_from_pem_and_from_jwk() -> None:
    pem = pair("EdDSA").private_pem
    key = read_private_key(pem.decode())
    assert isinstance(key, Ed25519PrivateKey)
    private_jwk = OKPAlgorithm.to_jwk(key)

    assert read_private_key(private_jwk).public_key() == key.public_key()
    other = read_private_key(pair("ES256").private_pem)
    assert isinstance(other, ec.EllipticCurvePrivateKey)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{}",
        b"not a key",
        json.dumps(pair("EdDSA").jwk).encode(),
        json.dumps(pair("ES256").jwk).encode(),
        b'{"kty":"OKP","crv":"Ed25519","x":1,"d":2}',
        b'{"kty":"OKP","crv":"Ed25519","d":"AAAA"}',
        b'{"kty":"OKP","crv":"Ed25519","d":"AAAA","d":"AAAA"}',
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x" * 12)
        ),
        ec.generate_private_key(ec.SECP256R1())
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    ],
    ids=range(10),
)
def test_what_is_no_unencrypted_private_key_is_refused(document: bytes) -> None:
    with pytest.raises(ConfigError) as caught:
        read_private_key(document)
    assert len(str(caught.value)) < 80


def test_a_private_jwk_whose_halves_do_not_fit_is_refused() -> None:
    key = read_private_key(pair("EdDSA").private_pem)
    assert isinstance(key, Ed25519PrivateKey)
    private = json.loads(OKPAlgorithm.to_jwk(key))
    private["x"] = generate_key("EdDSA").jwk["x"]
    with pytest.raises(ConfigError, match="not a private key"):
        read_private_key(json.dumps(private))


def test_a_key_of_another_curve_is_refused() -> None:
    public = ec.generate_private_key(ec.SECP384R1()).public_key()
    with pytest.raises(ConfigError, match="no ES256 key"):
        public_jwk(public, "ES256")


def test_a_private_key_of_another_kind_is_refused() -> None:
    key = ed448.Ed448PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(ConfigError, match="supported kind"):
        read_private_key(pem)
