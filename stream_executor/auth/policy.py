"""Who may run what, with which limits: the optional policy file, as a value.

A TOML file of rules. The first rule whose four patterns all match decides; without a
match the answer is no. Without a file everything is allowed, within the ceilings.

    [[rule]]
    issuer = "https://ci.example"    # default "*"
    subject = "team-a/*"             # default "*"
    modules = ["report@1.*", "sha256:<64 hex digits>"]    # default ["*"]
    functions = ["run", "add*"]      # default ["*"]
    fuel_units = 1000000             # limits only lower the ceilings
    memory_bytes = 16777216
    deadline_ms = 500

In a pattern ``*`` stands for any characters and ``?`` for one; everything else,
letter case too, is exact. A published module matches by ``name@version`` or by
digest, an inline module by digest only (``*`` matches both).

Reading the file is its caller's affair.
"""

from __future__ import annotations

import re
import tomllib
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated

import msgspec

from stream_executor.model.codes import Code
from stream_executor.model.errors import ConfigError
from stream_executor.model.request import DIGEST_PREFIX, RequestedLimits

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stream_executor.model.audit import Principal

_DIGEST_PATTERN = re.compile(DIGEST_PREFIX + r"[0-9a-f]{64}")


class PolicyGrant(msgspec.Struct, frozen=True, gc=False):
    """The policy allows it, within these limits; None adds none."""

    limits: RequestedLimits | None = None


ALLOWED = PolicyGrant()

_Positive = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]


class _RuleText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rule as it is written."""

    issuer: str = "*"
    subject: str = "*"
    modules: tuple[str, ...] = ("*",)
    functions: tuple[str, ...] = ("*",)
    fuel_units: _Positive | None = None
    memory_bytes: _Positive | None = None
    deadline_ms: _Positive | None = None


class _PolicyText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file as it is written."""

    rule: list[_RuleText] = []


class _Rule(msgspec.Struct, frozen=True):
    """A rule as it is applied."""

    issuer: re.Pattern[str]
    subject: re.Pattern[str]
    modules: re.Pattern[str]
    functions: re.Pattern[str]
    grant: PolicyGrant


class Policy:
    """A policy in force.

    Attributes:
        s256: SHA-256 of the file's bytes; of no bytes where there is no file.
    """

    __slots__ = ("_rules", "s256")

    def __init__(self, rules: tuple[_Rule, ...] | None, s256: bytes) -> None:
        """Use ``parse``."""
        self._rules = rules
        self.s256 = s256

    @classmethod
    def parse(cls, text: bytes) -> Policy:
        """Read a policy file; no bytes at all mean that there is none.

        Raises:
            ConfigError: not TOML of this form; an unknown key, an empty list, a
                digest of the wrong form.
        """
        digest = sha256(text).digest()
        if not text:
            return cls(None, digest)
        try:
            written = msgspec.convert(tomllib.loads(text.decode("utf-8")), _PolicyText)
        except (ValueError, msgspec.ValidationError) as error:
            raise ConfigError(f"the policy file cannot be read: {error}") from error
        if not written.rule:
            raise ConfigError(
                "the policy file has no rule, so it would refuse everyone"
            )
        return cls(tuple(map(_compile_rule, written.rule)), digest)

    def decide(
        self, principal: Principal, name: str | None, module_s256: bytes, function: str
    ) -> PolicyGrant | Code:
        """Decide whether the principal may enter this function of this module.

        Args:
            principal: who asks.
            name: ``name@version`` of a published module, None for an inline one.
            module_s256: SHA-256 digest (32 bytes) of the module's bytes.
            function: the export that will be entered.

        Returns:
            The first matching rule's grant, or denied_by_policy.
        """
        if self._rules is None:
            return ALLOWED
        digest = f"{DIGEST_PREFIX}{module_s256.hex()}"
        for rule in self._rules:
            if (
                rule.issuer.fullmatch(principal.iss)
                and rule.subject.fullmatch(principal.sub)
                and rule.functions.fullmatch(function)
                and (
                    rule.modules.fullmatch(digest)
                    or (name is not None and rule.modules.fullmatch(name))
                )
            ):
                return rule.grant
        return Code.DENIED_BY_POLICY


def _compile_rule(text: _RuleText) -> _Rule:
    for module in text.modules:
        if module.startswith(DIGEST_PREFIX) and not _DIGEST_PATTERN.fullmatch(module):
            raise ConfigError(f"{module[:80]!r} is not sha256: and 64 lower hex digits")
    if not text.modules or not text.functions:
        raise ConfigError("an empty list of modules or functions matches nothing")
    limits = RequestedLimits(text.fuel_units, text.memory_bytes, text.deadline_ms)
    return _Rule(
        _compile([text.issuer]),
        _compile([text.subject]),
        _compile(text.modules),
        _compile(text.functions),
        ALLOWED if limits == RequestedLimits() else PolicyGrant(limits),
    )


def _compile(patterns: Iterable[str]) -> re.Pattern[str]:
    """Make one expression of glob patterns; adjacent stars are one (no blow-up)."""
    alternatives = (
        "".join(
            {"*": ".*", "?": "."}.get(part[0], re.escape(part))
            for part in re.findall(r"\*+|\?|[^*?]+", pattern)
        )
        for pattern in patterns
    )
    return re.compile("|".join(alternatives), re.DOTALL)
