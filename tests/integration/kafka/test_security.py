"""Every way to connect that brokers offer, on real brokers: and that it is really used.

A test reads and commits a transaction as its principal; who may not, or shows the wrong
thing, is refused for what it is.
"""

from __future__ import annotations

import gc
import os
import time
import warnings
from typing import TYPE_CHECKING

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its own exports
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from stream_executor.kafka.connection import (
    KafkaConnection,
    from_properties,
    renew_certificate,
)
from stream_executor.kafka.reader import PartitionReader
from stream_executor.kafka.writer import LaneWriter
from stream_executor.model.errors import (
    BrokerRefusedError,
    ConfigError,
    UnavailableError,
)
from stream_executor.model.record import OutRecord
from tests.pki import Authority
from tests.secured_kafka import WHO, SecuredKafka, broker, password

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# aiokafka does not wait for the TLS farewell of a connection that was refused; the
# test's loop has ended before that.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]
RESULTS, AUDIT = "s.results", "s.audit"
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")


@pytest.fixture(scope="module", autouse=True)
def nothing_left_for_other_tests() -> Iterator[None]:
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def prepare(login: dict[str, str], principal: str) -> None:
    """Create two topics and let one principal write lanes there."""
    admin = AdminClient(dict(login))
    topics = [NewTopic(name, 1, 1) for name in (RESULTS, AUDIT)]
    for made in admin.create_topics(topics).values():
        made.result(10)
    rights = [
        (ResourceType.TOPIC, "s.", (AclOperation.READ, AclOperation.WRITE)),
        (ResourceType.TRANSACTIONAL_ID, "wasm-executor.s.", (AclOperation.WRITE,)),
    ]
    bindings = [
        AclBinding(
            resource,
            name,
            ResourcePatternType.PREFIXED,
            f"User:{principal}",
            "*",
            operation,
            AclPermissionType.ALLOW,
        )
        for resource, name, operations in rights
        for operation in operations
    ]
    for granted in admin.create_acls(bindings).values():
        granted.result(10)
    everything = AclBindingFilter(
        ResourceType.ANY, None, ResourcePatternType.ANY, None, None,  # type: ignore[arg-type]  # None is any
        AclOperation.ANY, AclPermissionType.ANY,
    )  # fmt: skip
    # The controller has them; the broker learns of them a moment later.
    while len(admin.describe_acls(everything).result(10)) < len(bindings):
        pass


@pytest.fixture(scope="module")
def secured(secured_kafka: SecuredKafka) -> SecuredKafka:
    admin = {
        "bootstrap.servers": secured_kafka.bootstrap,
        "security.protocol": "SASL_SSL",
        "sasl.mechanisms": "SCRAM-SHA-512",
        "sasl.username": "admin",
        "sasl.password": password("admin"),
        "ssl.ca.location": str(secured_kafka.authority.certificate),
    }
    prepare(admin, WHO.executor)
    return secured_kafka


def connect(
    secured: SecuredKafka, mechanism: str, user: str = WHO.executor, **other: str
) -> KafkaConnection:
    properties = secured.properties(user, mechanism)
    properties |= {name.replace("_", "."): value for name, value in other.items()}
    connection, ignored = from_properties(properties)
    assert ignored == ()
    return connection


async def work(connection: KafkaConnection) -> None:
    """Commit a transaction and read it back."""
    async with PartitionReader(connection) as reader:
        before = await reader.end_offset(AUDIT, 0)
        async with LaneWriter(
            connection, results_topic=RESULTS, audit_topic=AUDIT, partition=0
        ) as writer:
            await writer.commit([OutRecord(b"result")], [b"seal"])
        record = await reader.read_one(AUDIT, 0, before)
    assert record is not None
    assert record.value == b"seal"


@pytest.mark.parametrize("mechanism", MECHANISMS)
async def test_a_lane_works_with_every_mechanism(
    secured: SecuredKafka, mechanism: str
) -> None:
    await work(connect(secured, mechanism))


@pytest.mark.parametrize("mechanism", MECHANISMS)
async def test_a_wrong_secret_is_said_to_be_that(
    secured: SecuredKafka, mechanism: str
) -> None:
    right = secured.properties(WHO.executor, mechanism)
    wrong = right | {
        "sasl.jaas.config": right["sasl.jaas.config"].replace("-secret", "-guess")
    }
    connection, _ = from_properties(wrong)
    with pytest.raises(BrokerRefusedError) as caught:
        await PartitionReader(connection).start()
    assert caught.value.reason == "not_authorised"
    assert "guess" not in str(caught.value)


async def test_somebody_else_may_not(secured: SecuredKafka) -> None:
    """The name that the token carries is the one that the rights are for."""
    with pytest.raises(BrokerRefusedError) as caught:
        await work(connect(secured, "OAUTHBEARER", WHO.auditor))
    assert caught.value.reason in {"not_authorised", "unknown_topic"}


