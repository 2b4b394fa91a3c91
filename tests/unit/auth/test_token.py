"""What a good token gives, the order of the steps, and the edges of time."""

from __future__ import annotations

import hashlib

import pytest

from stream_executor.auth.keys import KeySet, Scope, secret_key
from stream_executor.auth.token import (
    Refusal,
    TokenProfile,
    VerifiedToken,
    authorize,
    jti_hash,
)
from stream_executor.model.audit import Principal
from stream_executor.model.codes import Code, Role
from tests.unit.auth.tokens import (
    ALGORITHMS,
    AUDIENCE,
    ISSUER,
    NOW_S,
    PREVIOUS,
    SCOPE,
    SECRET,
    SUBJECT,
    code_of,
    good_claims,
    good_wx,
    hs256,
    judge,
    key_set,
    make_token,
    public_keys,
    signer,
)


def at(seconds: float) -> int:
    return round((NOW_S + seconds) * 1000)


def test_a_verified_token_says_what_the_audit_cites() -> None:
    token = make_token()
    key = key_set().keys[0]

    assert judge(token) == VerifiedToken(
        Principal(
            iss=ISSUER,
            sub=SUBJECT,
            role="Agent",
            kid="",
            key_id=key.key_id,
            token_s256=hashlib.sha256(token).digest(),
            jti_hash=hashlib.sha256(
                b"wx/jti/v1\0" + ISSUER.encode() + b"\0" + b"0123456789abcdef"
            ).digest()[:16],
            iat=NOW_S,
            exp=NOW_S + 120,
        ),
        key,
    )


def test_the_jti_hash_depends_on_issuer_and_jti() -> None:
    hashes = {jti_hash(i, j) for i, j in (("a", "bc"), ("ab", "c"), ("a", "bd"))}

    assert len(hashes) == 3
    assert all(len(each) == 16 for each in hashes)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_each_public_key_algorithm_verifies(algorithm: str) -> None:
    keys = KeySet(public_keys(algorithm))
    header = {"alg": algorithm, "kid": f"key-{algorithm}"}
    token = make_token(header=header, sign=signer(algorithm))

    for _ in range(2):  # the second time by the remembered header
        verdict = judge(token, keys=keys)
        assert isinstance(verdict, VerifiedToken)
        assert verdict.principal.kid == f"key-{algorithm}"
        assert verdict.key.algorithm == algorithm
        assert verdict.key.key_id == verdict.principal.key_id


def test_current_and_previous_secret_both_verify_and_kid_picks_one() -> None:
    current, previous = secret_key(SECRET, SCOPE), secret_key(PREVIOUS, SCOPE)
    keys = KeySet([current, previous])

    for secret, key, other in (
        (SECRET, current, previous),
        (PREVIOUS, previous, current),
    ):
        for kid in (None, key.kid):
            header = {"alg": "HS256"} | ({"kid": kid} if kid else {})
            verdict = judge(make_token(header=header, sign=hs256(secret)), keys=keys)
            assert isinstance(verdict, VerifiedToken)
            assert verdict.key is key
            assert verdict.principal.kid == (kid or "")
        wrong = make_token(
            header={"alg": "HS256", "kid": other.kid}, sign=hs256(secret)
        )
        assert code_of(judge(wrong, keys=keys)) is Code.AUTH_BAD_SIGNATURE


@pytest.mark.parametrize(
    ("claims", "is_ordinary"),
    [
        (good_claims(), True),
        (good_claims(nbf=NOW_S), True),
        (good_claims(scope="x", amr=["pwd"]), False),
        (good_claims(sub="zoë"), False),
        (good_claims(sub='say "hi"'), False),
        (good_claims(jti="!#$%&()*+,-./:;<=>?@[]^_`{|}~"), True),
        (good_claims(iss="é" * 128), False),
    ],
)
def test_ordinary_and_unusual_claims_are_both_read(
    claims: dict[str, object], *, is_ordinary: bool
) -> None:
    scope = Scope(frozenset({ISSUER, "é" * 128}), AUDIENCE)
    keys = KeySet([secret_key(SECRET, scope)])
    verdict = judge(make_token(claims), keys=keys)

    assert isinstance(verdict, VerifiedToken), is_ordinary
    assert (verdict.principal.iss, verdict.principal.sub) == (
        claims["iss"],
        claims["sub"],
    )


@pytest.mark.parametrize("typ", ["JWT", "wasm-exec+jwt"])
def test_both_types_are_taken(typ: str) -> None:
    assert isinstance(
        judge(make_token(header={"alg": "HS256", "typ": typ})), VerifiedToken
    )


