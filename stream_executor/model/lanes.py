"""The states of a lane; one enum for the lane, metrics, health and ``lane list``."""

from __future__ import annotations

from enum import StrEnum

# Most requests that any deployment lets one transaction carry.
MOST_COMMIT_REQUESTS = 10_000


class LaneState(StrEnum):
    """What a lane does now; closed, it labels a metric.

    ACQUIRING fences and recovers. WAITING was fenced and waits to be assigned anew.
    RUNNING and SUSPICIOUS (one request at a time) work. BLOCKED met a permanent
    refusal of the broker and tries again later. HALTED waits for the operator's
    resume. RELEASING drains.
    """

    ACQUIRING = "acquiring"
    WAITING = "waiting"
    RUNNING = "running"
    SUSPICIOUS = "suspicious"
    BLOCKED = "blocked"
    HALTED = "halted"
    RELEASING = "releasing"
