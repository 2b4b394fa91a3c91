"""The printed rights are exact: they suffice, and what they leave out is refused.

On a broker of its own with Kafka's StandardAuthorizer and SASL.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its own exports
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from stream_executor.embedded import EmbeddedKafka
from stream_executor.kafka.acls import Acl, Principals, acls
from stream_executor.kafka.admin import KafkaAdmin
from stream_executor.kafka.appender import Appender
from stream_executor.kafka.connection import KafkaConnection
from stream_executor.kafka.fetcher import TopicFetcher
from stream_executor.kafka.gaps import GapProver
from stream_executor.kafka.membership import GroupMembership
from stream_executor.kafka.reader import PartitionReader
from stream_executor.kafka.topics import TopicNames, desired
from stream_executor.kafka.writer import LaneWriter
from stream_executor.model.errors import (
    BrokerRefusedError,
    IndefiniteError,
    UnavailableError,
)
from stream_executor.model.record import OutRecord

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Iterator

NAMES = TopicNames()
WHO = Principals()
GROUP = "wasm-executor"
ROWS = acls(NAMES, WHO, GROUP)
USERS = ("admin", *(getattr(WHO, name) for name in WHO.__struct_fields__))
OPERATIONS = {
    "Read": AclOperation.READ,
    "Write": AclOperation.WRITE,
    "Describe": AclOperation.DESCRIBE,
    "DescribeConfigs": AclOperation.DESCRIBE_CONFIGS,
    "AlterConfigs": AclOperation.ALTER_CONFIGS,
    "Create": AclOperation.CREATE,
}
RESOURCES = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactional-id": ResourceType.TRANSACTIONAL_ID,
    "cluster": ResourceType.BROKER,
}


def login(bootstrap: str, user: str) -> KafkaConnection:
    return KafkaConnection(
        bootstrap_servers=bootstrap,
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        sasl_username=user,
        sasl_password=f"{user}-secret",
    )


def grant(bootstrap: str, rows: Iterable[Acl]) -> None:
    admin = AdminClient(
        {
            "bootstrap.servers": bootstrap,
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanisms": "PLAIN",
            "sasl.username": "admin",
            "sasl.password": "admin-secret",
        }
    )
    bindings = [
        AclBinding(
            RESOURCES[row.resource],
            row.name,
            ResourcePatternType.PREFIXED
            if row.prefixed
            else ResourcePatternType.LITERAL,
            f"User:{row.principal}",
            "*",
            OPERATIONS[operation],
            AclPermissionType.ALLOW,
        )
        for row in rows
        for operation in row.operations
    ]
    for done in admin.create_acls(bindings).values():
        done.result(10)
    everything = AclBindingFilter(
        ResourceType.ANY, None, ResourcePatternType.ANY, None, None,  # type: ignore[arg-type]  # None is any
        AclOperation.ANY, AclPermissionType.ANY,
    )  # fmt: skip
    # The controller has them; the broker learns of them a moment later.
    while len(admin.describe_acls(everything).result(10)) < len(set(bindings)):
        pass


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    """Give a broker on which everybody has exactly the rights of the table."""
    users = " ".join(f'user_{user}="{user}-secret"' for user in USERS)
    module = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    with EmbeddedKafka(
        properties={
            "listener.security.protocol.map": (
                "CLIENTS:SASL_PLAINTEXT,LOCAL:PLAINTEXT,CONTROLLER:PLAINTEXT"
            ),
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.clients.plain.sasl.jaas.config": f"{module} {users};",
            "authorizer.class.name": (
                "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
            ),
            # The broker speaks to itself without a name.
            "super.users": "User:admin;User:ANONYMOUS",
        }
    ) as kafka:
        grant(kafka.bootstrap, ROWS)
        yield kafka.bootstrap


async def not_authorised(work: Awaitable[object]) -> None:
    with pytest.raises(BrokerRefusedError) as caught:
        await work
    assert caught.value.reason == "not_authorised"


async def test_everybody_can_do_their_work_and_nothing_else(guarded: str) -> None:
    specs = desired(NAMES, partitions=2, brokers=1)
    executor, requester = login(guarded, WHO.executor), login(guarded, WHO.requester)

    # The operator creates the topics; the ceremony writes the first audit record.
    async with KafkaAdmin(login(guarded, WHO.operator)) as admin:
        assert await admin.apply(specs) == []
    async with Appender(login(guarded, WHO.ceremony)) as appender:
        await appender.append(NAMES.audit, 0, b"genesis")
    async with Appender(login(guarded, WHO.operator)) as appender:
        await appender.append(NAMES.control, 0, b"said")
        await appender.append(NAMES.modules, 0, b"module")
        await not_authorised(appender.append(NAMES.audit, 0, b"forged"))
    async with Appender(requester) as appender:
        await appender.append(NAMES.requests, 0, b"request")
        await not_authorised(appender.append(NAMES.results, 0, b"forged"))

    # The executor: checks, belongs, fetches, writes, proves.
    async with KafkaAdmin(executor) as admin:
        assert await admin.check(specs) == []
    assigned = asyncio.Event()

    async def on_assignment(_: set[int]) -> None:
        assigned.set()

    member = GroupMembership(
        executor,
        group_id=GROUP,
        instance_id="w-0",
        topic=NAMES.requests,
        on_assignment=on_assignment,
    )
    await member.start()
    async with asyncio.timeout(15):
        await assigned.wait()
    assert await member.commit_positions({0: 1})
    await member.leave()
    async with TopicFetcher(executor, NAMES.requests) as fetcher:
        fetcher.assign({0: 0})
        assert (await fetcher.getmany(1, 10_000))[0][0].value == b"request"
    async with LaneWriter(
        executor, results_topic=NAMES.results, audit_topic=NAMES.audit, partition=0
    ) as writer:
        await writer.commit([OutRecord(b"result")], [b"seal"])
    async with GapProver(executor) as prover:
        assert await prover.find_gaps(NAMES.audit, 0, 0, 2) == []
    async with Appender(executor) as appender:
        await not_authorised(appender.append(NAMES.requests, 0, b"forged"))

    # The notary and the auditor read; only the notary writes, and only checkpoints.
    async with Appender(login(guarded, WHO.notary)) as appender:
        await appender.append(NAMES.checkpoints, 0, b"checkpoint")
        await not_authorised(appender.append(NAMES.audit, 0, b"forged"))
    for reading, user in (
        (NAMES.all(), WHO.auditor),
        ((NAMES.audit, NAMES.control, NAMES.requests), WHO.notary),
        ((NAMES.results,), WHO.requester),
    ):
        async with PartitionReader(login(guarded, user)) as reader:
            for topic in reading:
                assert await reader.read_one(topic, 0, 0) is not None
    async with PartitionReader(requester) as reader:
        await not_authorised(reader.read_one(NAMES.audit, 0, 0))


async def test_nobody_else_takes_a_lane(guarded: str) -> None:
    for user in (WHO.requester, WHO.notary, WHO.operator, WHO.ceremony, WHO.auditor):
        writer = LaneWriter(
            login(guarded, user),
            results_topic=NAMES.results,
            audit_topic=NAMES.audit,
            partition=0,
        )
        await not_authorised(writer.fence())
        await writer.close()


async def test_a_wrong_password_is_said_to_be_that(guarded: str) -> None:
    wrong = KafkaConnection(
        bootstrap_servers=guarded,
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        sasl_username="admin",
        sasl_password="guess",
    )
    await not_authorised(PartitionReader(wrong).start())


async def test_no_broker_at_all_is_unavailable() -> None:
    nowhere = KafkaConnection(bootstrap_servers="127.0.0.1:1")
    with pytest.raises(UnavailableError, match=r"refused|Connect"):
        await PartitionReader(nowhere).start()
    writer = LaneWriter(nowhere, results_topic="r", audit_topic="a", partition=0)
    with pytest.raises(IndefiniteError):
        await writer.fence()
    await writer.close()
