"""Exceptions, split by whose fault it is and whether trying again can help.

A bad request is never an exception: it is a refusal, which is a value. Nothing
here is raised for what a requester sent.
"""

from __future__ import annotations

from stream_executor.model.conditions import Condition


class ExecutorError(Exception):
    """Base of every exception that this package raises on purpose.

    Attributes:
        condition: what is wrong with the world, where whoever raised it could tell.
    """

    condition: Condition | None = None

    @property
    def retryable(self) -> bool:
        """Whether trying the same again can help, once the world is mended."""
        return False


class ConfigError(ExecutorError):
    """The configuration is wrong; stop at start (exit code 4)."""


class TopicDriftError(ConfigError):
    """A topic's settings are not what every process here rests on."""


class MisuseError(ExecutorError):
    """A function was called out of order: our bug, never the requester's."""


class MalformedError(ExecutorError):
    """Bytes from outside do not have the promised form; a parser's only error."""


class TransientError(ExecutorError):
    """The world failed for now (broker away, timeout); trying again can help."""

    @property
    def retryable(self) -> bool:
        """It can."""
        return True


class UnavailableError(TransientError):
    """Could not tell: what is needed to decide cannot be reached (exit code 3)."""


class IntegrityError(ExecutorError):
    """The audit log, control log or a seal is not what it must be.

    The lane halts and stays halted: this is never retried, and only a signed
    resume record lifts it.
    """


class ClockError(IntegrityError):
    """A record lies too far ahead of this host's clock to be judged yet.

    Attributes:
        until_ms: the clock that can judge it, milliseconds since 1970.
    """

    def __init__(self, message: str, until_ms: int) -> None:
        super().__init__(message)
        self.condition = Condition.CLOCK_APART
        self.until_ms = until_ms


class HoleError(IntegrityError):
    """Offsets that no batch covers, not even a marker: records were lost there.

    Attributes:
        start, end: the first offset of the hole, and the first one after it.
    """

    def __init__(self, message: str, start: int, end: int) -> None:
        super().__init__(message)
        self.start, self.end = start, end


class FencedError(ExecutorError):
    """Another writer has taken this lane's transactional id: stop, do not re-fence.

    A new assignment (or a session timeout plus jitter while still assigned) comes
    first; two owners that re-fence at once would fight for ever.
    """


class IndefiniteError(TransientError):
    """A broker request may or may not have taken effect: discard, fence, re-read."""


class BrokerRefusedError(ExecutorError):
    """The broker will refuse the same request until somebody mends something there.

    Attributes:
        reason: ``too_large``, ``not_authorised``, ``unknown_topic``,
            ``cluster_changed`` or ``other``.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.condition = _OF_REASON.get(reason)

    @property
    def retryable(self) -> bool:
        """Only where somebody can grant or mend what is missing."""
        return self.condition is not None


_OF_REASON = {
    "too_large": Condition.TOPIC_SETTINGS,
    "not_authorised": Condition.RIGHTS_MISSING,
    "unknown_topic": Condition.TOPIC_MISSING,
    "cluster_changed": Condition.CLUSTER_CHANGED,
}
