"""Grants raise ceilings up to the hard maximum; policy and requests only lower them."""

from __future__ import annotations

import pytest

from stream_executor.auth.policy import PolicyGrant
from stream_executor.lane.admission import (
    Ceilings,
    effective_limits,
    granted_limits,
    module_bytes_limit,
)
from stream_executor.model.job import Limits
from stream_executor.model.request import (
    Call,
    ExecutionRequest,
    ModuleName,
    RequestedLimits,
)
from stream_executor.modules.orders import UNRAISED

CEILINGS = Ceilings(
    Limits(5_000_000, 64 << 20, 5_000), 10 << 20,
    Limits(1_000_000_000, 512 << 20, 60_000), 32 << 20, 1 << 19,
)  # fmt: skip


def request(limits: RequestedLimits | None = None) -> ExecutionRequest:
    """A request with its own wishes."""
    return ExecutionRequest("r", ModuleName("m", "1"), Call("f", b""), limits=limits)


@pytest.mark.parametrize(
    ("grant", "expected"),
    [
        (None, CEILINGS.limits),
        (Limits(UNRAISED, UNRAISED, UNRAISED), CEILINGS.limits),
        (Limits(250_000_000, UNRAISED, UNRAISED), Limits(250_000_000, 64 << 20, 5_000)),
        (Limits(UNRAISED, 128 << 20, 9_000), Limits(5_000_000, 128 << 20, 9_000)),
        (Limits(10**15, 1 << 40, 10**9), CEILINGS.hard_limits),
    ],
)
def test_a_grant_raises_each_limit_for_itself_up_to_the_hard_maximum(
    grant: Limits | None, expected: Limits
) -> None:
    assert granted_limits(CEILINGS, grant) == expected


def test_a_ceiling_at_the_hard_maximum_is_no_bound_below_itself() -> None:
    """Settings refuse ceilings above the hard maximum; if equal, nothing is lowered."""
    even = Ceilings(CEILINGS.limits, 1, CEILINGS.limits, 1, 1)
    assert granted_limits(even, Limits(1, 1, 1)) == CEILINGS.limits
    assert granted_limits(even, Limits(9**20, 9**20, 9**20)) == CEILINGS.limits


def test_policy_and_request_only_lower_what_was_granted() -> None:
    granted = granted_limits(CEILINGS, Limits(250_000_000, 256 << 20, 30_000))
    asked = RequestedLimits(10**15, 1 << 20, 2**62)
    allowed = PolicyGrant(RequestedLimits(100, 2**62, 2**62))
    assert effective_limits(granted, request(asked), allowed) == Limits(
        100, 1 << 20, 30_000
    )
    assert effective_limits(granted, request(), PolicyGrant()) == granted


def test_any_grant_lifts_the_size_ceiling_to_the_hard_one() -> None:
    assert module_bytes_limit(CEILINGS, None) == 10 << 20
    assert module_bytes_limit(CEILINGS, Limits(1, 1, 1)) == 32 << 20
