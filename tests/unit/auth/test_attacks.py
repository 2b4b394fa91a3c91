"""Attacks on the token, by name: each is refused with its code and never raises.

That a refusal also leaves one result and one event and never enters the sandbox is
tested at the lane.
"""

from __future__ import annotations

import json

import pytest

from stream_executor.auth.keys import KeySet, Scope, secret_key
from stream_executor.auth.token import Place, Refusal, VerifiedToken, verify_token
from stream_executor.model.codes import Code
from tests.unit.auth.tokens import (
    AUDIENCE,
    ISSUER,
    NOW_S,
    PLACE,
    PREVIOUS,
    PROFILE,
    SCOPE,
    SECRET,
    VALUE,
    b64,
    code_of,
    good_claims,
    good_wx,
    hs256,
    judge,
    key_set,
    make_token,
    pair,
    s256,
    signer,
)

ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493


def respelled(text: str) -> bytes:
    """Give a token whose claims are this text, signed with the right secret."""
    return make_token(text.encode())


def claims_text(**changes: object) -> str:
    return json.dumps(good_claims(**changes))


def test_the_unspoilt_token_is_good() -> None:
    assert isinstance(judge(make_token()), VerifiedToken)


# -- T-01 forged signatures -------------------------------------------------------


@pytest.mark.threat("T-01")
def test_a_signature_by_another_secret_is_bad() -> None:
    assert code_of(judge(make_token(sign=hs256(PREVIOUS)))) is Code.AUTH_BAD_SIGNATURE


@pytest.mark.threat("T-01")
@pytest.mark.parametrize("at", range(3))
def test_a_flipped_character_in_any_segment_is_refused(at: int) -> None:
    segments = make_token().split(b".")
    middle = len(segments[at]) // 2
    flipped = b"A" if segments[at][middle : middle + 1] != b"A" else b"B"
    segments[at] = segments[at][:middle] + flipped + segments[at][middle + 1 :]

    assert isinstance(judge(b".".join(segments)), Refusal)


@pytest.mark.threat("T-01")
@pytest.mark.parametrize("algorithm", ["HS256", "EdDSA", "ES256"])
@pytest.mark.parametrize(
    "signature",
    [b"\0", bytes(31), bytes(32), bytes(33), bytes(63), bytes(64), bytes(65),
     b"\xff" * 64, bytes(31) + b"\x01" + bytes(31) + b"\x01", bytes(512)],
    ids=lambda signature: f"{len(signature)}-{signature[-1]}",
)  # fmt: skip
def test_zero_short_and_overlong_signatures_are_bad(
    algorithm: str, signature: bytes
) -> None:
    header = {"alg": algorithm}
    if algorithm != "HS256":
        header["kid"] = f"key-{algorithm}"
    token = make_token(header=header, sign=lambda _: signature)

    assert code_of(judge(token)) is Code.AUTH_BAD_SIGNATURE


@pytest.mark.threat("T-01")
def test_an_es256_signature_with_values_of_the_order_or_above_is_bad() -> None:
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

    def shifted(signing_input: bytes) -> bytes:
        good = signer("ES256")(signing_input)
        s = int.from_bytes(good[32:], "big") + order
        return good[:32] + (s % 2**256).to_bytes(32, "big")

    token = make_token(header={"alg": "ES256", "kid": "key-ES256"}, sign=shifted)
    assert code_of(judge(token)) is Code.AUTH_BAD_SIGNATURE


@pytest.mark.threat("T-01")
def test_an_ed25519_signature_with_s_not_reduced_is_bad() -> None:
    """RFC 8032 5.1.7: a signature's S is below the order of the group."""

    def unreduced(signing_input: bytes) -> bytes:
        good = signer("EdDSA")(signing_input)
        s = int.from_bytes(good[32:], "little") + ED25519_ORDER
        return good[:32] + s.to_bytes(32, "little")

    header = {"alg": "EdDSA", "kid": "key-EdDSA"}
    assert isinstance(
        judge(make_token(header=header, sign=signer("EdDSA"))), VerifiedToken
    )
    token = make_token(header=header, sign=unreduced)
    assert code_of(judge(token)) is Code.AUTH_BAD_SIGNATURE


@pytest.mark.threat("T-01")
def test_no_second_text_stands_for_a_signature() -> None:
    """PyJWT takes padding and set unused bits; whoever dedupes tokens must not."""
    token = make_token()
    last = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".index(
        token[-1:]
    )
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    twin = token[:-1] + alphabet[last + 1 : last + 2]

    for other in (twin, token + b"=", token + b"\n", token + b" ", b" " + token):
        assert code_of(judge(other)) is Code.AUTH_MALFORMED