# -- the order of the steps -------------------------------------------------------


def test_each_step_comes_before_the_next() -> None:
    """A token that fails at several steps is refused with the first one's code."""
    late = at(9999)
    unknown = {"alg": "HS256", "kid": "unknown"}
    wrong_wx = good_wx(partition=99)
    malformed = good_claims(aud="x", wx=wrong_wx, sub="")
    impostor = hs256(PREVIOUS)
    audience = good_claims(aud="x", wx=wrong_wx)
    tokens = [
        (make_token(malformed, header=unknown, sign=impostor), Code.AUTH_MALFORMED),
        (make_token(audience, header=unknown, sign=impostor), Code.AUTH_UNKNOWN_KEY),
        (make_token(audience, sign=impostor), Code.AUTH_BAD_SIGNATURE),
        (make_token(audience), Code.AUTH_WRONG_AUDIENCE),
        (make_token(good_claims(wx=wrong_wx)), Code.AUTH_WRONG_BINDING),
        (make_token(), Code.AUTH_EXPIRED),
    ]

    for token, code in tokens:
        assert code_of(judge(token, at_ms=late)) is code


def test_a_malformed_signature_segment_comes_before_the_unknown_key() -> None:
    header = {"alg": "HS256", "kid": "unknown"}

    assert code_of(judge(make_token(header=header) + b"=")) is Code.AUTH_MALFORMED


def test_only_a_refusal_for_time_cites_the_principal() -> None:
    good = judge(make_token())
    refused = judge(make_token(), at_ms=at(9999))

    assert isinstance(good, VerifiedToken)
    assert refused == Refusal(Code.AUTH_EXPIRED, good.principal)


# -- time -------------------------------------------------------------------------


@pytest.mark.threat("T-08")
@pytest.mark.parametrize(
    ("claims", "seconds", "code"),
    [
        # iat at most 30 s ahead of the lane
        ({"iat": NOW_S + 29}, 0, None),
        ({"iat": NOW_S + 30}, 0, None),
        ({"iat": NOW_S + 30}, -0.001, Code.AUTH_NOT_YET_VALID),
        ({"iat": NOW_S + 31}, 0, Code.AUTH_NOT_YET_VALID),
        # so does nbf, whichever is later
        ({"nbf": NOW_S + 29}, 0, None),
        ({"nbf": NOW_S + 30}, 0, None),
        ({"nbf": NOW_S + 31}, 0, Code.AUTH_NOT_YET_VALID),
        ({"nbf": NOW_S - 99, "iat": NOW_S + 31}, 0, Code.AUTH_NOT_YET_VALID),
        # exp is exclusive, with 30 s of leeway
        ({"exp": NOW_S + 10}, 39, None),
        ({"exp": NOW_S + 10}, 39.999, None),
        ({"exp": NOW_S + 10}, 40, Code.AUTH_EXPIRED),
        ({"exp": NOW_S + 10}, 41, Code.AUTH_EXPIRED),
        # appended within 120 s of iat, whatever exp says, without leeway
        ({"exp": NOW_S + 3600}, 119, None),
        ({"exp": NOW_S + 3600}, 120, None),
        ({"exp": NOW_S + 3600}, 120.001, Code.AUTH_EXPIRED),
        ({"exp": NOW_S + 3600}, 121, Code.AUTH_EXPIRED),
        # a lifetime of 1 to 3,600 s
        ({"exp": NOW_S + 1}, 0, None),
        ({"exp": NOW_S}, 0, Code.AUTH_EXPIRED),
        ({"exp": NOW_S - 1}, 0, Code.AUTH_EXPIRED),
        ({"exp": NOW_S + 3599}, 0, None),
        ({"exp": NOW_S + 3601}, 0, Code.AUTH_EXPIRED),
        ({"exp": 253_402_300_799}, 0, Code.AUTH_EXPIRED),
        ({"iat": 0, "exp": 3600}, 0, Code.AUTH_EXPIRED),
    ],
)
def test_the_edges_of_time_are_exact(
    claims: dict[str, int], seconds: float, code: Code | None
) -> None:
    token = make_token(good_claims(exp=claims.get("iat", NOW_S) + 60) | claims)

    assert code_of(judge(token, at_ms=at(seconds))) is code


