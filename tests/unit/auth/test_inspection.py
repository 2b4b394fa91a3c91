"""Inspection explains a token and believes none of it."""

from __future__ import annotations

import pytest

from stream_executor.auth.inspection import Inspection, inspect_token
from stream_executor.model.codes import Code
from tests.unit.auth.tokens import (
    NOW_S,
    PLACE,
    PREVIOUS,
    VALUE,
    good_claims,
    hs256,
    key_set,
    make_token,
)

NOW_MS = NOW_S * 1000


def inspect(token: bytes, *, later_ms: int = 0) -> Inspection:
    return inspect_token(
        token, now_ms=NOW_MS + later_ms, keys=key_set(), place=PLACE, value=VALUE
    )


@pytest.mark.parametrize("prefix", [b"", b"Bearer ", b" \n"])
def test_a_good_token_shows_its_contents(prefix: bytes) -> None:
    found = inspect(prefix + make_token() + b"\n")

    assert found.header == {"alg": "HS256", "typ": "JWT"}
    assert found.claims == good_claims()
    assert found.verified
    assert found.code is None
    assert found.findings == []


def test_without_keys_nothing_is_verified() -> None:
    found = inspect_token(make_token(sign=hs256(PREVIOUS)), now_ms=NOW_MS)

    assert not found.verified
    assert found.code is None


def test_the_workers_own_judgement_is_given() -> None:
    forged = inspect(make_token(sign=hs256(PREVIOUS)))
    expired = inspect(make_token(), later_ms=999_000)

    assert (forged.code, forged.verified) == (Code.AUTH_BAD_SIGNATURE, False)
    assert expired.code is Code.AUTH_EXPIRED
    assert "Sign each request just before sending it" in expired.findings[0]


def test_everything_malformed_is_named_at_once() -> None:
    token = make_token(good_claims(jti="short"), {"alg": "HS256", "jku": "x"}) + b"="
    found = inspect(token)

    assert found.code is Code.AUTH_MALFORMED
    assert [finding.split(":")[0] for finding in found.findings] == [
        "header",
        "claims",
        "signature",
    ]
    assert found.claims is not None
    assert found.claims["jti"] == "short"


@pytest.mark.parametrize(
    "token", [b"", b"x", b"a.b.c.d", b"!.!.!", b"A" * 9000, make_token(b"[", b"{")]
)
def test_garbage_is_explained_too(token: bytes) -> None:
    found = inspect(token)

    assert found.code is Code.AUTH_MALFORMED
    assert found.findings
    assert found.header is None
    assert found.claims is None
