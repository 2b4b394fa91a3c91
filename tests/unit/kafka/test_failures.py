"""Every failure of the client has one of three meanings."""

from __future__ import annotations

import inspect
import socket
import ssl

import pytest
from aiokafka import errors

from stream_executor.kafka.failures import (
    FENCED,
    IN_DOUBT,
    REFUSED,
    TAUGHT,
    classified,
    classify,
)
from stream_executor.model.conditions import Condition
from stream_executor.model.errors import (
    BrokerRefusedError,
    ExecutorError,
    FencedError,
    IndefiniteError,
    MisuseError,
    UnavailableError,
)

EVERY = [
    *(
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, Exception)
    ),
    *TAUGHT,
]


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_every_exception_of_aiokafka_is_in_the_table_once(
    kind: type[Exception],
) -> None:
    places = (kind in FENCED, kind in REFUSED, kind in IN_DOUBT)
    assert sum(places) == 1, f"{kind.__name__}: decide what it means"


@pytest.mark.parametrize(
    "kind",
    [kind for kind in EVERY if kind is not errors.BrokerResponseError],  # abstract
    ids=lambda kind: kind.__name__,
)
def test_every_exception_becomes_the_class_of_its_place(kind: type[Exception]) -> None:
    ours = classify(kind("reason"), "doing")
    if kind in FENCED:
        assert type(ours) is FencedError
    elif kind in REFUSED:
        assert isinstance(ours, BrokerRefusedError)
        assert ours.reason == REFUSED[kind]
    else:
        assert type(ours) is IndefiniteError
    assert str(ours).startswith(f"doing: {kind.__name__}")


def test_the_reasons_are_the_four_of_the_contract() -> None:
    assert set(REFUSED.values()) <= {
        "too_large",
        "not_authorised",
        "unknown_topic",
        "other",
    }


@pytest.mark.parametrize(
    ("code", "expected", "retriable"),
    [
        (13, IndefiniteError, True),  # read as fatal by aiokafka alone
        (49, IndefiniteError, False),  # InvalidProducerIdMapping
        (47, FencedError, False),
        (90, FencedError, False),
        (75, IndefiniteError, True),
        (78, IndefiniteError, True),
        (87, BrokerRefusedError, False),
        (999, IndefiniteError, False),
    ],
)
def test_error_codes_of_today_are_known_to_aiokafka(
    code: int, expected: type[ExecutorError], *, retriable: bool
) -> None:
    error = errors.for_code(code)()
    assert isinstance(classify(error, ""), expected)
    assert error.retriable is retriable


@pytest.mark.parametrize(
    "error", [TimeoutError(), OSError("x"), ssl.SSLError("x"), AssertionError("x")]
)
def test_what_is_not_kafkas_is_in_doubt(error: Exception) -> None:
    assert type(classify(error, "")) is IndefiniteError
    assert type(classify(error, "", UnavailableError)) is UnavailableError


@pytest.mark.parametrize(
    ("error", "condition"),
    [
        (socket.gaierror("x"), Condition.NAME_UNRESOLVED),
        (ssl.SSLCertVerificationError("x"), Condition.TLS_REFUSED),
        (ConnectionRefusedError("x"), Condition.BROKERS_AWAY),
        (TimeoutError(), Condition.BROKERS_AWAY),
        (errors.KafkaConnectionError("x"), Condition.BROKERS_AWAY),
        (errors.SaslAuthenticationFailed("x"), Condition.CREDENTIALS_REFUSED),
        (errors.UnsupportedSaslMechanismError("x"), Condition.CREDENTIALS_REFUSED),
        (errors.TopicAuthorizationFailedError("x"), Condition.RIGHTS_MISSING),
        (errors.UnknownTopicOrPartitionError("x"), Condition.TOPIC_MISSING),
        (errors.MessageSizeTooLargeError("x"), Condition.TOPIC_SETTINGS),
        (errors.NotEnoughReplicasError("x"), Condition.REPLICAS_MISSING),
        (errors.OffsetOutOfRangeError("x"), None),
        (errors.IllegalGenerationError("x"), None),
    ],
)
def test_what_is_wrong_with_the_world_is_named(
    error: Exception, condition: Condition | None
) -> None:
    assert classify(error, "").condition is condition


def test_a_bare_wrapper_is_looked_through() -> None:
    wrapped = errors.KafkaError("Unexpected error during batch delivery")
    wrapped.__cause__ = errors.KafkaError("twice")
    wrapped.__cause__.__cause__ = errors.TopicAuthorizationFailedError("t")
    ours = classify(wrapped, "")
    assert isinstance(ours, BrokerRefusedError)
    assert ours.reason == "not_authorised"


def test_classified_keeps_the_cause_and_lets_ours_pass() -> None:
    with pytest.raises(FencedError) as caught, classified("commit"):
        raise errors.ProducerFenced
    assert isinstance(caught.value.__cause__, errors.ProducerFenced)
    with pytest.raises(MisuseError), classified("commit"):
        raise MisuseError("ours")
    with pytest.raises(KeyboardInterrupt), classified("commit"):
        raise KeyboardInterrupt


def test_a_message_is_cut() -> None:
    assert len(str(classify(ValueError("x" * 10_000), "doing"))) < 300
