"""What our signer signs, a worker verifies; what it is given wrongly, it refuses."""

from __future__ import annotations

import json

import jwt
import pytest
from jwt.algorithms import OKPAlgorithm

from stream_executor.auth.jwks import read_private_key
from stream_executor.auth.keys import KeySet
from stream_executor.auth.sign import RequestSigner
from stream_executor.auth.token import VerifiedToken
from stream_executor.model.codes import Code
from stream_executor.model.errors import ConfigError
from tests.unit.auth.tokens import (
    ALGORITHMS,
    AUDIENCE,
    ISSUER,
    NOW_S,
    PLACE,
    SECRET,
    SUBJECT,
    VALUE,
    code_of,
    judge,
    key_set,
    pair,
    public_keys,
)


def by_secret(secret: str | bytes = SECRET, kid: str | None = None) -> RequestSigner:
    return RequestSigner.from_secret(
        secret, issuer=ISSUER, subject=SUBJECT, audience=AUDIENCE, kid=kid
    )


def by_key(
    document: str | bytes, kid: str, algorithm: str | None = None
) -> RequestSigner:
    return RequestSigner.from_private_key(
        document,
        kid=kid,
        issuer=ISSUER,
        subject=SUBJECT,
        audience=AUDIENCE,
        algorithm=algorithm,
    )


def sign(signer: RequestSigner) -> bytes:
    return signer.sign(PLACE.topic, PLACE.partition, VALUE, now_s=NOW_S)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_signed_with_a_private_key_it_verifies(algorithm: str) -> None:
    signer = by_key(pair(algorithm).private_pem, f"key-{algorithm}", algorithm)
    verdict = judge(sign(signer), keys=KeySet(public_keys(algorithm)))

    assert isinstance(verdict, VerifiedToken)
    assert verdict.key.algorithm == algorithm
    assert verdict.principal.sub == SUBJECT


@pytest.mark.parametrize("secret", [SECRET, SECRET.decode()])
@pytest.mark.parametrize("kid", [None, key_set().keys[0].kid])
def test_signed_with_the_secret_it_verifies(
    secret: str | bytes, kid: str | None
) -> None:
    verdict = judge(sign(by_secret(secret, kid)))

    assert isinstance(verdict, VerifiedToken)
    assert verdict.principal.kid == (kid or "")


def test_the_algorithm_follows_from_the_key() -> None:
    assert by_key(pair("EdDSA").private_pem, "k").algorithm == "EdDSA"
    assert by_key(pair("ES256").private_pem, "k").algorithm == "ES256"
    assert by_key(pair("RS256").private_pem, "k").algorithm == "RS256"


def test_a_private_jwk_signs() -> None:
    key = read_private_key(pair("EdDSA").private_pem)
    document = json.dumps(jwt.PyJWK.from_json(OKPAlgorithm.to_jwk(key))._jwk_data)  # type: ignore[arg-type]
    verdict = judge(sign(by_key(document, "key-EdDSA")))

    assert isinstance(verdict, VerifiedToken)


def test_every_token_has_its_own_jti() -> None:
    tokens = {sign(by_secret()) for _ in range(100)}

    assert len(tokens) == 100


def test_what_is_asked_for_is_signed() -> None:
    token = by_secret().sign(
        "t", 0, b"v", now_s=5, jti="j" * 16, lifetime_s=7, role="Auditor"
    )
    claims = jwt.decode(token, options={"verify_signature": False})

    assert (claims["iat"], claims["exp"], claims["jti"]) == (5, 12, "j" * 16)
    assert (claims["role"], claims["wx"]["topic"]) == ("Auditor", "t")


def test_a_token_is_good_for_its_record_only() -> None:
    assert code_of(judge(sign(by_secret()), value=b"x")) is Code.AUTH_WRONG_BINDING


@pytest.mark.parametrize("secret", ["", "short", "x" * 40])
def test_a_secret_that_no_worker_takes_is_refused(secret: str) -> None:
    with pytest.raises(ConfigError):
        by_secret(secret)


def test_a_wrong_kid_algorithm_or_key_is_refused() -> None:
    pem = pair("EdDSA").private_pem
    with pytest.raises(ConfigError, match="kid"):
        by_key(pem, "a b")
    with pytest.raises(ConfigError, match="no ES256 key"):
        by_key(pem, "k", "ES256")
    with pytest.raises(ConfigError, match="not an unencrypted"):
        by_key("nonsense", "k")
