"""Look at a cluster's topics, create them, and refuse to start on the wrong ones.

Creates topics and sets their settings; never deletes, never adds partitions, never
touches a setting that is not in the table. Settings go one by one through
IncrementalAlterConfigs (KIP-339): the older request, the only one aiokafka has, would
reset everything that it does not name.

Not here: what is right (``topics``, ``acls``).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiokafka import errors as kafka_errors
from aiokafka.protocol.admin import CreateTopicsRequest, DescribeConfigsRequest
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.types import Array, Boolean, Int8, Int16, Int32, Schema, String

from stream_executor.kafka.client import BrokerClient
from stream_executor.kafka.failures import classified
from stream_executor.kafka.topic_facts import TopicFacts, TopicFactsRequest
from stream_executor.kafka.topics import (
    Action,
    Change,
    TopicSpec,
    TopicState,
    desired,
    plan,
)
from stream_executor.model.errors import TopicDriftError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType
    from typing import Self

    from stream_executor.kafka.connection import KafkaConnection
    from stream_executor.kafka.topics import TopicNames

_TOPIC: Final = 2  # ConfigResource.Type.TOPIC
_SET: Final = 0  # AlterConfigOp.OpType.SET
_LOOK_AGAIN_S: Final = 0.05
_LEAST_IN_SYNC: Final = "min.insync.replicas"


class ClusterFacts(msgspec.Struct, frozen=True):
    """Which cluster this is, and how many brokers it has at the moment."""

    cluster_id: str
    brokers: int


class Survey(msgspec.Struct, frozen=True):
    """A deployment's topics as they are.

    Attributes:
        partitions: of requests, results and audit; 0 if none is there.
        facts: by topic; of those that are there.
        changes: what differs from what they must be.
        lacking: topics that take no commit for want of replicas, with what is there.
    """

    cluster: ClusterFacts
    partitions: int
    facts: dict[str, TopicFacts]
    changes: list[Change]
    lacking: dict[str, str]


class KafkaAdmin:
    """Asks and changes a cluster. Close it, or use it as a context manager."""

    def __init__(self, connection: KafkaConnection) -> None:
        self._connection = connection
        self._client = BrokerClient(connection, "admin")

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
        """Connect; errors as ``BrokerClient.start``."""
        await self._client.start()

    async def close(self) -> None:
        """Disconnect; never hangs, never raises."""
        await self._client.close()

    async def cluster(self) -> ClusterFacts:
        """Say which cluster this is.

        Raises:
            UnavailableError: no answer in time.
        """
        response = await self._ask(MetadataRequest([]), "describe the cluster")
        return ClusterFacts(response.cluster_id, len(response.brokers))

    async def partition_count(self, topic: str) -> int:
        """Number of partitions; errors as ``BrokerClient.partition_count``."""
        return await self._client.partition_count(topic)

    async def topic_facts(self, names: Sequence[str]) -> dict[str, TopicFacts]:
        """Give each topic's id and what we may do with it.

        Topics that are not there, or may not be described, are left out; so are all
        where brokers are older than Kafka 2.8.

        Raises:
            UnavailableError: no answer in time.
        """
        try:
            response = await self._ask(TopicFactsRequest(names), "describe topics")
        except UnavailableError as error:
            if isinstance(error.__cause__, NotImplementedError):
                return {}
            raise
        return {
            name: TopicFacts(
                topic_id,
                operations,
                min(0 if part[2] < 0 else len(part[5]) for part in partitions),
            )
            for code, name, topic_id, _, partitions, operations, _ in response.topics
            if code == 0
        }

    async def survey(self, names: TopicNames) -> Survey:
        """Look at the six topics of a deployment; errors as ``describe``."""
        cluster = await self.cluster()
        facts = await self.topic_facts(names.all())
        states = await self.describe(names.all())
        lanes = (states[n] for n in (names.requests, names.results, names.audit))
        partitions = next((state.partitions for state in lanes if state), 0)
        specs = desired(names, partitions=max(1, partitions), brokers=cluster.brokers)
        lacking = {
            name: f"{name}: {one.in_sync} in-sync replica(s), commits need {least}"
            for name, one in facts.items()
            if (state := states.get(name)) is not None
            and one.in_sync < (least := int(state.configs.get(_LEAST_IN_SYNC, "1")))
        }
        return Survey(cluster, partitions, facts, plan(specs, states), lacking)

    async def describe(self, names: Sequence[str]) -> dict[str, TopicState | None]:
        """Look at topics as they are; None where there is no such topic.

        Raises:
            UnavailableError: no answer in time.
            BrokerRefusedError: ``not_authorised`` to describe a topic or its settings.
        """
        doing = f"describe {', '.join(names)}"
        metadata = await self._ask(
            MetadataRequest(list(names), allow_auto_topic_creation=False), doing
        )
        layouts: dict[str, tuple[int, int]] = {}
        with classified(doing, UnavailableError):
            for code, name, _, partitions in metadata.topics:
                if code == kafka_errors.UnknownTopicOrPartitionError.errno:
                    continue
                _raise_for(code, name)
                replicas = min(len(partition[3]) for partition in partitions)
                layouts[name] = (len(partitions), replicas)
        configs = await self._configs(list(layouts), doing)
        return {
            name: TopicState(*layouts[name], configs[name]) if name in layouts else None
            for name in names
        }

    async def plan(self, specs: Iterable[TopicSpec]) -> list[Change]:
        """Compare topics with their specs; errors as ``describe``."""
        specs = tuple(specs)
        return plan(specs, await self.describe([spec.name for spec in specs]))

    async def check(self, specs: Iterable[TopicSpec]) -> list[Change]:
        """Refuse drift that matters; called by every process before it works.

        Returns:
            The differences that do not matter, for a warning.

        Raises:
            ConfigError: a difference matters; the message has each with its remedy.
            UnavailableError, BrokerRefusedError: as ``describe``.
        """
        changes = await self.plan(specs)
        grave = [str(change) for change in changes if change.matters]
        if grave:
            raise TopicDriftError(
                "topics are not as they must be:\n" + "\n".join(grave)
            )
        return changes

    async def apply(self, specs: Iterable[TopicSpec]) -> list[Change]:
        """Create what is missing and set what differs; wait until leaders answer.

        Running it twice changes nothing the second time.

        Returns:
            What is left: what only a human may change.

        Raises:
            BrokerRefusedError: ``not_authorised``, or the cluster's policy (``other``).
            UnavailableError: no answer in time; some changes may have been made.
        """
        specs = tuple(specs)
        changes = await self.plan(specs)
        missing = {c.topic for c in changes if c.action is Action.CREATE}
        await self._create([spec for spec in specs if spec.name in missing])
        wanted = {spec.name: spec.configs() for spec in specs}
        await self._configure(
            [
                (change.topic, change.what, wanted[change.topic][change.what])
                for change in changes
                if change.action is Action.CONFIGURE
            ]
        )
        return await self.plan(specs)

    # -- requests ---------------------------------------------------------------------

    async def _create(self, specs: Sequence[TopicSpec]) -> None:
        if not specs:
            return
        request = CreateTopicsRequest(
            [
                (
                    spec.name,
                    spec.partitions,
                    spec.replication_factor,
                    [],
                    list(spec.configs().items()),
                )
                for spec in specs
            ],
            self._connection.request_timeout_ms,
            validate_only=False,
        )
        response = await self._ask(request, "create topics", controller=True)
        with classified("create topics", UnavailableError):
            for name, code, *_ in response.topic_errors:
                if code != kafka_errors.TopicAlreadyExistsError.errno:
                    _raise_for(code, name)
            async with asyncio.timeout(self._connection.request_timeout_s):
                for spec in specs:
                    await self._until_led(spec)

    async def _until_led(self, spec: TopicSpec) -> None:
        """Wait until every partition of a new topic has a leader that answers."""
        for partition in range(spec.partitions):
            await self._client.end_offset(spec.name, partition)

    async def _configure(self, settings: Sequence[tuple[str, str, str]]) -> None:
        if not settings:
            return
        by_topic: dict[str, list[tuple[str, int, str]]] = {}
        for topic, name, value in settings:
            by_topic.setdefault(topic, []).append((name, _SET, value))
        request = _IncrementalAlterConfigs(
            [(_TOPIC, topic, configs) for topic, configs in by_topic.items()]
        )
        response = await self._ask(request, "configure topics", controller=True)
        with classified("configure topics", UnavailableError):
            for code, _, _, name in response.responses:
                _raise_for(code, name)
            # A broker learns of the change a moment after the controller.
            async with asyncio.timeout(self._connection.request_timeout_s):
                while not await self._visible(settings):  # noqa: ASYNC110  # remote
                    await asyncio.sleep(_LOOK_AGAIN_S)

    async def _visible(self, settings: Sequence[tuple[str, str, str]]) -> bool:
        configs = await self._configs(
            sorted({topic for topic, _, _ in settings}), "configure topics"
        )
        return all(configs[topic].get(name) == value for topic, name, value in settings)

    async def _configs(
        self, topics: Sequence[str], doing: str
    ) -> dict[str, dict[str, str]]:
        if not topics:
            return {}
        request = DescribeConfigsRequest([(_TOPIC, topic, None) for topic in topics])
        response = await self._ask(request, doing)
        found: dict[str, dict[str, str]] = {}
        with classified(doing, UnavailableError):
            for code, _, _, topic, entries in response.resources:
                _raise_for(code, topic)
                found[topic] = {
                    entry[0]: entry[1] for entry in entries if entry[1] is not None
                }
        return found

    async def _ask(self, request: Any, doing: str, *, controller: bool = False) -> Any:
        """Send a request to any broker, or to the one that reaches the controller."""
        raw = self._client.raw
        with classified(doing, UnavailableError):
            async with asyncio.timeout(self._connection.request_timeout_s):
                if controller and raw.cluster.controller is None:
                    await raw.force_metadata_update()
                node = (
                    raw.cluster.controller.nodeId
                    if controller
                    else raw.get_random_node()
                )
                return await raw.send(node, request)


def _raise_for(code: int, name: str) -> None:
    if code:
        raise kafka_errors.for_code(code)(name)


# aiokafka is untyped, so its bases are Any to mypy.
class _IncrementalAlterConfigsResponse(Response):  # type: ignore[misc]
    API_KEY = 44
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "responses",
            Array(
                ("error_code", Int16),
                ("error_message", String("utf-8")),
                ("resource_type", Int8),
                ("resource_name", String("utf-8")),
            ),
        ),
    )


class _IncrementalAlterConfigsRequest(RequestStruct):  # type: ignore[misc]
    API_KEY = 44
    API_VERSION = 0
    RESPONSE_TYPE = _IncrementalAlterConfigsResponse
    SCHEMA = Schema(
        (
            "resources",
            Array(
                ("resource_type", Int8),
                ("resource_name", String("utf-8")),
                (
                    "configs",
                    Array(
                        ("name", String("utf-8")),
                        ("config_operation", Int8),
                        ("value", String("utf-8")),
                    ),
                ),
            ),
        ),
        ("validate_only", Boolean),
    )


class _IncrementalAlterConfigs(
    Request[_IncrementalAlterConfigsRequest]  # type: ignore[misc]
):
    API_KEY = 44

    def __init__(self, resources: list[tuple[int, str, list[Any]]]) -> None:
        self._resources = resources

    def build(
        self, request_struct_class: type[_IncrementalAlterConfigsRequest]
    ) -> _IncrementalAlterConfigsRequest:
        return request_struct_class(self._resources, False)