@pytest.mark.threat("T-08")
def test_the_limits_in_time_are_the_profiles() -> None:
    profile = TokenProfile(max_lifetime_s=60, max_append_age_s=10, leeway_s=5)
    token = make_token(good_claims(exp=NOW_S + 60))

    assert code_of(judge(token, at_ms=at(10), profile=profile)) is None
    assert code_of(judge(token, at_ms=at(11), profile=profile)) is Code.AUTH_EXPIRED
    assert code_of(judge(token, at_ms=at(-5), profile=profile)) is None
    assert (
        code_of(judge(token, at_ms=at(-6), profile=profile)) is Code.AUTH_NOT_YET_VALID
    )
    assert profile.replay_window_ms == 15_000
    assert TokenProfile().replay_window_ms == 150_000


@pytest.mark.threat("T-05")
@pytest.mark.parametrize("append_age_s", [1, 120, 300])
@pytest.mark.parametrize("leeway_s", [0, 30])
def test_the_replay_window_covers_every_moment_a_token_passes(
    append_age_s: int, leeway_s: int
) -> None:
    profile = TokenProfile(3600, append_age_s, leeway_s)
    token = make_token(good_claims(exp=NOW_S + 3600))
    passes = [
        ms
        for second in range(-leeway_s - 2, append_age_s + 3)
        for ms in (at(second) - 1, at(second), at(second) + 1)
        if code_of(judge(token, at_ms=ms, profile=profile)) is None
    ]

    assert passes[-1] - passes[0] == profile.replay_window_ms


# -- roles ------------------------------------------------------------------------


@pytest.mark.threat("T-09")
@pytest.mark.parametrize(
    ("role", "ceiling", "may"),
    [
        (Role.AGENT, Role.AGENT, True),
        (Role.AGENT, Role.ADMINISTRATOR, True),
        (Role.AGENT, Role.AUDITOR, False),
        (Role.ADMINISTRATOR, Role.AGENT, False),
        (Role.ADMINISTRATOR, Role.ADMINISTRATOR, True),
        (Role.ADMINISTRATOR, Role.AUDITOR, False),
        (Role.AUDITOR, Role.AGENT, False),
        (Role.AUDITOR, Role.ADMINISTRATOR, False),
        (Role.AUDITOR, Role.AUDITOR, False),
    ],
)
def test_a_role_counts_as_far_as_its_keys_ceiling(
    role: Role, ceiling: Role, *, may: bool
) -> None:
    keys = KeySet([secret_key(SECRET, Scope(frozenset({ISSUER}), AUDIENCE, ceiling))])
    verdict = judge(make_token(good_claims(role=role)), keys=keys)

    assert isinstance(verdict, VerifiedToken)
    assert authorize(verdict) is (None if may else Code.ACCESS_DENIED)


# -- the remembered header --------------------------------------------------------


def test_a_header_is_remembered_once_a_signature_held() -> None:
    keys = KeySet([secret_key(SECRET, SCOPE)])
    segment = make_token().split(b".", maxsplit=1)[0]

    judge(make_token(sign=hs256(PREVIOUS)), keys=keys)
    assert keys.recall(segment) is None
    judge(make_token(), keys=keys)
    assert keys.recall(segment) is not None
    bad = judge(make_token(sign=hs256(PREVIOUS)), keys=keys)
    assert code_of(bad) is Code.AUTH_BAD_SIGNATURE


def test_the_memory_of_headers_is_bounded() -> None:
    keys = KeySet([secret_key(SECRET, SCOPE)])
    for spaces in range(200):
        header = b'{"alg":"HS256"' + b" " * spaces + b"}"
        assert isinstance(judge(make_token(header=header), keys=keys), VerifiedToken)
    assert len(keys._headers) <= 64


def test_a_remembered_header_of_one_key_set_means_nothing_to_another() -> None:
    first, second = (KeySet([secret_key(s, SCOPE)]) for s in (SECRET, PREVIOUS))
    judge(make_token(), keys=first)

    assert code_of(judge(make_token(), keys=second)) is Code.AUTH_BAD_SIGNATURE


def test_a_token_is_the_same_principal_wherever_it_is_verified() -> None:
    token = make_token(
        header={"alg": "EdDSA", "kid": "key-EdDSA"}, sign=signer("EdDSA")
    )
    verdicts = [judge(token, keys=KeySet(public_keys("EdDSA"))) for _ in range(2)]

    assert isinstance(verdicts[0], VerifiedToken)
    assert isinstance(verdicts[1], VerifiedToken)
    assert verdicts[0].principal == verdicts[1].principal
