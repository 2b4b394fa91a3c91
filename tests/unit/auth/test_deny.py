"""Who is on the deny-list is refused, by whatever token."""

from __future__ import annotations

import pytest

from stream_executor.auth.deny import DenyList
from stream_executor.auth.token import VerifiedToken
from stream_executor.model.codes import Code
from stream_executor.modules.view import Denied
from tests.unit.auth.tokens import ISSUER, SUBJECT, judge, key_set, make_token

KEY = key_set().keys[0]


def token() -> VerifiedToken:
    verdict = judge(make_token())
    assert isinstance(verdict, VerifiedToken)
    return verdict


@pytest.mark.parametrize(
    "denied",
    [
        Denied(sub=frozenset({SUBJECT, "x"})),
        Denied(iss=frozenset({ISSUER})),
        Denied(kid=frozenset({KEY.kid})),
        Denied(kid=frozenset({KEY.key_id})),
    ],
)
def test_subject_issuer_and_key_are_revoked(denied: Denied) -> None:
    """Also the key of a token that names no kid."""
    assert DenyList.of(denied).decide(token()) is Code.AUTH_REVOKED


@pytest.mark.parametrize(
    "denied",
    [
        Denied(),
        Denied(sub=frozenset({"", "team-a", SUBJECT.upper(), ISSUER})),
        Denied(iss=frozenset({SUBJECT})),
        Denied(kid=frozenset({""})),
        Denied(modules=frozenset({bytes(32)})),
    ],
)
def test_others_are_not(denied: Denied) -> None:
    assert DenyList.of(denied).decide(token()) is None


def test_a_module_is_denied_by_its_digest() -> None:
    deny = DenyList.of(Denied(modules=frozenset({bytes(32)})))

    assert deny.decide_module(bytes(32)) is Code.DENIED_BY_POLICY
    assert deny.decide_module(b"x" * 32) is None