@pytest.mark.threat("T-01")
def test_a_padded_signature_of_a_public_key_is_malformed() -> None:
    token = make_token(
        header={"alg": "EdDSA", "kid": "key-EdDSA"}, sign=signer("EdDSA")
    )

    assert isinstance(judge(token), VerifiedToken)
    assert code_of(judge(token + b"=")) is Code.AUTH_MALFORMED


# -- T-02 algorithm confusion -----------------------------------------------------


@pytest.mark.threat("T-02")
@pytest.mark.parametrize("alg", ["none", "None", "nOnE", "NONE", "HS384", "hs256", ""])
def test_an_algorithm_that_no_key_has_is_unknown(alg: str) -> None:
    assert code_of(judge(make_token(header={"alg": alg}))) is Code.AUTH_UNKNOWN_KEY


@pytest.mark.threat("T-02")
@pytest.mark.parametrize("alg", ["none", "None", "HS256"])
def test_a_token_without_signature_is_malformed(alg: str) -> None:
    token = make_token(header={"alg": alg}, sign=lambda _: b"")

    assert code_of(judge(token)) is Code.AUTH_MALFORMED


@pytest.mark.threat("T-02")
@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256"])
def test_a_public_key_is_no_hmac_secret(algorithm: str) -> None:
    public = json.dumps(pair(algorithm).jwk).encode()
    for kid in (f"key-{algorithm}", None):
        header = {"alg": "HS256"} | ({"kid": kid} if kid else {})
        verdict = judge(make_token(header=header, sign=hs256(public)))
        expected = Code.AUTH_UNKNOWN_KEY if kid else Code.AUTH_BAD_SIGNATURE
        assert code_of(verdict) is expected


@pytest.mark.threat("T-02")
def test_the_keys_algorithm_cannot_be_changed_by_the_token() -> None:
    for alg in ("ES256", "RS256", "HS256"):
        header = {"alg": alg, "kid": "key-EdDSA"}
        token = make_token(header=header, sign=signer("EdDSA"))
        assert code_of(judge(token)) is Code.AUTH_UNKNOWN_KEY


# -- T-03, T-04 binding -----------------------------------------------------------


@pytest.mark.threat("T-03")
@pytest.mark.parametrize(
    "place",
    [Place(PLACE.topic, 2), Place("wasm.requests2", 3), Place("wasm.Requests", 3)],
)
def test_a_token_for_another_topic_or_partition_is_refused(place: Place) -> None:
    verdict = judge(make_token(), place=place)

    assert verdict == Refusal(Code.AUTH_WRONG_BINDING)


@pytest.mark.threat("T-04")
@pytest.mark.parametrize("value", [VALUE + b" ", VALUE[:-1], b"", None])
def test_a_swapped_body_is_refused(value: bytes | None) -> None:
    assert judge(make_token(), value=value) == Refusal(Code.AUTH_WRONG_BINDING)


@pytest.mark.threat("T-04")
def test_a_swapped_module_is_a_swapped_body() -> None:
    signed = b'{"module":{"sha256":"aa"}}'
    token = make_token(good_claims(wx=good_wx(body_s256=s256(signed))))

    assert isinstance(judge(token, value=signed), VerifiedToken)
    swapped = judge(token, value=signed.replace(b"aa", b"bb"))
    assert code_of(swapped) is Code.AUTH_WRONG_BINDING


@pytest.mark.threat("T-04")
def test_a_record_without_value_is_not_a_record_with_an_empty_one() -> None:
    token = make_token(good_claims(wx=good_wx(body_s256=s256(b""))))

    assert isinstance(judge(token, value=b""), VerifiedToken)
    assert code_of(judge(token, value=None)) is Code.AUTH_WRONG_BINDING


# -- T-06 malformed and oversized tokens ------------------------------------------


@pytest.mark.threat("T-06")
@pytest.mark.parametrize(
    "token",
    [
        b"",
        b".",
        b"..",
        b"a.b",
        b"....",
        b"\xff\xfe.\x00.\x01",
        make_token() + b".",
        make_token() + b".AAAA",
        make_token() + b".AAAA.AAAA",
        b64(b'{"alg":"dir","enc":"A128GCM"}') + b"..AAAA.AAAA.AAAA",
        make_token().replace(b".", b"..", 1),
    ],
    ids=range(11),
)
def test_jwe_and_tokens_of_other_than_three_segments_are_malformed(
    token: bytes,
) -> None:
    assert code_of(judge(token)) is Code.AUTH_MALFORMED


