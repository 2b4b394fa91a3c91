"""Whom the operators have shut out, as a value.

The control view says who is on the list and since when; here is only the decision.
Comes after replay: a denied requester's jti is spent all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from stream_executor.model.codes import Code

if TYPE_CHECKING:
    from stream_executor.auth.token import VerifiedToken


class Denied(Protocol):
    """The deny-list as the control view holds it."""

    @property
    def sub(self) -> frozenset[str]:
        """Subjects."""

    @property
    def iss(self) -> frozenset[str]:
        """Issuers."""

    @property
    def kid(self) -> frozenset[str]:
        """Kids or key ids."""

    @property
    def modules(self) -> frozenset[bytes]:
        """Digests of modules."""


class DenyList(msgspec.Struct, frozen=True):
    """Exact values, no patterns.

    Attributes:
        subjects: ``sub`` claims, whoever issued them.
        issuers: ``iss`` claims.
        keys: kids or key ids of verification keys. They name the key, not the
            token's header: a token without kid does not get around it.
        modules: SHA-256 digests of module bytes.
    """

    subjects: frozenset[str] = frozenset()
    issuers: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()
    modules: frozenset[bytes] = frozenset()

    @classmethod
    def of(cls, denied: Denied) -> DenyList:
        """Take over what the control view says."""
        return cls(denied.sub, denied.iss, denied.kid, denied.modules)

    def decide(self, token: VerifiedToken) -> Code | None:
        """Give auth_revoked if subject, issuer or key is denied, else None."""
        principal, key = token.principal, token.key
        if (
            principal.sub in self.subjects
            or principal.iss in self.issuers
            or key.kid in self.keys
            or key.key_id in self.keys
        ):
            return Code.AUTH_REVOKED
        return None

    def decide_module(self, module_s256: bytes) -> Code | None:
        """Give denied_by_policy if the module (32-byte digest) is denied."""
        return Code.DENIED_BY_POLICY if module_s256 in self.modules else None
