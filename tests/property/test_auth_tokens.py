"""Our token parser against PyJWT, and against itself: no input makes it raise.

Whatever ours accepts, PyJWT accepts with the same claims (the reverse is not wanted:
PyJWT takes repeated names, times as text and padded signatures).
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import jwt
import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stream_executor.auth.claims import quick_claims, read_header, strict_claims
from stream_executor.auth.jose import decode_segment, encode_segment, parse_object
from stream_executor.auth.token import Refusal, VerifiedToken, verify_token
from stream_executor.model.errors import MalformedError
from tests.unit.auth.tokens import (
    AUDIENCE,
    HEADER,
    ISSUER,
    NOW_S,
    PLACE,
    PROFILE,
    SECRET,
    VALUE,
    b64,
    good_claims,
    good_wx,
    judge,
    key_set,
    make_token,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from jwt.types import Options

OPTIONS: Options = {
    "require": ["exp", "iat", "jti"],
    "verify_exp": False,
    "verify_iat": False,
    "verify_nbf": False,
}

odd_text = st.text(max_size=40) | st.sampled_from(
    ["", "\\", '"', "\x00", "\x7f", "é", "\ud800", "a" * 300, '","sub":"x', "{[{["]
)
odd_numbers = st.integers() | st.floats() | st.sampled_from([0, -0.0, 2**63, 10**40])
odd_values = st.recursive(
    st.none() | st.booleans() | odd_numbers | odd_text,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(odd_text, inner, max_size=3)
    ),
    max_leaves=6,
)
names = st.sampled_from(
    [*good_claims(), *good_wx(), "nbf", "scope", "cnf", "Iss", "i\u0073s", "wx "]
)


@st.composite
def members(draw: st.DrawFn, base: Callable[[], dict[str, object]]) -> str:
    """Write a JSON object: good members with some changed, added, left out, doubled."""
    pairs = list(base().items())
    for _ in range(draw(st.integers(0, 3))):
        change = draw(st.integers(0, 3))
        at = draw(st.integers(0, len(pairs) - 1)) if pairs else 0
        if change == 0 and pairs:
            del pairs[at]
        elif change == 1 and pairs:
            pairs[at] = (pairs[at][0], draw(odd_values))
        else:
            pairs.insert(at, (draw(names), draw(odd_values)))
    space = draw(st.sampled_from(["", " ", "\n\t", "\r", "\x0b"]))
    ascii_only = draw(st.booleans())
    text = (space + "," + space).join(
        json.dumps(name, ensure_ascii=ascii_only)
        + f"{space}:{space}"
        + json.dumps(value, ensure_ascii=ascii_only)
        for name, value in pairs
    )
    return space + "{" + text + "}" + draw(st.sampled_from(["", "", " ", "x", "\x00"]))


def spoilt(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


payloads = (
    members(good_claims).map(spoilt)
    | st.builds(
        lambda text, wx: spoilt(text.replace(json.dumps(good_wx()), wx)),
        members(good_claims),
        members(good_wx),
    )
    | st.binary(max_size=200)
)
headers = members(lambda: dict(HEADER)).map(spoilt) | st.binary(max_size=60)


@settings(max_examples=200)
@given(payloads, headers | st.just(json.dumps(HEADER).encode()))
@example(json.dumps(good_claims(nbf=NOW_S)).encode(), json.dumps(HEADER).encode())
def test_what_ours_accepts_pyjwt_accepts_with_the_same_claims(
    payload: bytes, header: bytes
) -> None:
    token = make_token(payload or b"{}", header)
    verdict = judge(token)
    if isinstance(verdict, Refusal):
        return
    theirs = jwt.decode(
        token,
        SECRET,
        algorithms=["HS256"],
        audience=AUDIENCE,
        issuer=ISSUER,
        options=OPTIONS,
    )
    ours = msgspec.to_builtins(strict_claims(token.split(b".")[1]))
    assert theirs == theirs | ours
    assert (theirs["sub"], theirs["role"]) == (
        verdict.principal.sub,
        verdict.principal.role,
    )


@settings(max_examples=200)
@given(payloads)
@example(json.dumps(good_claims()).encode())
@example(json.dumps(good_claims(nbf=NOW_S)).encode())
@example(json.dumps(good_claims()).replace("Agent", "Ag\x7fnt").encode())
def test_what_the_quick_way_accepts_the_strict_way_reads_the_same(
    payload: bytes,
) -> None:
    segment = encode_segment(payload)
    quick = quick_claims(segment)
    try:
        strict = strict_claims(segment)
    except MalformedError:
        strict = None
    if quick is not None:
        assert quick == strict


def test_the_quick_way_serves_ordinary_tokens() -> None:
    """Otherwise the property above would hold for nothing."""
    assert quick_claims(make_token().split(b".")[1]) is not None
    assert quick_claims(make_token(good_claims(nbf=1)).split(b".")[1]) is not None


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["authorization", "Authorization", "x"]),
            st.none() | st.binary(max_size=300),
        ),
        max_size=3,
    ),
    st.none() | st.binary(max_size=20),
    st.integers(),
)
def test_no_headers_make_it_raise(
    given_headers: list[tuple[str, bytes]], value: bytes | None, time_ms: int
) -> None:
    verdict = verify_token(given_headers, value, PLACE, time_ms, key_set(), PROFILE)
    assert isinstance(verdict, Refusal)


@settings(max_examples=200)
@given(st.binary(max_size=400) | st.text("ey.AJ_-=+/ ", max_size=60).map(str.encode))
def test_no_bytes_make_it_raise(token: bytes) -> None:
    assert isinstance(judge(token), Refusal)


@settings(max_examples=300)
@given(st.data())
def test_no_change_of_a_good_token_is_accepted(data: st.DataObject) -> None:
    token = make_token()
    at = data.draw(st.integers(0, len(token) - 1))
    changed = bytearray(token)
    changed[at] = data.draw(st.integers(0, 255))
    if bytes(changed) != token:
        assert isinstance(judge(bytes(changed)), Refusal)
    assert isinstance(judge(token), VerifiedToken)
    assert isinstance(judge(token, value=VALUE + b"x"), Refusal)


@settings(max_examples=200)
@given(headers)
def test_no_header_makes_the_parser_raise_anything_else(header: bytes) -> None:
    try:
        read = read_header(encode_segment(header))
    except MalformedError:
        return
    theirs = jwt.get_unverified_header(b64(header) + b".e30.")
    assert (read.alg, read.kid) == (theirs["alg"], theirs.get("kid"))


@settings(max_examples=200)
@given(odd_values.map(json.dumps).map(str.encode) | payloads)
def test_what_the_json_parser_accepts_is_json_without_repeated_names(
    raw: bytes,
) -> None:
    try:
        ours = parse_object(raw)
    except MalformedError:
        return
    assert ours == json.loads(raw)
    repeated: list[bool] = []

    def look(pairs: list[tuple[str, object]]) -> dict[str, object]:
        repeated.append(len(dict(pairs)) != len(pairs))
        return dict(pairs)

    json.loads(raw, object_pairs_hook=look)
    assert not any(repeated)


@settings(max_examples=200)
@given(st.binary(min_size=1, max_size=40))
def test_a_segment_has_one_spelling(data: bytes) -> None:
    segment = encode_segment(data)
    assert decode_segment(segment) == data
    assert segment == base64.urlsafe_b64encode(data).rstrip(b"=")


@settings(max_examples=200)
@given(st.binary(max_size=40) | st.text("AQgwE_-+/=\n", max_size=9).map(str.encode))
def test_what_is_decoded_was_canonical(segment: bytes) -> None:
    try:
        data = decode_segment(segment)
    except MalformedError:
        return
    assert encode_segment(data) == segment
