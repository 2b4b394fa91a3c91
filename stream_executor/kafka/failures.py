"""Say of every failure of the broker or its client what the lane must do about it.

Three classes: *fenced*: another writer owns the lane, stop; *refused*: the same request
would fail every time, do not repeat it unchanged; everything else is in doubt: the
request may have taken effect, so discard, fence and read again. The table below names
every exception of aiokafka 0.14 and a test holds it to that, so a new release cannot
slip in an error that nobody has thought about.

Not here: what the lane does with the answer.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from aiokafka import errors

from stream_executor.model.conditions import Condition
from stream_executor.model.errors import (
    BrokerRefusedError,
    ExecutorError,
    FencedError,
    IndefiniteError,
    TransientError,
)

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator
    from typing import Any

    from aiokafka import AIOKafkaProducer


def _answer(code: int, name: str, *, retriable: bool = False) -> type[Exception]:
    """Make the exception for an error code that aiokafka does not know."""
    return type(
        name,
        (errors.BrokerResponseError,),
        {
            "errno": code,
            "message": name,
            "retriable": retriable,
            "invalid_metadata": retriable,
        },
    )


# aiokafka stops at code 72 and reads 13 as an error of Kafka 0.8 that nobody sends any
# more. Its table is a plain dictionary that `for_code` consults at each response, so
# teaching it is one update, and its own retries then apply to the retriable ones.
NETWORK_EXCEPTION: Final = _answer(13, "NETWORK_EXCEPTION", retriable=True)
FENCED_LEADER_EPOCH: Final = _answer(74, "FENCED_LEADER_EPOCH", retriable=True)
UNKNOWN_LEADER_EPOCH: Final = _answer(75, "UNKNOWN_LEADER_EPOCH", retriable=True)
OFFSET_NOT_AVAILABLE: Final = _answer(78, "OFFSET_NOT_AVAILABLE", retriable=True)
FENCED_INSTANCE_ID: Final = _answer(82, "FENCED_INSTANCE_ID")
INVALID_RECORD: Final = _answer(87, "INVALID_RECORD")
PRODUCER_FENCED: Final = _answer(90, "PRODUCER_FENCED")
TAUGHT: Final = (
    NETWORK_EXCEPTION,
    FENCED_LEADER_EPOCH,
    UNKNOWN_LEADER_EPOCH,
    OFFSET_NOT_AVAILABLE,
    FENCED_INSTANCE_ID,
    INVALID_RECORD,
    PRODUCER_FENCED,
)
errors.kafka_errors.update({vars(error)["errno"]: error for error in TAUGHT})

FENCED: Final[frozenset[type[Exception]]] = frozenset(
    {
        errors.ProducerFenced,
        # Also the answer to our own transaction that timed out: the lane stops either
        # way, and re-fences only after a new assignment or a session timeout.
        errors.InvalidProducerEpoch,
        PRODUCER_FENCED,
    }
)

REFUSED: Final[dict[type[Exception], str]] = {
    errors.MessageSizeTooLargeError: "too_large",
    errors.RecordListTooLargeError: "too_large",
    errors.RecordTooLargeError: "too_large",
    errors.TopicAuthorizationFailedError: "not_authorised",
    errors.GroupAuthorizationFailedError: "not_authorised",
    errors.ClusterAuthorizationFailedError: "not_authorised",
    errors.TransactionalIdAuthorizationFailed: "not_authorised",
    errors.DelegationTokenAuthorizationFailed: "not_authorised",
    errors.SaslAuthenticationFailed: "not_authorised",
    errors.AuthenticationFailedError: "not_authorised",
    errors.AuthenticationMethodNotSupported: "not_authorised",
    errors.UnsupportedSaslMechanismError: "not_authorised",
    errors.IllegalSaslStateError: "not_authorised",
    errors.SecurityDisabled: "not_authorised",
    errors.DelegationTokenAuthDisabled: "not_authorised",
    errors.DelegationTokenNotFound: "not_authorised",
    errors.DelegationTokenOwnerMismatch: "not_authorised",
    errors.DelegationTokenRequestNotAllowed: "not_authorised",
    errors.DelegationTokenExpired: "not_authorised",
    errors.InvalidPrincipalType: "not_authorised",
    # Retriable to aiokafka, which has then waited for the topic as long as we allow.
    errors.UnknownTopicOrPartitionError: "unknown_topic",
    errors.InvalidTopicError: "unknown_topic",
    errors.OffsetOutOfRangeError: "other",
    errors.NoOffsetForPartitionError: "other",
    errors.InvalidFetchRequestError: "other",
    errors.OffsetMetadataTooLargeError: "other",
    errors.InvalidCommitOffsetSizeError: "other",
    errors.InvalidRequiredAcksError: "other",
    errors.InconsistentGroupProtocolError: "other",
    errors.InvalidGroupIdError: "other",
    errors.InvalidSessionTimeoutError: "other",
    errors.InvalidTimestampError: "other",
    errors.UnsupportedVersionError: "other",
    errors.UnsupportedForMessageFormatError: "other",
    errors.UnsupportedCodecError: "other",
    errors.TopicAlreadyExistsError: "other",
    errors.InvalidPartitionsError: "other",
    errors.InvalidReplicationFactorError: "other",
    errors.InvalidReplicationAssignmentError: "other",
    errors.InvalidConfigurationError: "other",
    errors.InvalidRequestError: "other",
    errors.PolicyViolationError: "other",
    errors.InvalidTransactionTimeout: "other",
    errors.NonEmptyGroup: "other",
    errors.GroupIdNotFound: "other",
    errors.IncompatibleBrokerVersion: "other",
    errors.UnrecognizedBrokerVersion: "other",
    errors.KafkaConfigurationError: "other",
    errors.QuotaViolationError: "other",
    FENCED_INSTANCE_ID: "other",
    INVALID_RECORD: "other",
}

IN_DOUBT: Final[frozenset[type[Exception]]] = frozenset(
    {
        errors.BrokerNotAvailableError,
        errors.Cancelled,
        errors.CommitFailedError,
        errors.ConcurrentTransactions,
        errors.ConsumerStoppedError,
        errors.CorrelationIdError,
        errors.CorruptRecordException,
        errors.DuplicateSequenceNumber,
        errors.FetchSessionIdNotFound,
        errors.GroupCoordinatorNotAvailableError,
        errors.GroupLoadInProgressError,
        errors.IllegalArgumentError,
        errors.IllegalGenerationError,
        errors.IllegalOperation,
        errors.IllegalStateError,
        errors.InvalidFetchSessionEpoch,
        # An id unused for transactional.id.expiration.ms (7 days) is forgotten: a new
        # fence gets a new one.
        errors.InvalidProducerIdMapping,
        errors.InvalidTxnState,
        errors.KafkaConnectionError,
        errors.KafkaError,
        errors.BrokerResponseError,
        errors.KafkaProtocolError,
        errors.KafkaStorageError,
        errors.KafkaTimeoutError,
        errors.KafkaUnavailableError,
        errors.LeaderNotAvailableError,
        errors.ListenerNotFound,
        errors.LogDirNotFound,
        errors.MemberIdRequired,
        errors.MetadataEmptyBrokerList,
        errors.NoBrokersAvailable,
        errors.NoError,
        errors.NodeNotReadyError,
        errors.NotControllerError,
        errors.NotCoordinatorForGroupError,
        errors.NotEnoughReplicasAfterAppendError,
        errors.NotEnoughReplicasError,
        errors.NotLeaderForPartitionError,
        errors.OperationNotAttempted,
        errors.OutOfOrderSequenceNumber,
        errors.ProducerClosed,
        errors.ReassignmentInProgress,
        errors.RebalanceInProgressError,
        errors.ReplicaNotAvailableError,
        errors.RequestTimedOutError,
        errors.StaleControllerEpochError,
        errors.StaleLeaderEpochCodeError,
        errors.StaleMetadata,
        errors.TooManyInFlightRequests,
        errors.TransactionCoordinatorFenced,
        errors.UnknownError,
        errors.UnknownMemberIdError,
        errors.UnknownProducerId,
        NETWORK_EXCEPTION,
        FENCED_LEADER_EPOCH,
        UNKNOWN_LEADER_EPOCH,
        OFFSET_NOT_AVAILABLE,
    }
)

_SIGN_IN: Final = (
    errors.SaslAuthenticationFailed,
    errors.AuthenticationFailedError,
    errors.AuthenticationMethodNotSupported,
    errors.UnsupportedSaslMechanismError,
    errors.IllegalSaslStateError,
    errors.SecurityDisabled,
    errors.DelegationTokenNotFound,
    errors.DelegationTokenExpired,
)
_TOO_FEW_REPLICAS: Final = (
    errors.NotEnoughReplicasError,
    errors.NotEnoughReplicasAfterAppendError,
)


# What tells more than the class of our exception does; the first row wins.
_TELLING: Final[tuple[tuple[tuple[type[BaseException], ...], Condition], ...]] = (
    ((socket.gaierror,), Condition.NAME_UNRESOLVED),
    ((ssl.SSLError,), Condition.TLS_REFUSED),
    (_SIGN_IN, Condition.CREDENTIALS_REFUSED),
    (_TOO_FEW_REPLICAS, Condition.REPLICAS_MISSING),
    ((OSError, errors.KafkaConnectionError), Condition.BROKERS_AWAY),
)


def classify(
    error: BaseException,
    doing: str,
    unsure: type[TransientError] = IndefiniteError,
) -> ExecutorError:
    """Turn any exception into the one of ours that names what to do.

    aiokafka wraps some failures in a bare ``KafkaError`` and keeps the reason as the
    cause; the reason then decides. What the table does not name (time-outs, sockets,
    TLS, the client's own assertions) is in doubt.

    Args:
        error: what was raised; one of ours is returned as it is.
        doing: what was under way, with topic and partition, for the message.
        unsure: the class for doubt: ``IndefiniteError`` where something was written,
            ``UnavailableError`` where it was only read.

    Returns:
        A ``FencedError``, a ``BrokerRefusedError`` with its reason, or an ``unsure``;
        with its condition.
    """
    if isinstance(error, ExecutorError):
        return error
    cause = error
    while type(cause) is errors.KafkaError and cause.__cause__ is not None:
        cause = cause.__cause__
    message = f"{doing}: {type(cause).__name__}: {str(cause)[:200]}"
    kind = type(cause)
    reason = REFUSED.get(kind)  # type: ignore[arg-type]  # any type may be asked for
    ours: ExecutorError
    if kind in FENCED:
        ours = FencedError(message)
    elif reason is not None:
        ours = BrokerRefusedError(message, reason)
    else:
        ours = unsure(message)
    told = (condition for kinds, condition in _TELLING if isinstance(cause, kinds))
    ours.condition = next(told, ours.condition)
    return ours


@contextmanager
def classified(
    doing: str, unsure: type[TransientError] = IndefiniteError
) -> Iterator[None]:
    """Let only exceptions of ours out of the block; see ``classify``.

    Cancellation passes through untouched.
    """
    try:
        yield
    except ExecutorError:
        raise
    except Exception as error:
        raise classify(error, doing, unsure) from error


async def require_partition(
    producer: AIOKafkaProducer, topic: str, partition: int
) -> None:
    """Refuse a partition that its topic does not have: a send would only time out."""
    if partition not in await producer.partitions_for(topic):
        raise BrokerRefusedError(
            f"{topic} has no partition {partition}", "unknown_topic"
        )


def seen(future: asyncio.Future[Any]) -> None:
    """Look at a future's exception, so that asyncio does not log it as forgotten."""
    if not future.cancelled():
        future.exception()