@pytest.mark.threat("T-06")
def test_the_limit_of_8_kib_is_exact() -> None:
    def sized(padding: int) -> bytes:
        return make_token(good_claims(pad="x" * padding))

    padding = next(n for n in range(5000, 7000) if len(sized(n)) >= 8191)
    lengths = {len(sized(n)): judge(sized(n)) for n in range(padding, padding + 4)}

    assert isinstance(lengths[8192], VerifiedToken)
    assert {code_of(v) for n, v in lengths.items() if n > 8192} == {Code.AUTH_MALFORMED}


@pytest.mark.threat("T-06")
def test_a_token_of_a_megabyte_is_malformed() -> None:
    assert code_of(judge(b"A" * 2**20)) is Code.AUTH_MALFORMED


@pytest.mark.threat("T-06")
@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"a":['])
def test_deep_nesting_is_malformed_in_header_and_claims(opening: bytes) -> None:
    """PyJWT before 2.15 raised RecursionError here: one message, one dead consumer."""
    for depth in (5, 2000):
        deep = opening * depth
        assert code_of(judge(make_token(deep))) is Code.AUTH_MALFORMED
        assert code_of(judge(make_token(header=deep))) is Code.AUTH_MALFORMED
    nested = b64(opening * 100_000)
    assert code_of(judge(b".".join((nested, nested, b"AAAA")))) is Code.AUTH_MALFORMED


@pytest.mark.threat("T-06")
def test_four_levels_are_allowed_and_five_are_not() -> None:
    allowed, refused = good_claims(x=[[[1]]]), good_claims(x=[[[[1]]]])

    assert isinstance(judge(make_token(allowed)), VerifiedToken)
    assert code_of(judge(make_token(refused))) is Code.AUTH_MALFORMED


@pytest.mark.threat("T-06")
def test_brackets_inside_strings_are_no_nesting() -> None:
    claims = good_claims(x='[[[[[{{{{{"\\', sub='[{"')

    assert isinstance(judge(make_token(claims)), VerifiedToken)


@pytest.mark.threat("T-06")
def test_very_many_members_are_malformed() -> None:
    assert code_of(judge(make_token(good_claims(x=[0] * 300)))) is Code.AUTH_MALFORMED


@pytest.mark.threat("T-06")
@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("sub", '"sub": "victim"'),
        ("sub", '"s\\u0075b": "victim"'),
        ("wx", '"wx": {}'),
        ("exp", '"exp": 9999999999'),
        ("unknown", '"zz": 1, "zz": 2'),
    ],
)
def test_a_claim_that_occurs_twice_is_malformed(name: str, twin: str) -> None:
    """PyJWT takes the last one: two verifiers would read two tokens."""
    first = respelled("{" + twin + ", " + claims_text()[1:])
    last = respelled(claims_text()[:-1] + ", " + twin + "}")

    assert code_of(judge(first)) is Code.AUTH_MALFORMED, name
    assert code_of(judge(last)) is Code.AUTH_MALFORMED, name


@pytest.mark.threat("T-06")
def test_a_name_that_occurs_twice_below_is_malformed_too() -> None:
    inside = claims_text().replace('"partition": 3', '"partition": 4, "partition": 3')
    header = b'{"alg":"none","alg":"HS256"}'

    assert code_of(judge(respelled(inside))) is Code.AUTH_MALFORMED
    assert code_of(judge(make_token(header=header))) is Code.AUTH_MALFORMED


@pytest.mark.threat("T-06")
@pytest.mark.parametrize("time", ["iat", "exp", "nbf"])
@pytest.mark.parametrize(
    "spelling",
    ["NaN", "Infinity", "-Infinity", "1e400", "1.79e9", "1790000000.0", "-1", "true",
     "null", '"1790000000"', "[]", "{}", "01", "1790000000000000000000", "2e9"],
)  # fmt: skip
def test_a_time_that_is_no_plain_number_is_malformed(time: str, spelling: str) -> None:
    text = claims_text(**{time: 4242}).replace("4242", spelling)

    assert code_of(judge(respelled(text))) is Code.AUTH_MALFORMED


@pytest.mark.threat("T-06")
@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e400", "-1e999"])
def test_numbers_that_json_has_not_are_malformed_in_unknown_claims_too(
    value: str,
) -> None:
    text = claims_text(zz=4242).replace("4242", value)

    assert code_of(judge(respelled(text))) is Code.AUTH_MALFORMED


