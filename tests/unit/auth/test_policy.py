"""The policy's first matching rule decides; without a match the answer is no."""

from __future__ import annotations

import hashlib

import pytest

from stream_executor.auth.policy import ALLOWED, Policy, PolicyGrant
from stream_executor.auth.token import VerifiedToken
from stream_executor.model.codes import Code
from stream_executor.model.errors import ConfigError
from stream_executor.model.request import RequestedLimits
from tests.unit.auth.tokens import good_claims, judge, make_token

DIGEST = bytes(range(32))
DENIED = Code.DENIED_BY_POLICY


def decide(
    text: str,
    *,
    sub: str = "team-a/agent-7",
    name: str | None = "report@1.2",
    function: str = "run",
) -> PolicyGrant | Code:
    token = judge(make_token(good_claims(sub=sub)))
    assert isinstance(token, VerifiedToken)
    policy = Policy.parse(text.encode())
    return policy.decide(token.principal, name, DIGEST, function)


def test_without_a_policy_everything_is_allowed() -> None:
    policy = Policy.parse(b"")

    assert decide("") is ALLOWED
    assert decide("", name=None) is ALLOWED
    assert policy.s256 == hashlib.sha256(b"").digest()


def test_the_policys_digest_is_that_of_its_bytes() -> None:
    text = b"[[rule]]\n# anyone\n"

    assert Policy.parse(text).s256 == hashlib.sha256(text).digest()


def test_an_empty_rule_allows_everything() -> None:
    assert decide("[[rule]]") is ALLOWED
    assert decide("[[rule]]", name=None) is ALLOWED


@pytest.mark.parametrize(
    ("rule", "allowed"),
    [
        ('issuer = "https://issuer.example"', True),
        ('issuer = "https://*"', True),
        ('issuer = "https://issuer.exampl"', False),
        ('issuer = "https://issuer?example"', True),
        ('issuer = "https://issuer.example?"', False),
        ('issuer = "HTTPS://ISSUER.EXAMPLE"', False),
        ('subject = "team-a/*"', True),
        ('subject = "team-?/agent-*"', True),
        ('subject = "team-a"', False),
        ('subject = "*team-b*"', False),
        ('modules = ["report@1.2"]', True),
        ('modules = ["other@*", "report@1.*"]', True),
        ('modules = ["report@1"]', False),
        ('modules = ["report"]', False),
        ('modules = ["REPORT@1.2"]', False),
        (f'modules = ["sha256:{DIGEST.hex()}"]', True),
        (f'modules = ["sha256:{bytes(32).hex()}"]', False),
        ('functions = ["run"]', True),
        ('functions = ["add", "r*n"]', True),
        ('functions = ["[r]un"]', False),
        ('functions = ["ru", "un", "runn"]', False),
    ],
)
def test_patterns_match_as_documented(rule: str, *, allowed: bool) -> None:
    assert decide(f"[[rule]]\n{rule}") == (ALLOWED if allowed else DENIED)


def test_an_inline_module_matches_by_digest_only() -> None:
    by_name = '[[rule]]\nmodules = ["report@1.2"]'
    by_digest = f'[[rule]]\nmodules = ["sha256:{DIGEST.hex()}"]'

    assert decide(by_name, name=None) is DENIED
    assert decide(by_digest, name=None) is ALLOWED


def test_the_first_matching_rule_decides() -> None:
    text = """
    [[rule]]
    subject = "team-b/*"
    fuel_units = 1
    [[rule]]
    subject = "team-a/*"
    fuel_units = 1000
    memory_bytes = 65536
    deadline_ms = 50
    [[rule]]
    """

    assert decide(text) == PolicyGrant(RequestedLimits(1000, 65536, 50))
    assert decide(text, sub="team-b/1") == PolicyGrant(RequestedLimits(1))
    assert decide(text, sub="somebody") is ALLOWED


def test_a_pattern_full_of_stars_is_no_trap() -> None:
    rule = f'[[rule]]\nsubject = "{"*" * 5000}x"'

    assert decide(rule, sub="a" * 256) is DENIED


def test_a_line_break_in_a_subject_cannot_end_a_pattern() -> None:
    assert decide('[[rule]]\nfunctions = ["run"]', function="run\nx") is DENIED
    assert decide('[[rule]]\nfunctions = ["run*"]', function="run\nx") is ALLOWED


@pytest.mark.parametrize(
    "text",
    [
        "# nothing",
        "rule = []",
        "[rule]",
        "[[rules]]",
        "[[rule]]\nsubjects = 'x'",
        "[[rule]]\nsubject = 1",
        "[[rule]]\nmodules = 'x'",
        "[[rule]]\nmodules = []",
        "[[rule]]\nfunctions = []",
        "[[rule]]\nmodules = ['sha256:abc']",
        f"[[rule]]\nmodules = ['sha256:{DIGEST.hex().upper()}']",
        "[[rule]]\nmodules = ['sha256:*']",
        "[[rule]]\nfuel_units = 0",
        "[[rule]]\nfuel_units = -1",
        "[[rule]]\nfuel_units = 1.5",
        "[[rule]]\nfuel_units = true",
        "[[rule]]\ndeadline_ms = '5'",
        "[[rule",
    ],
)
def test_a_policy_with_a_slip_is_refused_at_start(text: str) -> None:
    with pytest.raises(ConfigError, match=r"policy|digits|matches nothing"):
        Policy.parse(text.encode())


def test_a_policy_that_is_no_text_is_refused() -> None:
    with pytest.raises(ConfigError):
        Policy.parse(b"\xff\xfe")
