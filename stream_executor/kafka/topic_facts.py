"""The metadata request that tells a topic's id and our rights (KIP-516, KIP-430).

aiokafka's stop at version 5. Source: MetadataRequest.json and MetadataResponse.json of
Apache Kafka, version 10; AclOperation.java.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from io import BytesIO

_NONE: Final = bytes(16)


class Right(IntEnum):
    """What a principal may be allowed to do with a topic; Kafka's codes."""

    READ = 3
    WRITE = 4


class TopicFacts(msgspec.Struct, frozen=True):
    """One topic.

    Attributes:
        id: 16 bytes; a topic that was made anew has another.
        operations: bit by Kafka's code of an operation that we may do.
        in_sync: replicas that hold everything, of the partition with the fewest; 0 if
            one has no leader.
    """

    id: bytes
    operations: int
    in_sync: int

    def may(self, right: Right) -> bool:
        """Whether the brokers let us."""
        return bool(self.operations >> right & 1)


class _Uuid:
    """Sixteen bytes."""

    @staticmethod
    def encode(value: bytes) -> bytes:
        return value

    @staticmethod
    def decode(data: BytesIO) -> bytes:
        return data.read(16)


# aiokafka is untyped, so its bases are Any to mypy.
class _Response(Response):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", CompactString("utf-8")),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition_index", Int32),
                        ("leader_id", Int32),
                        ("leader_epoch", Int32),
                        ("replica_nodes", CompactArray(Int32)),
                        ("isr_nodes", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("topic_authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class _Request(RequestStruct):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 10
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _Response
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(
                ("topic_id", _Uuid),
                ("name", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class TopicFactsRequest(Request[_Request]):  # type: ignore[misc]
    """Ask about topics by name; creates none."""

    API_KEY = 3

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def build(self, request_struct_class: type[_Request]) -> Any:
        """Make the one version that there is."""
        no_tags: dict[int, bytes] = {}
        topics = [(_NONE, name, no_tags) for name in self._names]
        return request_struct_class(topics, False, False, True, no_tags)