@pytest.mark.threat("T-06")
@pytest.mark.parametrize(
    "changes",
    [
        *({name: ...} for name in good_claims()),
        *({name: 7} for name in good_claims() if name not in ("iat", "exp")),
        *({name: None} for name in good_claims()),
        {"aud": [AUDIENCE]},
        {"aud": []},
        {"iss": ""},
        {"iss": "x" * 257},
        {"iss": "é" * 129},
        {"sub": ""},
        {"sub": "a\nb"},
        {"sub": "a\x00b"},
        {"sub": "a\x7fb"},
        {"sub": "a\x85b"},
        {"sub": "a\ud800b"},
        {"jti": ""},
        {"jti": "x" * 15},
        {"jti": "x" * 65},
        {"jti": "x" * 15 + " "},
        {"jti": "x" * 15 + '"'},
        {"jti": "x" * 15 + "\\"},
        {"jti": "x" * 15 + "é"},
        {"jti": "x" * 15 + "\x7f"},
        {"role": "agent"},
        {"role": "Root"},
        {"role": ["Agent"]},
        {"exp": True},
        {"wx": []},
        {"wx": good_wx(v=2)},
        {"wx": good_wx(v=1.0)},
        {"wx": good_wx(v=True)},
        {"wx": good_wx(v="1")},
        {"wx": good_wx(v=...)},
        {"wx": good_wx(topic=...)},
        {"wx": good_wx(topic="")},
        {"wx": good_wx(topic="t" * 250)},
        {"wx": good_wx(partition=...)},
        {"wx": good_wx(partition=-1)},
        {"wx": good_wx(partition=3.0)},
        {"wx": good_wx(partition="3")},
        {"wx": good_wx(partition=2**31)},
        {"wx": good_wx(body_s256=...)},
        {"wx": good_wx(body_s256="x" * 42)},
        {"wx": good_wx(key="x")},
    ],
    ids=repr,
)
def test_claims_outside_the_profile_are_malformed(changes: dict[str, object]) -> None:
    assert code_of(judge(make_token(good_claims(**changes)))) is Code.AUTH_MALFORMED


@pytest.mark.threat("T-06")
@pytest.mark.parametrize(
    "payload",
    [b"[]", b"1", b'"x"', b"null", b"{", b"{}x", b"{} {}", b"", b"\xef\xbb\xbf{}",
     b'{"sub":"\xff"}', b'{"a":"\xed\xa0\x80"}', b"{'a':1}", b'{"a":1,}', b'{"a"}',
     b'{"a":"\n"}', '{"a":1}'.encode("utf-16"), b'"' * 3000, b'"\\"[' * 1500],
)  # fmt: skip
def test_what_is_no_json_object_is_malformed(payload: bytes) -> None:
    token = b".".join((b64(b'{"alg":"HS256"}'), b64(payload) or b"", b64(bytes(32))))
    assert code_of(judge(token)) is Code.AUTH_MALFORMED
    token = b".".join((b64(payload) or b"", b64(b"{}"), b64(bytes(32))))
    assert code_of(judge(token)) is Code.AUTH_MALFORMED


@pytest.mark.threat("T-06")
def test_a_nested_token_is_malformed() -> None:
    header = {"alg": "HS256", "cty": "JWT"}

    assert code_of(judge(make_token(header=header))) is Code.AUTH_MALFORMED
    assert code_of(judge(make_token(make_token()))) is Code.AUTH_MALFORMED


@pytest.mark.threat("T-06")
@pytest.mark.parametrize("typ", ["JWE", "jwt", "at+jwt", "dpop+jwt", "", 1, None, []])
def test_a_token_of_another_type_is_malformed(typ: object) -> None:
    header = {"alg": "HS256", "typ": typ}

    assert code_of(judge(make_token(header=header))) is Code.AUTH_MALFORMED


@pytest.mark.threat("T-06")
@pytest.mark.parametrize("alg", [None, 1, True, [], "x" * 17])
def test_an_alg_that_is_no_name_is_malformed(alg: object) -> None:
    assert code_of(judge(make_token(header={"alg": alg}))) is Code.AUTH_MALFORMED


