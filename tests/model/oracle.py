"""What each record must be answered with, said in thirty lines from the log alone.

Nothing of ``admission`` is used: times, replays and denials are judged anew from what
the step wrote down when it appended the record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stream_executor.model.scalars import ValueType, pack_value
from tests.history import Outcome

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

MAX_APPEND_AGE_MS = 120_000
LEEWAY_MS = 30_000


class Asked(NamedTuple):
    """What one record asks for, as the step knows it.

    ``token`` is None without one; ``module`` is None for an inline module.
    """

    number: int
    token: str | None = None
    signed_ms: int = 0
    subject: str = "agent-7"
    module: str | None = None


class Control(NamedTuple):
    """What the control log says up to an offset."""

    denied: frozenset[str]
    published: frozenset[str]


def answers(
    log: Sequence[tuple[int, int, Asked]],
    contexts: Mapping[int, int],
    control: Sequence[Control],
    refused: Container[int] = (),
) -> dict[int, Outcome]:
    """Give offset → outcome.

    Args:
        log: (offset, LogAppendTime, what is asked), in order.
        contexts: offset → control offset of the context that its event cites.
        control: what is said up to each control offset.
        refused: offsets that an operator ordered not to look at.
    """
    lane_time, spent, found = 0, set[str](), {}
    for offset, timestamp, asked in log:
        if offset in refused:
            found[offset] = Outcome("REJECTED", "invalid_request")
            continue
        lane_time = max(lane_time, timestamp)
        found[offset] = _answer(
            asked, lane_time, spent, control[contexts.get(offset, -1)]
        )
    return found


def _answer(asked: Asked, lane_time: int, spent: set[str], said: Control) -> Outcome:
    code = _refusal(asked, lane_time, spent, said)
    if code is not None:
        return Outcome("REJECTED", code)
    output = pack_value(ValueType.I32, asked.number + 1)
    return Outcome("SUCCEEDED", None, output, 7)


def _refusal(
    asked: Asked, lane_time: int, spent: set[str], said: Control
) -> str | None:
    iat_ms = asked.signed_ms // 1000 * 1000
    if asked.token is None:
        return "auth_missing"
    if iat_ms - LEEWAY_MS > lane_time:
        return "auth_not_yet_valid"
    if iat_ms + MAX_APPEND_AGE_MS < lane_time:
        return "auth_expired"
    replayed = asked.token in spent
    spent.add(asked.token)
    if replayed:
        return "auth_replayed"
    if asked.subject in said.denied:
        return "auth_revoked"
    known = asked.module is None or asked.module in said.published
    return None if known else "module_not_found"