async def test_a_token_is_asked_for_once_and_used_for_all_connections(
    secured: SecuredKafka,
) -> None:
    connection = connect(secured, "OAUTHBEARER", client_id="fresh")
    await work(connection)
    asked = secured.identity.asked
    await work(connection)
    assert secured.identity.asked == asked


async def test_a_token_may_come_from_a_file_that_is_renewed(
    secured: SecuredKafka, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text(secured.identity.token(WHO.executor, lasting_s=-60))
    properties = secured.properties(WHO.executor, "OAUTHBEARER")
    properties["sasl.oauthbearer.token.endpoint.url"] = token.as_uri()
    connection, _ = from_properties(properties)
    with pytest.raises(BrokerRefusedError):
        await PartitionReader(connection).start()
    token.write_text(secured.identity.token(WHO.executor) + "\n")
    await work(connection)
    token.unlink()
    with pytest.raises(UnavailableError, match="cannot be read"):
        await PartitionReader(connection).start()


async def test_a_token_endpoint_that_is_away_is_unavailable_not_a_refusal(
    secured: SecuredKafka,
) -> None:
    connection = connect(
        secured, "OAUTHBEARER",
        sasl_oauthbearer_token_endpoint_url="http://127.0.0.1:1/token",
    )  # fmt: skip
    with pytest.raises(UnavailableError, match="does not answer"):
        await PartitionReader(connection).start()


async def test_a_broker_that_another_authority_signed_is_not_spoken_to(
    secured: SecuredKafka, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "Another CA").certificate
    connection = connect(secured, "PLAIN", ssl_truststore_location=str(other))
    with pytest.raises(UnavailableError, match=r"(?i)certificate verify failed"):
        await PartitionReader(connection).start()


async def test_plaintext_to_a_tls_port_does_not_hang(secured: SecuredKafka) -> None:
    plain = KafkaConnection(
        bootstrap_servers=secured.bootstrap, request_timeout_ms=3_000
    )
    began = time.monotonic()
    with pytest.raises(UnavailableError):
        await PartitionReader(plain).start()
    assert time.monotonic() - began < 30


@pytest.fixture(scope="module")
def mutual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Authority]]:
    """Give a broker that knows clients by their certificates alone."""
    authority = Authority(tmp_path_factory.mktemp("mutual"))
    properties = {
        "ssl.client.auth": "required",
        "ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/,DEFAULT",
    }
    with broker("SSL", authority, properties) as bootstrap:
        admin = {
            "bootstrap.servers": bootstrap,
            "security.protocol": "SSL",
            "ssl.ca.location": str(authority.certificate),
            "ssl.certificate.location": str(authority.issue("admin")),
            "ssl.key.location": str(authority.issue("admin")),
        }
        prepare(admin, WHO.executor)
        yield bootstrap, authority


def with_certificate(
    bootstrap: str, authority: Authority, file: Path
) -> KafkaConnection:
    return KafkaConnection(
        bootstrap_servers=bootstrap,
        security_protocol="SSL",
        ssl_cafile=str(authority.certificate),
        ssl_certfile=str(file),
    )


async def test_a_lane_works_by_its_certificate(mutual: tuple[str, Authority]) -> None:
    await work(with_certificate(*mutual, mutual[1].issue(WHO.executor)))


async def test_no_certificate_and_one_of_a_stranger_are_refused(
    mutual: tuple[str, Authority], tmp_path: Path
) -> None:
    bootstrap, authority = mutual
    nobody = KafkaConnection(
        bootstrap_servers=bootstrap,
        security_protocol="SSL",
        ssl_cafile=str(authority.certificate),
        request_timeout_ms=3_000,
    )
    with pytest.raises(UnavailableError):
        await PartitionReader(nobody).start()
    stranger = Authority(tmp_path, "Another CA").issue(WHO.executor)
    with pytest.raises(UnavailableError):
        await PartitionReader(with_certificate(*mutual, stranger)).start()
    with pytest.raises(BrokerRefusedError):
        await work(with_certificate(*mutual, authority.issue(WHO.auditor)))


async def test_a_renewed_certificate_is_shown_without_a_restart(
    mutual: tuple[str, Authority], tmp_path: Path
) -> None:
    """A certificate of a stranger first, then the right one in the same file."""
    bootstrap, authority = mutual
    file = tmp_path / "client.pem"
    stranger = Authority(tmp_path / "other", "Another CA").issue(WHO.executor)
    file.write_bytes(stranger.read_bytes())
    connection = with_certificate(bootstrap, authority, file)
    with pytest.raises(UnavailableError):
        await PartitionReader(connection).start()
    file.write_bytes(authority.issue(WHO.executor).read_bytes())
    renew_certificate(connection)
    await work(connection)
    file.write_text("no certificate" + os.linesep)
    with pytest.raises(ConfigError, match="expected PEM"):
        renew_certificate(connection)
