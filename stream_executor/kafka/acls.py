"""Who may do what: the exact rights of each principal, and how to grant them; pure.

Nobody may alter or delete the audit topic, and nobody but executors may write results
or take a lane's transactional id; ``tests/integration/kafka/test_rights.py`` tries each
right on Kafka's StandardAuthorizer. Requesters get no transactional id: their markers
and aborts would only make gaps. An executor can still write a record to the audit topic
outside any transaction; such a record is no leaf, because leaves are sealed.

Not here: granting them; an administrator runs the commands.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stream_executor.kafka.topics import TopicNames


class Principals(msgspec.Struct, frozen=True):
    """Kafka's names for our roles, without the ``User:``.

    Attributes:
        executor: the workers.
        notary: signs checkpoints, archives.
        operator: speaks on control, publishes modules, creates topics.
        ceremony: runs ``init``, which alone writes the genesis records into the audit
            topic; its rights are to be withdrawn afterwards.
        requester: agents that send requests and read results.
        auditor: verifies.
    """

    executor: str = "wasm-executor"
    notary: str = "wasm-notary"
    operator: str = "wasm-operator"
    ceremony: str = "wasm-ceremony"
    requester: str = "wasm-requester"
    auditor: str = "wasm-auditor"


class Acl(msgspec.Struct, frozen=True, order=True):
    """One grant.

    Attributes:
        principal: without ``User:``.
        resource: ``topic``, ``group``, ``transactional-id`` or ``cluster``.
        name: of the resource.
        operations: Kafka's names; Read and Write imply Describe.
        prefixed: whether ``name`` is the beginning of names.
    """

    principal: str
    resource: str
    name: str
    operations: tuple[str, ...]
    prefixed: bool = False


def acls(names: TopicNames, principals: Principals, group: str) -> list[Acl]:
    """List every right that a deployment needs, and no other.

    Args:
        names: its topics.
        principals: who is who.
        group: consumer group of the workers.
    """
    rights: dict[str, dict[str, tuple[str, ...]]] = {
        principals.executor: {
            "Read": (names.requests, names.control, names.modules),
            "ReadWrite": (names.results, names.audit),
            "Describe": (names.checkpoints,),
        },
        principals.notary: {
            "Read": (names.requests, names.audit, names.modules, names.control),
            "ReadWrite": (names.checkpoints,),
            "Describe": (names.results,),
        },
        principals.operator: {
            "Read": (names.requests, names.results, names.audit, names.checkpoints),
            "ReadWrite": (names.control, names.modules),
        },
        principals.ceremony: {
            "ReadWrite": (names.audit, names.control),
            "Describe": (
                names.requests,
                names.results,
                names.modules,
                names.checkpoints,
            ),
        },
        principals.requester: {"Write": (names.requests,), "Read": (names.results,)},
        principals.auditor: {"Read": names.all()},
    }
    granted = {
        "Read": ("Read",),
        "Write": ("Write",),
        "ReadWrite": ("Read", "Write"),
        "Describe": ("Describe",),
    }
    rows = [
        Acl(principal, "topic", topic, granted[right] + _configs(principal, principals))
        for principal, by_right in rights.items()
        for right, topics in by_right.items()
        for topic in topics
    ]
    rows += [
        Acl(principals.executor, "group", group, ("Read",)),
        Acl(
            principals.executor,
            "transactional-id",
            f"wasm-executor.{names.audit}.",
            ("Write",),
            prefixed=True,
        ),
        # For `topics apply`, before the topics exist.
        Acl(principals.operator, "cluster", "kafka-cluster", ("Create",)),
    ]
    rows += [
        Acl(principals.operator, "topic", topic, ("AlterConfigs",))
        # Everything but the audit topic: its settings are nobody's to change.
        for topic in names.all()
        if topic != names.audit
    ]
    return sorted(rows)


def _configs(principal: str, principals: Principals) -> tuple[str, ...]:
    """Reading a topic's settings is a right of its own, which `check` needs."""
    if principal in {principals.requester, principals.auditor}:
        return ()
    return ("DescribeConfigs",)


def kafka_acls_commands(rows: Iterable[Acl], bootstrap: str = "localhost:9092") -> str:
    """Print the ``kafka-acls`` commands that grant the rights, one for equal rights."""
    commands = []
    for alike in _alike(rows):
        row = alike[0]
        words = ["kafka-acls", "--bootstrap-server", bootstrap, "--add"]
        words += ["--allow-principal", f"User:{row.principal}"]
        for operation in row.operations:
            words += ["--operation", operation]
        if row.resource == "cluster":
            words.append("--cluster")
        else:
            for each in alike:
                words += [f"--{row.resource}", each.name]
        if row.prefixed:
            words += ["--resource-pattern-type", "prefixed"]
        commands.append(shlex.join(words))
    return "\n".join(commands) + "\n"


def _alike(rows: Iterable[Acl]) -> Iterable[list[Acl]]:
    """Put rows together that differ in the resource's name only."""
    groups: dict[tuple[object, ...], list[Acl]] = {}
    for row in rows:
        key = (row.principal, row.resource, row.operations, row.prefixed)
        groups.setdefault(key, []).append(row)
    return groups.values()
