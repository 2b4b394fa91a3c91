"""Look at a token without believing it: what it says, and what speaks against it.

For ``token inspect`` and support. Nothing here admits a request; ``token`` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from stream_executor.auth.claims import Claims, read_header, strict_claims
from stream_executor.auth.jose import decode_segment, is_canonical, parse_object
from stream_executor.auth.token import (
    HEADER,
    MAX_TOKEN_BYTES,
    Place,
    Refusal,
    TokenProfile,
    verify_token,
)
from stream_executor.model.codes import CODES, Code
from stream_executor.model.errors import MalformedError

if TYPE_CHECKING:
    from stream_executor.auth.keys import KeySet

_SEGMENTS = 3


class Inspection(msgspec.Struct, frozen=True):
    """What a token says; none of it is verified unless ``verified`` is true.

    Attributes:
        header: the header's members, None if they cannot be read.
        claims: the claims, None if they cannot be read.
        findings: what is wrong, in plain words; empty if nothing was found.
        code: what a worker with the given keys, place and value would refuse it with
            now; None if it would not, or was not asked.
        verified: whether a worker would take it, as far as it was asked.
    """

    header: dict[str, object] | None
    claims: dict[str, object] | None
    findings: list[str]
    code: Code | None = None
    verified: bool = False


def inspect_token(
    token: bytes,
    *,
    now_ms: int,
    keys: KeySet | None = None,
    place: Place | None = None,
    value: bytes | None = None,
    profile: TokenProfile | None = None,
) -> Inspection:
    """Explain a token.

    Args:
        token: the compact token; ``Bearer`` before it is tolerated.
        now_ms: the time to judge it by, milliseconds since 1970 UTC.
        keys: with keys, place and value, the worker's own judgement is asked.
        place: where the record would be read.
        value: the record's exact value.
        profile: the deployment's limits; the defaults if None.
    """
    token = token.strip().removeprefix(b"Bearer ")
    findings: list[str] = []
    if len(token) > MAX_TOKEN_BYTES:
        findings.append(f"the token has {len(token)} bytes; {MAX_TOKEN_BYTES} at most")
        return Inspection(None, None, findings, Code.AUTH_MALFORMED)
    segments = token.split(b".")
    if len(segments) != _SEGMENTS:
        findings.append(f"the token has {len(segments)} segments; a signed JWT has 3")
        return Inspection(None, None, findings, Code.AUTH_MALFORMED)
    header, claims = (_members(segment) for segment in segments[:2])
    valid_claims = _find_malformed(segments, findings)
    if findings or valid_claims is None:
        return Inspection(header, claims, findings, Code.AUTH_MALFORMED)
    if keys is not None and place is not None and value is not None:
        verdict = verify_token(
            [(HEADER, b"Bearer " + token)],
            value,
            place,
            now_ms,
            keys,
            profile or TokenProfile(),
        )
        if isinstance(verdict, Refusal):
            findings.append(
                f"{CODES[verdict.code].meaning} {CODES[verdict.code].remedy}"
            )
            return Inspection(header, claims, findings, verdict.code)
        return Inspection(header, claims, findings, verified=True)
    return Inspection(header, claims, findings)


def _members(segment: bytes) -> dict[str, object] | None:
    try:
        return parse_object(decode_segment(segment))
    except MalformedError:
        return None


def _find_malformed(segments: list[bytes], findings: list[str]) -> Claims | None:
    """Collect everything that step 1 would object to, not only the first thing."""
    claims = None
    try:
        read_header(segments[0])
    except MalformedError as error:
        findings.append(f"header: {error}")
    try:
        claims = strict_claims(segments[1])
    except MalformedError as error:
        findings.append(f"claims: {error}")
    if not is_canonical(segments[2]):
        findings.append("signature: not canonical base64url")
    return claims
