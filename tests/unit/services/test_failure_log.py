from __future__ import annotations

import structlog.testing

from stream_executor.lane.conclusion import Tally
from stream_executor.services.failure_log import FailureLog


def test_one_line_a_code_with_the_latest_as_an_example() -> None:
    """A flood of failures does not become a flood of lines."""
    failures = FailureLog()
    for offset in range(0, 3000, 3):
        tally = Tally(
            by_code={"timeout": 1, "auth_missing": 2, "succeeded": 7},
            last_failed={"timeout": (offset, f"r{offset}"), "auth_missing": (9, None)},
        )
        failures.take(offset % 2, tally)
    with structlog.testing.capture_logs() as lines:
        failures.write()
        failures.write()
    assert lines == [
        {
            "event": "requests.failed", "log_level": "warning", "code": code,
            "count": count, "partition": 1, "offset": offset, "request_id": name,
        }
        for code, count, offset, name in (
            ("timeout", 1000, 2997, "r2997"), ("auth_missing", 2000, 9, None),
        )
    ]  # fmt: skip
