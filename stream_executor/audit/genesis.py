"""The first leaf of an audit partition: the operator's word for a log. Pure.

Not here: writing it (``services.ceremony``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from stream_executor.audit.signing import public_bytes, signed, verify_signed
from stream_executor.model.audit import ZERO32, Genesis
from stream_executor.model.errors import IntegrityError, MalformedError
from stream_executor.wire.avro import CODECS

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


class TopicNames(Protocol):
    """Names of the six topics."""

    @property
    def requests(self) -> str:
        """Requests."""
        ...

    @property
    def results(self) -> str:
        """Results."""
        ...

    @property
    def audit(self) -> str:
        """Audit events."""
        ...

    @property
    def modules(self) -> str:
        """Module bytes."""
        ...

    @property
    def control(self) -> str:
        """The control chain."""
        ...

    @property
    def checkpoints(self) -> str:
        """The notary's checkpoints."""
        ...


class LogPlace(msgspec.Struct, frozen=True):
    """Where a log lies: the cluster, the topics, which of how many partitions."""

    cluster_id: str
    topics: TopicNames
    partition: int
    partition_count: int


def make_genesis(
    operator: Ed25519PrivateKey,
    place: LogPlace,
    *,
    log_id: bytes,
    start_offset: int,
    notary_key: bytes,
    created_ms: int,
    previous_log: bytes | None = None,
) -> bytes:
    """Give the signed genesis leaf of one audit partition.

    Args:
        operator: the operator key.
        place: where the log lies.
        log_id: 16 random bytes that name it for ever.
        start_offset: first requests offset that the log answers for.
        notary_key: raw Ed25519 public key of the notary.
        created_ms: the operator's clock.
        previous_log: log_id of the log that this one continues on another cluster,
            or after its audit topic was lost.
    """
    topics = place.topics
    return signed(
        Genesis(
            0, ZERO32, log_id, place.cluster_id, topics.requests, topics.results,
            topics.audit, topics.modules, topics.control, topics.checkpoints,
            place.partition, place.partition_count, start_offset,
            public_bytes(operator), notary_key, previous_log, created_ms,
        ),
        operator,
    )  # fmt: skip


def verify_genesis(value: bytes, operator_key: bytes, place: LogPlace) -> Genesis:
    """Give the genesis that these bytes are.

    The partition count may be an older one: topics grow.

    Raises:
        IntegrityError: no genesis, not under this operator's key, or for another
            place.
    """
    where = f"{place.topics.audit}-{place.partition}"
    try:
        genesis: Genesis = CODECS[Genesis].decode(value)
    except MalformedError as error:
        message = f"{where} begins with no genesis: {error}"
        raise IntegrityError(message) from error
    if genesis.operator_key != operator_key:
        message = (
            f"{where} was begun by operator key {genesis.operator_key.hex()}, "
            f"expected {operator_key.hex()}"
        )
        raise IntegrityError(message)
    verify_signed(value, operator_key)
    topics = place.topics
    for what, expected, found in (
        ("cluster", place.cluster_id, genesis.cluster_id),
        ("partition", place.partition, genesis.partition),
        ("requests topic", topics.requests, genesis.requests_topic),
        ("results topic", topics.results, genesis.results_topic),
        ("audit topic", topics.audit, genesis.audit_topic),
    ):
        if expected != found:
            message = f"{where}: genesis is for {what} {found}, expected {expected}"
            raise IntegrityError(message)
    return genesis
