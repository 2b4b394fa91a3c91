"""What lanes tell their worker, as it is counted and logged.

Not here: what the worker says of itself (``reports``, ``worker_runtime``).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog

from stream_executor.http import metrics
from stream_executor.model.errors import (
    BrokerRefusedError,
    ExecutorError,
    FencedError,
    IntegrityError,
    MalformedError,
    TransientError,
)
from stream_executor.model.lanes import LaneState
from stream_executor.services.failure_log import FailureLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream_executor.http.tally import Tally as MetricTally
    from stream_executor.lane.conclusion import Tally
    from stream_executor.lane.lane import Lane
    from stream_executor.services.surroundings import Surroundings

_TROUBLE = frozenset({LaneState.BLOCKED, LaneState.WAITING})

log = structlog.get_logger()


class LaneNews:
    """Hears every lane of one worker.

    Args:
        tally: what is counted.
        around: is told why a lane does not work.
        changed: called when a lane is in another state.
        bug: called with what no lane may raise.

    Attributes:
        failures: of requests, until they are written.
    """

    def __init__(
        self,
        tally: MetricTally,
        around: Surroundings,
        changed: Callable[[], None],
        bug: Callable[[BaseException], None],
    ) -> None:
        self.failures = FailureLog()
        self._tally = tally
        self._around = around
        self._changed = changed
        self._bug = bug

    def committed(self, partition: int, tally: Tally, seconds: float) -> None:
        """Count what a transaction held; it is committed."""
        count, now_s = self._tally, time.time()
        self.failures.take(partition, tally)
        log.debug(
            "lane.committed", partition=partition, results=tally.by_code,
            fuel=tally.fuel_units, seconds=round(seconds, 4),
        )  # fmt: skip
        count.add(metrics.EXECUTIONS, tally.executed)
        count.add(metrics.EXECUTIONS_FAILED, tally.executed_failed)
        count.add(metrics.AUTH_SUCCESS, tally.authenticated)
        count.add(metrics.AUTH_FAILED, tally.auth_failed)
        count.add(metrics.FUEL_CONSUMED, tally.fuel_units)
        for code, number in tally.by_code.items():
            count.add(metrics.RESULTS, number, code)
        count.observe_all(
            metrics.EXECUTION_DURATION, [us / 1e6 for us in tally.durations_us]
        )
        count.observe_all(
            metrics.ANSWER_LATENCY,
            [max(0.0, now_s - ms / 1000) for ms in tally.timestamps],
        )
        count.observe(metrics.COMMIT_DURATION, seconds)
        count.set(metrics.LAST_COMMIT, now_s)

    def appended(self, appended_ms: int, asked_ms: int) -> None:
        """Compare clocks."""
        self._around.clock.compare(appended_ms, asked_ms)

    def gave_up(
        self, lane: Lane, error: FencedError | BrokerRefusedError | TransientError
    ) -> None:
        """Count a producer that a lane gave up; each try is a line for debugging."""
        log.debug("lane.gave_up", partition=lane.partition, reason=str(error))
        self._around.note_lane(lane, error)
        failure = metrics.CommitFailure.INDEFINITE
        if isinstance(error, FencedError):
            failure = metrics.CommitFailure.FENCED
        elif isinstance(error, BrokerRefusedError):
            failure = metrics.CommitFailure.PERMANENT
        self._tally.add(metrics.COMMIT_FAILURES, 1, failure)

    def changed(self, lane: Lane) -> None:
        """Log a lane's new state."""
        level = "warning" if lane.state in _TROUBLE else "info"
        if lane.state is not LaneState.HALTED:  # `failed` says it
            getattr(log, level)(
                f"lane.{lane.state}", partition=lane.partition, reason=lane.reason,
                term=lane.term,
            )  # fmt: skip
        self._around.note_lane(lane)
        self._changed()

    def failed(self, lane: Lane, error: BaseException) -> None:
        """Log a lane that halts; a bug of ours ends the worker."""
        log.error("lane.halted", partition=lane.partition, reason=str(error))
        if isinstance(error, ExecutorError):
            self._around.note_lane(lane, error)
        if not isinstance(error, IntegrityError | MalformedError):
            self._bug(error)