@pytest.mark.threat("T-06")
@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ([], Code.AUTH_MISSING),
        ([("Authorization", b"Bearer x")], Code.AUTH_MISSING),
        ([("authorization", None)], Code.AUTH_MALFORMED),
        ([("authorization", b"")], Code.AUTH_MALFORMED),
        ([("authorization", make_token())], Code.AUTH_MALFORMED),
        ([("authorization", b"bearer " + make_token())], Code.AUTH_MALFORMED),
        ([("authorization", b"Bearer  " + make_token())], Code.AUTH_MALFORMED),
        ([("authorization", b"Basic eDp5")], Code.AUTH_MALFORMED),
        ([("authorization", b"Bearer " + make_token())] * 2, Code.AUTH_MALFORMED),
        (
            [("authorization", None), ("authorization", b"Bearer " + make_token())],
            Code.AUTH_MALFORMED,
        ),
    ],
)
def test_there_is_exactly_one_bearer_header(
    headers: list[tuple[str, bytes]], code: Code
) -> None:
    verdict = verify_token(headers, VALUE, PLACE, NOW_S * 1000, key_set(), PROFILE)

    assert verdict == Refusal(code)


# -- T-07 key injection -----------------------------------------------------------


@pytest.mark.threat("T-07")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jwk", pair("EdDSA").jwk),
        ("jku", "https://attacker.example/jwks"),
        ("x5u", "https://attacker.example/cert"),
        ("x5c", ["AAAA"]),
        ("crit", ["exp"]),
        ("crit", ["b64"]),
        ("b64", False),
        ("zip", "DEF"),
        ("x", 1),
    ],
)
def test_a_header_that_brings_a_key_or_an_extension_is_malformed(
    name: str, value: object
) -> None:
    header = {"alg": "HS256", name: value}

    assert code_of(judge(make_token(header=header))) is Code.AUTH_MALFORMED


@pytest.mark.threat("T-07")
@pytest.mark.parametrize(
    "kid",
    ["../../etc/passwd", "/dev/null", "' OR 1=1 --", "x" * 65, "", "a b", "é", "k\n",
     "a\x00", None, 1, [], {"a": 1}],
)  # fmt: skip
def test_a_kid_that_is_a_path_a_query_or_no_name_is_malformed(kid: object) -> None:
    header = {"alg": "HS256", "kid": kid}

    assert code_of(judge(make_token(header=header))) is Code.AUTH_MALFORMED


@pytest.mark.threat("T-07")
def test_a_flood_of_unknown_kids_leaves_nothing_behind() -> None:
    keys = KeySet([secret_key(SECRET, SCOPE)])
    for number in range(1000):
        header = {"alg": "HS256", "kid": f"unknown-{number}"}
        token = make_token(header=header)
        assert code_of(judge(token, keys=keys)) is Code.AUTH_UNKNOWN_KEY
    assert not keys._headers


@pytest.mark.threat("T-07")
def test_a_kid_must_match_exactly() -> None:
    for kid in ("key-eddsa", "key-EdDS", "key-EdDSA.", "key"):
        header = {"alg": "EdDSA", "kid": kid}
        token = make_token(header=header, sign=signer("EdDSA"))
        assert code_of(judge(token)) is Code.AUTH_UNKNOWN_KEY


@pytest.mark.threat("T-07")
def test_an_asymmetric_token_without_kid_names_no_key() -> None:
    token = make_token(header={"alg": "EdDSA"}, sign=signer("EdDSA"))

    assert code_of(judge(token)) is Code.AUTH_UNKNOWN_KEY


# -- T-10 issuer and audience -----------------------------------------------------


@pytest.mark.threat("T-10")
@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://other.example"},
        {"iss": ISSUER[:-1]},
        {"iss": ISSUER + "/"},
        {"iss": ISSUER.upper()},
        {"aud": "wasm-executor/other"},
        {"aud": AUDIENCE[:-1]},
        {"aud": AUDIENCE + "2"},
    ],
)
def test_a_key_speaks_for_its_issuers_and_its_audience_exactly(
    changes: dict[str, object],
) -> None:
    """PyJWT 2.10.0 compared issuers by containment (GHSA-75c5-xw7c-p5pm)."""
    verdict = judge(make_token(good_claims(**changes)))

    assert verdict == Refusal(Code.AUTH_WRONG_AUDIENCE)


@pytest.mark.threat("T-10")
def test_one_issuers_key_cannot_sign_as_another_issuer() -> None:
    a = secret_key(SECRET, Scope(frozenset({"a"}), AUDIENCE))
    b = secret_key(PREVIOUS, Scope(frozenset({"b"}), AUDIENCE))
    keys = KeySet([a, b])

    for secret, iss, fits in (
        (SECRET, "a", True),
        (SECRET, "b", False),
        (PREVIOUS, "b", True),
        (PREVIOUS, "a", False),
    ):
        token = make_token(good_claims(iss=iss), sign=hs256(secret))
        expected = None if fits else Code.AUTH_WRONG_AUDIENCE
        assert code_of(judge(token, keys=keys)) is expected
