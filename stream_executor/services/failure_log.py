"""The journal's word on requests that did not succeed: one line a code, now and then.

Not a line a request: whoever may send could fill a disk with them. Each line counts
what was committed since the last one and names the latest as an example; every single
one is in the audit log. Its level is not ``error``: a guest's failure is not ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import structlog

if TYPE_CHECKING:
    from stream_executor.lane.conclusion import Tally

log = structlog.get_logger()


class _Since(msgspec.Struct):
    count: int
    partition: int
    offset: int
    request_id: str | None


class FailureLog:
    """Collects what transactions held until ``write``."""

    def __init__(self) -> None:
        self._since: dict[str, _Since] = {}

    def take(self, partition: int, tally: Tally) -> None:
        """Take in a committed transaction."""
        for code, (offset, request_id) in tally.last_failed.items():
            before = self._since.get(code)
            count = tally.by_code[code] + (before.count if before is not None else 0)
            self._since[code] = _Since(count, partition, offset, request_id)

    def write(self) -> None:
        """Write what came since the last call."""
        for code, since in self._since.items():
            log.warning(
                "requests.failed", code=code, count=since.count,
                partition=since.partition, offset=since.offset,
                request_id=since.request_id,
            )  # fmt: skip
        self._since.clear()
