"""Look at a token without believing it: what it says, and whether it can be read.

For ``token inspect`` and support. Nothing here verifies; ``token`` does.
"""

from __future__ import annotations

import msgspec

from stream_executor.auth.claims import read_header, strict_claims
from stream_executor.auth.jose import decode_segment, is_canonical, parse_object
from stream_executor.auth.token import MAX_TOKEN_BYTES
from stream_executor.model.codes import Code
from stream_executor.model.errors import MalformedError

_SEGMENTS = 3


class Inspection(msgspec.Struct, frozen=True):
    """What a token says; none of it is verified.

    Attributes:
        header: the header's members, None if they cannot be read.
        claims: the claims, None if they cannot be read.
        findings: what is wrong, in plain words; empty if nothing was found.
        code: what every worker would refuse it with; None if that rests on more.
    """

    header: dict[str, object] | None
    claims: dict[str, object] | None
    findings: list[str]
    code: Code | None = None


def inspect_token(token: bytes) -> Inspection:
    """Explain a token.

    Args:
        token: the compact token; ``Bearer`` before it is tolerated.
    """
    token = token.strip().removeprefix(b"Bearer ")
    if len(token) > MAX_TOKEN_BYTES:
        return _unreadable(
            f"the token has {len(token)} bytes; {MAX_TOKEN_BYTES} at most"
        )
    segments = token.split(b".")
    if len(segments) != _SEGMENTS:
        return _unreadable(
            f"the token has {len(segments)} segments; a signed JWT has {_SEGMENTS}"
        )
    header, claims = (_members(segment) for segment in segments[:2])
    findings = _find_malformed(segments)
    return Inspection(
        header, claims, findings, Code.AUTH_MALFORMED if findings else None
    )


def _unreadable(finding: str) -> Inspection:
    return Inspection(None, None, [finding], Code.AUTH_MALFORMED)


def _members(segment: bytes) -> dict[str, object] | None:
    try:
        return parse_object(decode_segment(segment))
    except MalformedError:
        return None


def _find_malformed(segments: list[bytes]) -> list[str]:
    """Give everything that step 1 would object to, not only the first thing."""
    findings = []
    try:
        read_header(segments[0])
    except MalformedError as error:
        findings.append(f"header: {error}")
    try:
        strict_claims(segments[1])
    except MalformedError as error:
        findings.append(f"claims: {error}")
    if not is_canonical(segments[2]):
        findings.append("signature: not canonical base64url")
    return findings
