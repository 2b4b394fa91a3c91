"""Verify the token of one record: may this requester be believed?

One pure function from a record's headers and value to a verified token or a refusal.
Same inputs, same outcome: time is the lane's time, keys are a value. The order of
its steps is part of the contract, because the first one that fails names the code:

1. malformed    the header, the token's three segments and their contents
2. unknown key  no configured key has this kid and algorithm
3. signature    the key does not vouch for these bytes
4. audience     the key may not speak for this iss or this aud
5. binding      another topic, partition or body was signed
6. time         expired, too old, or not yet valid

What follows (replay, deny-list, policy, role) is decided in ``replay``, ``deny``,
``policy`` and ``authorize``, in that order, and the request's own shape last.

Source: RFC 7515 section 5.2, RFC 7519 section 7.2, RFC 8725, RFC 9449 section 11.1.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET

from stream_executor.auth.claims import (
    Binding,
    Claims,
    quick_claims,
    read_header,
    strict_claims,
)
from stream_executor.auth.jose import encode_segment, is_canonical
from stream_executor.auth.keys import KeySet, VerificationKey
from stream_executor.model.audit import Principal
from stream_executor.model.codes import Code, Role
from stream_executor.model.errors import MalformedError

if TYPE_CHECKING:
    from stream_executor.model.record import Headers

HEADER = "authorization"
MAX_TOKEN_BYTES = 8192

_SCHEME = b"Bearer "
_MAX_HEADER_BYTES = len(_SCHEME) + MAX_TOKEN_BYTES
_RANK: dict[str, int] = {Role.AGENT: 1, Role.ADMINISTRATOR: 2}


class Place(msgspec.Struct, frozen=True, gc=False):
    """The topic and partition that a record was read from."""

    topic: str
    partition: int


class TokenProfile(msgspec.Struct, frozen=True, gc=False):
    """The limits in time, all in seconds.

    Attributes:
        max_lifetime_s: most that ``exp - iat`` may be (``JWT_EXPIRY_MINUTES``).
        max_append_age_s: a record must be appended this soon after its token's
            ``iat`` (``TOKEN_MAX_APPEND_AGE_SECONDS``), whatever ``exp`` says.
        leeway_s: how far the signer's clock may be from the broker's at ``exp``,
            ``iat`` and ``nbf``. The append age has none: the two together are what a
            spent jti must be remembered for.
    """

    max_lifetime_s: int = 3600
    max_append_age_s: int = 120
    leeway_s: int = 30

    @property
    def replay_window_ms(self) -> int:
        """How long after its spending a jti could pass step 6 once more.

        It was spent at ``iat - leeway`` or later, and passes at ``iat + max age`` at
        the latest.
        """
        return (self.max_append_age_s + self.leeway_s) * 1000


class VerifiedToken(msgspec.Struct, frozen=True, gc=False):
    """A token that passed every step; only ``verify_token`` makes one.

    Attributes:
        principal: who asked, as the audit cites it.
        key: the key that vouched.
    """

    principal: Principal
    key: VerificationKey


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """Why a record is not executed.

    Attributes:
        code: the stable name.
        principal: who asked; only once signature, audience and binding held, None
            before: nobody else can put words into a requester's mouth.
    """

    code: Code
    principal: Principal | None = None


class _Signed(msgspec.Struct, frozen=True, gc=False):
    """Claims, and the key that vouched for them."""

    claims: Claims
    key: VerificationKey
    kid: str


_MISSING = Refusal(Code.AUTH_MISSING)
_MALFORMED = Refusal(Code.AUTH_MALFORMED)
_UNKNOWN_KEY = Refusal(Code.AUTH_UNKNOWN_KEY)
_BAD_SIGNATURE = Refusal(Code.AUTH_BAD_SIGNATURE)
_WRONG_AUDIENCE = Refusal(Code.AUTH_WRONG_AUDIENCE)
_WRONG_BINDING = Refusal(Code.AUTH_WRONG_BINDING)


def verify_token(
    headers: Headers,
    value: bytes | None,
    place: Place,
    lane_time_ms: int,
    keys: KeySet,
    profile: TokenProfile,
) -> VerifiedToken | Refusal:
    """Verify the token in a record's headers against the record.

    Never raises for anything in ``headers`` or ``value``. Replay is not seen here.

    Args:
        headers: the record's headers; exactly one ``authorization`` is wanted.
        value: the record's exact value; None (no value) matches no token.
        place: where the record was read.
        lane_time_ms: running maximum of LogAppendTime, milliseconds since 1970.
        keys: the keys in force.
        profile: the limits in time.

    Returns:
        The verified token, or the first failing step's refusal: auth_missing,
        auth_malformed, auth_unknown_key, auth_bad_signature, auth_wrong_audience,
        auth_wrong_binding, auth_not_yet_valid, auth_expired.
    """
    token = _bearer_token(headers)
    if isinstance(token, Refusal):
        return token
    signed = _verify_signature(token, keys)
    if isinstance(signed, Refusal):
        return signed
    claims, key = signed.claims, signed.key

    # 4. audience
    if claims.aud != key.audience or claims.iss not in key.issuers:
        return _WRONG_AUDIENCE

    # 5. binding
    if not _is_bound(claims.wx, place, value):
        return _WRONG_BINDING
    principal = Principal(
        claims.iss,
        claims.sub,
        claims.role,
        signed.kid,
        key.key_id,
        sha256(token).digest(),
        jti_hash(claims.iss, claims.jti),
        claims.iat,
        claims.exp,
    )

    # 6. time
    code = _untimely(claims, lane_time_ms, profile)
    return VerifiedToken(principal, key) if code is None else Refusal(code, principal)


def authorize(token: VerifiedToken) -> Code | None:
    """Decide whether the token's role may execute; None if so.

    Agent and Administrator may, as far as the key's ceiling goes; Auditor may not.
    Comes after replay and deny-list: the jti is spent whatever this says.
    """
    wanted = _RANK.get(token.principal.role, 0)
    allowed = _RANK.get(token.key.ceiling, 0)
    return None if 0 < wanted <= allowed else Code.ACCESS_DENIED


def jti_hash(iss: str, jti: str) -> bytes:
    """Name a token's jti in 16 bytes, for the replay window, seals and events.

    Unambiguous because neither string can contain a zero byte.
    """
    return sha256(f"wx/jti/v1\0{iss}\0{jti}".encode()).digest()[:16]


def _bearer_token(headers: Headers) -> bytes | Refusal:
    """Find the one token (step 1); which of two to believe is not ours to choose."""
    credentials = None
    for name, content in headers:
        if name == HEADER:
            if credentials is not None:
                return _MALFORMED
            credentials = content or b""
    if credentials is None:
        return _MISSING
    if len(credentials) > _MAX_HEADER_BYTES or not credentials.startswith(_SCHEME):
        return _MALFORMED
    return credentials[len(_SCHEME) :]


def _verify_signature(token: bytes, keys: KeySet) -> _Signed | Refusal:
    """Take the token apart and find the key that vouches for it (steps 1 to 3).

    A header segment that was verified before, and claims of the ordinary form, need
    no strict parsing (``KeySet.remember``, ``quick_claims``): the same values come
    out, sooner.
    """
    # 1. malformed; a fourth segment stays in the payload, where no dot can be.
    signing_input, _, signature = token.rpartition(b".")
    header, _, payload = signing_input.partition(b".")
    candidates = remembered = keys.recall(header)
    try:
        if candidates is None:
            named = read_header(header)
            candidates = keys.find(named.alg, named.kid)
        claims = quick_claims(payload) or strict_claims(payload)
    except MalformedError:
        return _MALFORMED

    # 2. unknown key, 3. signature
    for key in candidates.keys:
        if key.verify(signing_input, signature):
            if remembered is None:
                keys.remember(header, candidates)
            return _Signed(claims, key, candidates.kid)
    if not is_canonical(signature):
        return _MALFORMED
    return _BAD_SIGNATURE if candidates.keys else _UNKNOWN_KEY


def _is_bound(binding: Binding, place: Place, value: bytes | None) -> bool:
    return (
        value is not None
        and binding.partition == place.partition
        and binding.topic == place.topic
        and binding.body_s256 == encode_segment(sha256(value).digest()).decode()
    )


def _untimely(claims: Claims, lane_time_ms: int, profile: TokenProfile) -> Code | None:
    """Judge the token's times by the lane's; both ends of a boundary are exact.

    A lifetime over the limit, or none at all, counts as expired: the token should
    never have been made, and signing anew is the remedy in both cases.
    """
    leeway = profile.leeway_s
    earliest = claims.iat if claims.nbf is UNSET else max(claims.iat, claims.nbf)
    if (earliest - leeway) * 1000 > lane_time_ms:
        return Code.AUTH_NOT_YET_VALID
    if (
        (claims.exp + leeway) * 1000 <= lane_time_ms
        or (claims.iat + profile.max_append_age_s) * 1000 < lane_time_ms
        or not 0 < claims.exp - claims.iat <= profile.max_lifetime_s
    ):
        return Code.AUTH_EXPIRED
    return None
