"""What a token of this profile says: its header and its claims, validated.

Shape only. Whether a key vouches for it, and whether it fits this record and this
moment, is decided in ``token``. The profile is documented in docs/wire-format.md.

Source: RFC 7519 section 4.1, RFC 8725 section 3.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from stream_executor.auth.jose import decode_segment, parse_object
from stream_executor.model.codes import Role
from stream_executor.model.errors import MalformedError

KID = re.compile(r"[A-Za-z0-9._-]{1,64}")
TYPES = frozenset({"JWT", "wasm-exec+jwt"})
MAX_NAME_BYTES = 256

_HEADER_MEMBERS = frozenset({"alg", "kid", "typ"})
_MAX_ALGORITHM = 16
_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
# NQCHAR of RFC 6749, appendix A: visible ASCII without quotation mark and backslash.
_JTI = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")

Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_BYTES)]
# Seconds since 1970 UTC, to the end of the year 9999.
Seconds = Annotated[int, Meta(ge=0, le=253_402_300_799)]


class Header(msgspec.Struct, frozen=True, gc=False):
    """A validated JOSE header; both members are hints, the key decides.

    Attributes:
        alg: the algorithm that the token claims to be signed with.
        kid: key id, ``KID``; None if the token names none.
    """

    alg: str
    kid: str | None


class Binding(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """The ``wx`` claim: the one record that this token speaks for.

    Attributes:
        v: version of the claim.
        topic: the requests topic.
        partition: the requests partition.
        body_s256: unpadded base64url SHA-256 of the record's exact value.
    """

    v: Literal[1]
    topic: Annotated[str, Meta(min_length=1, max_length=249)]
    partition: Annotated[int, Meta(ge=0, le=2**31 - 1)]
    body_s256: Annotated[str, Meta(min_length=43, max_length=43)]


class Claims(msgspec.Struct, frozen=True, gc=False):
    """The claims that matter; others may be there and are ignored.

    ``iss``, ``sub`` and ``aud`` have at most ``MAX_NAME_BYTES`` UTF-8 bytes and no
    control character. Times are whole seconds since 1970 UTC.
    """

    iss: Name
    sub: Name
    aud: Name
    iat: Seconds
    exp: Seconds
    jti: Annotated[str, Meta(min_length=16, max_length=64)]
    role: Role
    wx: Binding
    nbf: Seconds | UnsetType = UNSET


_decode_claims = msgspec.json.Decoder(Claims, strict=True).decode
# What JSON text of printable ASCII may hold besides quotation marks and escapes.
_ORDINARY = bytes({*b"\t\n\r", *range(0x20, 0x7F)} - {*b'"\\'})
# Twelve required names (eight of Claims, four of Binding) and seven string values
# (iss, sub, aud, jti, role, topic, body_s256); then the same with the name nbf.
_MARKS = b'"' * 2 * (12 + 7)
_MARKS_WITH_NBF = _MARKS + b'""'


def read_header(segment: bytes) -> Header:
    """Validate the first segment of a token.

    Only ``alg``, ``kid`` and ``typ`` may occur: a header that brings its own key
    (jwk, jku, x5u, x5c), critical extensions (crit, b64) or a nested token (cty)
    asks for something that this profile never does.

    Raises:
        MalformedError: the segment is not such a header.
    """
    members = parse_object(decode_segment(segment))
    if not members.keys() <= _HEADER_MEMBERS:
        raise MalformedError("the token's header has members outside the profile")
    alg, kid, typ = members.get("alg"), members.get("kid"), members.get("typ", "JWT")
    if not isinstance(alg, str) or len(alg) > _MAX_ALGORITHM:
        raise MalformedError("the token's alg is not an algorithm name")
    if "kid" in members and not (isinstance(kid, str) and KID.fullmatch(kid)):
        raise MalformedError("the token's kid has characters outside the profile")
    if not isinstance(typ, str) or typ not in TYPES:
        raise MalformedError("the token's typ is not JWT or wasm-exec+jwt")
    return Header(alg, kid if isinstance(kid, str) else None)


def quick_claims(segment: bytes) -> Claims | None:
    """Validate ordinary claims in two microseconds; None if that proves too little.

    Guarantee: what this accepts, ``strict_claims`` accepts with the same value. The
    typed decoder alone would let a repeated name pass (the last one wins) and would
    not look into unknown members. What remains of the text without its ordinary
    characters excludes both: it must be quotation marks and nothing else, so there
    are no escapes, each mark delimits a string, and no string has a control or
    non-ASCII character (lengths are in bytes, then). The decoder has seen every
    required name and its string value at least once. With exactly two marks for each
    of these there is no room for one more name, neither a repeated nor an unknown
    one. ``nbf``, the only optional name, is there if and only if the decoder saw it.
    """
    try:
        text = decode_segment(segment)
        claims = _decode_claims(text)
    except (MalformedError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    marks = _MARKS if claims.nbf is UNSET else _MARKS_WITH_NBF
    if text.translate(None, _ORDINARY) != marks or " " in claims.jti:
        return None
    return claims


def strict_claims(segment: bytes) -> Claims:
    """Validate the second segment of any token.

    Raises:
        MalformedError: the segment is not a strict JSON object with these claims.
    """
    members = parse_object(decode_segment(segment))
    try:
        claims = msgspec.convert(members, Claims, strict=True)
    except msgspec.ValidationError as error:
        raise MalformedError(
            f"the token's claims are not of this profile: {error}"
        ) from None
    for name in (claims.iss, claims.sub, claims.aud):
        if not _NAME.fullmatch(name) or len(name.encode()) > MAX_NAME_BYTES:
            raise MalformedError(
                "iss, sub or aud has control characters or is too long"
            )
    if not _JTI.fullmatch(claims.jti):
        raise MalformedError("jti has characters outside the profile")
    return claims
