"""Inspection explains a token and believes none of it."""

from __future__ import annotations

import pytest

from stream_executor.auth.inspection import inspect_token
from stream_executor.model.codes import Code
from tests.unit.auth.tokens import good_claims, make_token


@pytest.mark.parametrize("prefix", [b"", b"Bearer ", b" \n"])
def test_a_good_token_shows_its_contents(prefix: bytes) -> None:
    found = inspect_token(prefix + make_token() + b"\n")

    assert found.header == {"alg": "HS256", "typ": "JWT"}
    assert found.claims == good_claims()
    assert found.code is None
    assert found.findings == []


def test_everything_malformed_is_named_at_once() -> None:
    token = make_token(good_claims(jti="short"), {"alg": "HS256", "jku": "x"}) + b"="
    found = inspect_token(token)

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
    found = inspect_token(token)

    assert found.code is Code.AUTH_MALFORMED
    assert found.findings
    assert found.header is None
    assert found.claims is None
