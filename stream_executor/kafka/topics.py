"""What our topics must be, what is wrong with those that are, and how to say it; pure.

One table holds their settings with the reason for each. ``plan`` compares it
with a cluster; what could lose, reorder or forge history is drift that *matters*, and
``check`` refuses to start on it. Partitions are never added by us: a second partition
needs its own genesis, and an operator who knows.

Not here: talking to the cluster (``admin``), who may do what (``acls``).
"""

from __future__ import annotations

import shlex
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import msgspec

from stream_executor.model.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DAY_MS: Final = 86_400_000
# The seven years of 365 days that the operations manual asks for.
SEVEN_YEARS_MS: Final = 2_555 * DAY_MS
REQUEST_DAYS: Final = 30
# Kafka's own default: 1 MiB and the overhead of a batch.
DEFAULT_MESSAGE_BYTES: Final = 1_048_588
MODULE_MESSAGE_BYTES: Final = 64 << 20
FOREVER: Final = -1


class TopicNames(msgspec.Struct, frozen=True):
    """The six topics of a deployment."""

    requests: str = "wasm.requests"
    results: str = "wasm.results"
    audit: str = "wasm.audit"
    modules: str = "wasm.modules"
    control: str = "wasm.control"
    checkpoints: str = "wasm.checkpoints"

    def all(self) -> tuple[str, ...]:
        """Every name, requests first."""
        return msgspec.structs.astuple(self)


class Rule(StrEnum):
    """How a setting is compared."""

    EXACT = "exact"
    AT_LEAST = "at least"  # -1 counts as without limit


class Setting(msgspec.Struct, frozen=True):
    """One setting of a topic.

    Attributes:
        name: Kafka's name for it.
        value: what we set it to.
        rule: how another value is judged.
        why: what goes wrong otherwise; None if it would be untidy only.
    """

    name: str
    value: str
    rule: Rule
    why: str | None

    def satisfied_by(self, actual: str | None) -> bool:
        """Whether another value serves as well."""
        if actual is None or self.rule is Rule.EXACT:
            return actual == self.value
        wanted, got = int(self.value), int(actual)
        return got == FOREVER or (wanted != FOREVER and got >= wanted)


class TopicSpec(msgspec.Struct, frozen=True):
    """One topic as it must be.

    Attributes:
        name: of the topic.
        partitions: their number.
        replication_factor: of each partition.
        settings: to be set, with what they are for.
        exact_partitions: True where more would be wrong as well.
    """

    name: str
    partitions: int
    replication_factor: int
    settings: tuple[Setting, ...]
    exact_partitions: bool = False

    def configs(self) -> dict[str, str]:
        """Settings by name, for creating the topic."""
        return {setting.name: setting.value for setting in self.settings}


class TopicState(msgspec.Struct, frozen=True):
    """One topic as it is."""

    partitions: int
    replication_factor: int
    configs: dict[str, str]


class Action(StrEnum):
    """What mends a difference."""

    CREATE = "create"
    CONFIGURE = "configure"
    BY_HAND = "by hand"


class Change(msgspec.Struct, frozen=True):
    """One difference between what is and what must be.

    Attributes:
        topic: its name.
        action: who mends it; ``apply`` does not touch ``BY_HAND``.
        what: setting, ``partitions`` or ``replication factor``; ``topic`` if missing.
        actual: None where there is none.
        wanted: what it must be.
        why: what goes wrong otherwise; None where the difference does not matter.
        remedy: what the operator can do, a command where there is one.
    """

    topic: str
    action: Action
    what: str
    actual: str | None
    wanted: str
    why: str | None
    remedy: str

    @property
    def matters(self) -> bool:
        """Whether a process must refuse to start."""
        return self.why is not None

    def __str__(self) -> str:
        got = "missing" if self.actual is None else f"is {self.actual}"
        reason = f" ({self.why})" if self.why else ""
        return (
            f"{self.topic}: {self.what} {got}, expected {self.wanted}{reason}. "
            f"{self.remedy}"
        )


def desired(
    names: TopicNames,
    *,
    partitions: int,
    brokers: int,
    request_retention_ms: int = REQUEST_DAYS * DAY_MS,
    audit_retention_ms: int = SEVEN_YEARS_MS,
) -> tuple[TopicSpec, ...]:
    """Write down the six topics of a deployment.

    Args:
        names: what they are called.
        partitions: of requests, results and audit alike.
        brokers: size of the cluster; three or more give replication 3, ISR 2.
        request_retention_ms: how long requests are kept, for re-execution and for a
            worker that was away.
        audit_retention_ms: less than seven years only behind a verified archive.

    Raises:
        ConfigError: two topics share a name, or a number is below 1.
    """
    if len(set(names.all())) != len(names.all()):
        raise ConfigError(f"topics: two share a name in {', '.join(names.all())}")
    if partitions < 1 or brokers < 1:
        raise ConfigError(f"topics: {partitions} partitions on {brokers} brokers")
    replicas = min(3, brokers)

    def spec(  # one call is one row of the table
        name: str,
        count: int,
        retention_ms: int,
        *,
        why_kept: str,
        timed: bool,
        message_bytes: int = DEFAULT_MESSAGE_BYTES,
    ) -> TopicSpec:
        return TopicSpec(
            name,
            count,
            replicas,
            (
                Setting(
                    "cleanup.policy",
                    "delete",
                    Rule.EXACT,
                    "compaction erases records that the audit refers to",
                ),
                Setting("retention.ms", str(retention_ms), Rule.AT_LEAST, why_kept),
                Setting("retention.bytes", str(FOREVER), Rule.AT_LEAST, why_kept),
                Setting(
                    "message.timestamp.type",
                    "LogAppendTime",
                    Rule.EXACT,
                    "a producer could choose the time of its records"
                    if timed
                    else None,
                ),
                Setting(
                    "min.insync.replicas",
                    "2" if replicas == 3 else "1",  # noqa: PLR2004  # KIP-98's advice
                    Rule.AT_LEAST,
                    "an acknowledged record could be lost with one disk",
                ),
                Setting(
                    "unclean.leader.election.enable",
                    "false",
                    Rule.EXACT,
                    "a replica that lags could become the history",
                ),
                Setting(
                    "max.message.bytes",
                    str(message_bytes),
                    Rule.AT_LEAST,
                    "batches that we may write would be refused",
                ),
            ),
            exact_partitions=count == 1 and name not in per_lane,
        )

    per_lane = {names.requests, names.results, names.audit}
    return (
        spec(
            names.requests,
            partitions,
            request_retention_ms,
            why_kept="requests could go before a worker has answered them",
            timed=True,
        ),
        spec(
            names.results,
            partitions,
            request_retention_ms,
            why_kept="results could go before their requests",
            timed=False,
        ),
        spec(
            names.audit,
            partitions,
            audit_retention_ms,
            why_kept="the audit log must last",
            timed=True,
        ),
        spec(
            names.modules,
            1,
            FOREVER,
            why_kept="published modules would vanish",
            timed=True,
            message_bytes=MODULE_MESSAGE_BYTES,
        ),
        spec(
            names.control,
            1,
            SEVEN_YEARS_MS,
            why_kept="what operators said must last as long as the audit log",
            timed=True,
        ),
        spec(
            names.checkpoints,
            1,
            SEVEN_YEARS_MS,
            why_kept="signed checkpoints must last as long as the audit log",
            timed=False,
        ),
    )


