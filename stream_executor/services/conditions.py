"""Conditions that hold now: one line in the log when one begins and one when it ends.

Several sources may see the same condition (lanes, the follower, the watch on topics);
it holds while any of them does. However often a retry finds it again, nothing more is
logged.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog

from stream_executor.model.conditions import REMEDIES, Condition, Trouble

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger()


class Conditions:
    """What a process sees; not thread-safe.

    Args:
        now_ms: milliseconds since 1970.
    """

    def __init__(
        self, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    ) -> None:
        self._now_ms = now_ms
        self._seen: dict[tuple[str, Condition], str] = {}
        self._since: dict[Condition, int] = {}

    def see(self, source: str, found: dict[Condition, str]) -> None:
        """Replace what a source sees: condition to reason; empty if all is well."""
        self._seen = {key: why for key, why in self._seen.items() if key[0] != source}
        self._seen |= {(source, one): reason for one, reason in found.items()}
        holding = {condition for _, condition in self._seen}
        for condition in sorted(holding - self._since.keys()):
            self._since[condition] = self._now_ms()
            log.error(
                "condition.begun", condition=condition, reason=self._reason(condition),
                remedy=REMEDIES[condition],
            )  # fmt: skip
        for condition in sorted(self._since.keys() - holding):
            lasted_ms = self._now_ms() - self._since.pop(condition)
            log.info("condition.ended", condition=condition, lasted_s=lasted_ms // 1000)

    def holds(self, *conditions: Condition) -> bool:
        """Whether any of them holds."""
        return any(condition in self._since for condition in conditions)

    @property
    def troubles(self) -> tuple[Trouble, ...]:
        """All that hold, the oldest first."""
        return tuple(
            Trouble(condition, self._reason(condition), since)
            for condition, since in sorted(self._since.items(), key=lambda one: one[1])
        )

    def _reason(self, condition: Condition) -> str:
        """Give what the first source said."""
        return next(why for (_, one), why in self._seen.items() if one is condition)
