"""Ask brokers plain questions: where does a log begin and end, what are its raw bytes.

Routes a request to the leader of a partition, retries what may pass (a leader that
moved, a broker that restarts) and gives up at a deadline. Reads only, so a failure
leaves nothing in doubt: it is ``UnavailableError``.

Not here: what the bytes mean (``batches``).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from aiokafka import TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import create_conn
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.offset import OffsetRequest

from stream_executor.kafka.failures import classified, classify
from stream_executor.kafka.internals import within
from stream_executor.model.errors import MisuseError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from stream_executor.kafka.connection import KafkaConnection

READ_UNCOMMITTED: Final = 0
READ_COMMITTED: Final = 1
_EARLIEST: Final = -2
_LATEST: Final = -1
_RETRY_S: Final = 0.05
# A topic that has just been created is unknown to other brokers for milliseconds.
_UNKNOWN_S: Final = 2.0
_CLOSE_DEADLINE_S: Final = 3.0
# A broker that has not said by then which cluster it is of hangs; ask another.
_HANGS_S: Final = 2.0
# A fetch may wait on the broker, which answers one request of a connection at a time;
# questions go over a second connection so that they need not queue behind it.
_FETCHES: Final = ConnectionGroup.DEFAULT
_QUESTIONS: Final = ConnectionGroup.COORDINATION

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class FetchedBytes:
    """What a broker sent of one partition.

    Attributes:
        data: record batches as they lie in the log; the last may be cut off.
        aborted: (producer id, first offset) of each aborted transaction that touches
            these bytes.
        high_watermark: end of the replicated log.
        last_stable: end of what is decided; an open transaction holds it back.
    """

    data: bytes
    aborted: tuple[tuple[int, int], ...]
    high_watermark: int
    last_stable: int


def read_partition(
    version: int, part: tuple[Any, ...]
) -> tuple[int, int, FetchedBytes]:
    """Name the fields of one partition of a FetchResponse v4 to v11.

    Returns:
        The partition, its error code, and the rest.
    """
    partition, code, high_watermark, last_stable = part[:4]
    # v5 puts the log's beginning before the aborted list.
    aborted = part[5] if version >= 5 else part[4]  # noqa: PLR2004
    fetched = FetchedBytes(
        data=part[-1] or b"",
        aborted=tuple((pid, first) for pid, first in aborted or ()),
        high_watermark=high_watermark,
        last_stable=last_stable,
    )
    return partition, code, fetched


class BrokerClient:
    """A client that only asks. Close it with ``close`` or as a context manager."""

    def __init__(self, connection: KafkaConnection, role: str = "query") -> None:
        self._connection = connection
        self._role = role
        self._client: AIOKafkaClient | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Connect to one broker and learn of the others.

        Raises:
            UnavailableError: none of the bootstrap servers answered in time.
            BrokerRefusedError: reason ``not_authorised``.
        """
        if self._client is not None:
            raise MisuseError("this client has been started already")
        client = AIOKafkaClient(**self._connection.client_options(self._role))
        self._client = client
        try:
            servers = self._connection.bootstrap_servers
            with classified(f"connect to {servers}", UnavailableError):
                async with asyncio.timeout(self._connection.request_timeout_s):
                    try:
                        await client.bootstrap()
                    except kafka_errors.KafkaConnectionError:
                        await self._say_why(client)
                        raise
        except BaseException:
            await self.close()
            raise

    async def _say_why(self, client: AIOKafkaClient) -> None:
        """Raise what the first broker says: aiokafka logs it and raises a bare no."""
        options = self._connection.client_options(self._role)
        del options["bootstrap_servers"]
        host, port, _ = client.hosts[0]
        refused = await create_conn(host, port, **options)
        await refused.close()

    async def close(self) -> None:
        """Close all connections; never hangs, never raises, may be called twice."""
        client, self._client = self._client, None
        if client is not None:
            await within(_CLOSE_DEADLINE_S, client.close())

    @property
    def raw(self) -> AIOKafkaClient:
        """The client beneath, for the other files of this room."""
        if self._client is None:
            raise MisuseError("this client has not been started, or is closed")
        return self._client

    async def offset(
        self, topic: str, partition: int, timestamp: int, isolation: int
    ) -> int:
        """Ask the leader for one offset (ListOffsets).

        Args:
            topic: name of the topic.
            partition: its partition.
            timestamp: -1 for the end, -2 for the beginning, or milliseconds since
                1970: the first record appended then or later.
            isolation: what the end means: the high watermark or the last stable offset.

        Returns:
            The offset, or -1 where no record is that late.

        Raises:
            UnavailableError: no answer before the deadline.
            BrokerRefusedError: unknown topic or partition, or no right to describe it.
        """
        request = OffsetRequest(-1, isolation, [(topic, [(partition, timestamp)])])

        def read(response: Any) -> tuple[int, int]:
            _, code, _, offset = response.topics[0][1][0]
            return code, offset

        return await self.ask_leader(topic, partition, request, read)

    async def begin_offset(self, topic: str, partition: int) -> int:
        """Offset of the first record that still exists; errors as ``offset``."""
        return await self.offset(topic, partition, _EARLIEST, READ_UNCOMMITTED)

    async def end_offset(self, topic: str, partition: int) -> int:
        """End of the log, undecided transactions included; errors as ``offset``.

        Recovery must not use the committed end: markers of the last transaction may
        not have moved it yet (KAFKA-10167).
        """
        return await self.offset(topic, partition, _LATEST, READ_UNCOMMITTED)

    async def cluster_id(self) -> str:
        """Id of the cluster that answers now; a broker that hangs is passed over.

        Raises:
            UnavailableError: no broker answered.
        """
        request = MetadataRequest([])
        with classified("ask for the cluster's id", UnavailableError):
            async with asyncio.timeout(self._connection.request_timeout_s):
                while True:
                    node = self.raw.get_random_node()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_HANGS_S):
                            response = await self.raw.send(
                                node, request, group=_QUESTIONS
                            )
                            found: str = response.cluster_id
                            return found
                    self.raw.force_metadata_update()  # others may know it is away

    async def partition_count(self, topic: str) -> int:
        """Number of partitions of a topic, asked afresh.

        Raises:
            BrokerRefusedError: ``unknown_topic`` or ``not_authorised``.
            UnavailableError: no broker answered.
        """
        with classified(f"describe topic {topic}", UnavailableError):
            async with asyncio.timeout(self._connection.request_timeout_s):
                return await self._count_partitions(topic)

    async def fetch(
        self,
        topic: str,
        partition: int,
        offset: int,
        *,
        max_bytes: int,
        max_wait_ms: int = 0,
    ) -> FetchedBytes:
        """Fetch raw record batches from an offset on, committed records only.

        The broker sends aborted records all the same, with the list that marks them.
        At least one whole batch comes if there is one, however large (KIP-74).

        Args:
            topic: name of the topic.
            partition: its partition.
            offset: where to begin; the first batch may begin before it.
            max_bytes: how much to send at most, the first batch excepted.
            max_wait_ms: how long the broker may wait for the first byte.

        Raises:
            UnavailableError: no answer before the deadline.
            BrokerRefusedError: the offset is outside the log (``other``), unknown topic
                or no right to read.
        """
        request = FetchRequest(
            max_wait_ms,
            1,
            max_bytes,
            READ_COMMITTED,
            [(topic, [(partition, offset, max_bytes)])],
        )

        def read(response: Any) -> tuple[int, FetchedBytes]:
            if not response.topics:
                return response.error_code or -1, FetchedBytes(b"", (), -1, -1)
            part = response.topics[0][1][0]
            _, code, fetched = read_partition(response.API_VERSION, part)
            return code, fetched

        return await self.ask_leader(
            topic, partition, request, read, group=_FETCHES, extra_s=max_wait_ms / 1000
        )

    async def ask_leader(
        self,
        topic: str,
        partition: int,
        request: Any,
        read: Callable[[Any], tuple[int, _T]],
        *,
        group: ConnectionGroup = _QUESTIONS,
        extra_s: float = 0.0,
    ) -> _T:
        """Send a request to a partition's leader until it is answered or time is up.

        Args:
            topic: name of the topic.
            partition: its partition.
            request: must be harmless to repeat.
            read: takes the response, gives its error code and its value.
            group: which of the two connections to use.
            extra_s: time that the broker itself was asked to wait.
        """
        doing = f"ask the leader of {topic}-{partition}"
        clock = asyncio.get_running_loop().time
        begun = clock()
        last: Exception | None = None
        try:
            async with asyncio.timeout(self._connection.request_timeout_s + extra_s):
                while True:
                    try:
                        node = await self._leader(topic, partition)
                        response = await self.raw.send(node, request, group=group)
                        code, value = read(response)
                        if code == 0:
                            return value
                        raise kafka_errors.for_code(code)(f"{topic}-{partition}")
                    except kafka_errors.UnknownTopicOrPartitionError as error:
                        if clock() - begun > _UNKNOWN_S:
                            raise
                        last = error
                    except kafka_errors.KafkaError as error:
                        if not error.retriable:
                            raise
                        last = error
                    await self.raw.force_metadata_update()
                    await asyncio.sleep(_RETRY_S)
        except TimeoutError as error:
            raise classify(last or error, doing, UnavailableError) from last
        except kafka_errors.KafkaError as error:
            raise classify(error, doing, UnavailableError) from error

    async def _leader(self, topic: str, partition: int) -> int:
        cluster = self.raw.cluster
        if cluster.partitions_for_topic(topic) is None:
            # aiokafka's own metadata requests create topics where brokers allow it.
            await self._count_partitions(topic)
            await self.raw.add_topic(topic)
        node: int | None = cluster.leader_for_partition(
            TopicPartition(topic, partition)
        )
        if node is None:
            raise kafka_errors.UnknownTopicOrPartitionError(f"{topic}-{partition}")
        if node == -1:
            raise kafka_errors.LeaderNotAvailableError(f"{topic}-{partition}")
        return node

    async def _count_partitions(self, topic: str) -> int:
        """Ask a broker for a topic's partitions, without letting it create one."""
        response = await self.raw.send(
            self.raw.get_random_node(),
            MetadataRequest([topic], allow_auto_topic_creation=False),
            group=_QUESTIONS,
        )
        code, _, _, partitions = response.topics[0]
        if code:
            raise kafka_errors.for_code(code)(topic)
        return len(partitions)