def plan(
    specs: Iterable[TopicSpec], current: Mapping[str, TopicState | None]
) -> list[Change]:
    """Compare what must be with what is.

    Args:
        specs: as ``desired`` gives them.
        current: state by topic name, None or left out where there is no such topic.

    Returns:
        Differences in the order of the specs; empty if all is well.
    """
    changes: list[Change] = []
    for spec in specs:
        state = current.get(spec.name)
        if state is None:
            changes.append(
                Change(
                    spec.name,
                    Action.CREATE,
                    "topic",
                    None,
                    f"{spec.partitions} partitions, replication "
                    f"{spec.replication_factor}",
                    "nothing can run without it",
                    "Run `wasm-executor topics apply`.",
                )
            )
        else:
            changes += _layout(spec, state)
            changes += _settings(spec, state)
    return changes


def _layout(spec: TopicSpec, state: TopicState) -> list[Change]:
    changes: list[Change] = []
    if state.partitions < spec.partitions:
        changes.append(
            Change(
                spec.name,
                Action.BY_HAND,
                "partitions",
                str(state.partitions),
                str(spec.partitions),
                "lanes without a partition cannot run",
                "Partitions are never added by us: add them with kafka-topics --alter, "
                "then run `wasm-executor init` for their genesis.",
            )
        )
    elif state.partitions > spec.partitions and spec.exact_partitions:
        changes.append(
            Change(
                spec.name,
                Action.BY_HAND,
                "partitions",
                str(state.partitions),
                str(spec.partitions),
                "its order is that of one partition",
                "Partitions cannot be taken away: create the topic under another name.",
            )
        )
    if state.replication_factor < spec.replication_factor:
        changes.append(
            Change(
                spec.name,
                Action.BY_HAND,
                "replication factor",
                str(state.replication_factor),
                str(spec.replication_factor),
                "an acknowledged record could be lost with one disk",
                "Raise it with kafka-reassign-partitions.",
            )
        )
    return changes


def _settings(spec: TopicSpec, state: TopicState) -> list[Change]:
    return [
        Change(
            spec.name,
            Action.CONFIGURE,
            setting.name,
            state.configs.get(setting.name),
            (f"{setting.rule} " if setting.rule is Rule.AT_LEAST else "")
            + setting.value,
            setting.why,
            "Run `wasm-executor topics apply`.",
        )
        for setting in spec.settings
        if not setting.satisfied_by(state.configs.get(setting.name))
    ]


# -- the same, for those who create topics themselves ----------------------------------


def kafka_topics_commands(
    specs: Iterable[TopicSpec], bootstrap: str = "localhost:9092"
) -> str:
    """Print the ``kafka-topics`` commands that create the topics."""
    commands = []
    for spec in specs:
        words = [
            "kafka-topics",
            "--bootstrap-server",
            bootstrap,
            "--create",
            "--if-not-exists",
            "--topic",
            spec.name,
            "--partitions",
            str(spec.partitions),
            "--replication-factor",
            str(spec.replication_factor),
        ]
        for name, value in spec.configs().items():
            words += ["--config", f"{name}={value}"]
        commands.append(shlex.join(words))
    return "\n".join(commands) + "\n"


def strimzi_yaml(specs: Iterable[TopicSpec], cluster: str = "kafka") -> str:
    """Print the topics as Strimzi ``KafkaTopic`` resources."""
    documents = []
    for spec in specs:
        lines = [
            "apiVersion: kafka.strimzi.io/v1beta2",
            "kind: KafkaTopic",
            "metadata:",
            # A Kubernetes name has no underscores or capitals; topicName has the rest.
            f"  name: {spec.name.lower().replace('_', '-')}",
            "  labels:",
            f"    strimzi.io/cluster: {cluster}",
            "spec:",
            f"  topicName: {spec.name}",
            f"  partitions: {spec.partitions}",
            f"  replicas: {spec.replication_factor}",
            "  config:",
            *(f'    {name}: "{value}"' for name, value in spec.configs().items()),
        ]
        documents.append("\n".join(lines) + "\n")
    return "---\n".join(documents)
