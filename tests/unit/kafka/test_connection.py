"""One value that says how to reach the brokers, from any client's properties."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest

from stream_executor.kafka.connection import (
    KafkaConnection,
    from_properties,
    read_properties,
)
from stream_executor.model.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule"
BEARER = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule"
PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"


OAUTH = {
    "bootstrap.servers": "a",
    "security.protocol": "SASL_SSL",
    "sasl.mechanism": "OAUTHBEARER",
}
TOKEN_URL = "sasl.oauthbearer.token.endpoint.url"


def test_plaintext_needs_nothing_but_servers() -> None:
    options = KafkaConnection(bootstrap_servers="a:1, b:2,").client_options("lane-3")
    assert options == {
        "bootstrap_servers": ["a:1", "b:2"],
        "client_id": "wasm-executor-lane-3",
        "request_timeout_ms": 10_000,
        "security_protocol": "PLAINTEXT",
    }


def test_java_properties_are_understood() -> None:
    connection, ignored = from_properties(
        {
            "bootstrap.servers": "a:1",
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "SCRAM-SHA-256",
            "sasl.jaas.config": f'{SCRAM} required username="u" password="p\\"w";',
            "ssl.truststore.location": "/ca.pem",
            "ssl.truststore.type": "PEM",
            "ssl.endpoint.identification.algorithm": "",
            "request.timeout.ms": "5000",
            "linger.ms": "5",
            "acks": "all",
        }
    )
    assert connection.sasl_username == "u"
    assert connection.sasl_password == 'p"w'
    assert connection.sasl_mechanism == "SCRAM-SHA-256"
    assert connection.ssl_cafile == "/ca.pem"
    assert connection.ssl_check_hostname is False
    assert connection.request_timeout_ms == 5_000
    assert ignored == ("acks", "linger.ms")


def test_librdkafka_properties_are_understood() -> None:
    connection, ignored = from_properties(
        {
            "metadata.broker.list": "a:1",
            "security.protocol": "sasl_ssl",
            "sasl.mechanisms": "PLAIN",
            "sasl.username": "u",
            "sasl.password": "p",
            "ssl.ca.location": "/ca.pem",
            "ssl.certificate.location": "/c.pem",
            "ssl.key.location": "/k.pem",
            "ssl.key.password": "kp",
            "ssl.endpoint.identification.algorithm": "https",
            "enable.ssl.certificate.verification": "true",
            "client.id": "me",
        }
    )
    assert connection.security_protocol == "SASL_SSL"
    assert (connection.ssl_certfile, connection.ssl_keyfile) == ("/c.pem", "/k.pem")
    assert connection.client_id == "me"
    assert connection.ssl_check_hostname is True
    assert ignored == ()


def test_no_secret_is_ever_printed() -> None:
    connection, _ = from_properties(
        {
            "bootstrap.servers": "a:1",
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.jaas.config": f'{PLAIN} required username="u" password="hunter22";',
            "ssl.key.password": "hunter23",
        }
    )
    assert "hunter2" not in repr(connection)
    assert "hunter2" not in str(connection)
    with pytest.raises(ConfigError) as caught:
        from_properties(
            {"bootstrap.servers": "a", "sasl.jaas.config": 'password="hunter22"'}
        )
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError, match="line 2") as caught:
        read_properties("a=b\nhunter22\n")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "properties",
    [
        {
            "sasl.oauthbearer.client.id": "me",
            "sasl.oauthbearer.client.secret": "hunter22",
            "sasl.oauthbearer.method": "oidc",
            "https.ca.location": "/idp.pem",
        },
        {
            "sasl.oauthbearer.client.credentials.client.id": "me",
            "sasl.oauthbearer.client.credentials.client.secret": "hunter22",
            "https.ca.location": "/idp.pem",
        },
        {
            "sasl.jaas.config": f'{BEARER} required clientId="me" '
            'clientSecret="hunter22";',
            "https.ca.location": "/idp.pem",
        },
    ],
    ids=["librdkafka", "java", "jaas"],
)
def test_a_token_endpoint_is_understood_in_every_spelling(
    properties: dict[str, str],
) -> None:
    connection, ignored = from_properties(
        OAUTH | {TOKEN_URL: "https://idp.example/token"} | properties
    )
    source = connection.oauth
    assert source is not None
    assert (source.client_id, source.client_secret) == ("me", "hunter22")
    assert source.cafile == "/idp.pem"
    assert ignored == ()
    assert "hunter22" not in repr(connection)
    options = connection.client_options("x")
    assert "sasl_plain_password" not in options
    again = connection.client_options("y")["sasl_oauth_token_provider"]
    assert options["sasl_oauth_token_provider"] is again


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({}, "bootstrap.servers"),
        ({"bootstrap.servers": " "}, "host:port"),
        ({"bootstrap.servers": "a", "security.protocol": "TLS"}, "security protocol"),
        ({"bootstrap.servers": "a", "security.protocol": "SASL_SSL"}, "user name"),
        ({"bootstrap.servers": "a", "ssl.truststore.type": "JKS"}, "keytool"),
        ({"bootstrap.servers": "a", "ssl.keystore.key": "-----"}, "ssl.key.location"),
        ({"bootstrap.servers": "a", "request.timeout.ms": "1s"}, "milliseconds"),
        ({"bootstrap.servers": "a", "request.timeout.ms": "60000"}, "request timeout"),
        (
            {"bootstrap.servers": "a", "enable.ssl.certificate.verification": "false"},
            "always verified",
        ),
        (
            {
                "bootstrap.servers": "a",
                "security.protocol": "SASL_SSL",
                "sasl.mechanism": "GSSAPI",
            },
            "SASL mechanism",
        ),
        (OAUTH, "token.endpoint.url"),
        (OAUTH | {TOKEN_URL: "http://idp.example/token"}, "https://"),
        (OAUTH | {TOKEN_URL: "https://idp.example/token"}, "client secret"),
        (OAUTH | {TOKEN_URL: "file:"}, "https://"),
    ],
)
def test_what_cannot_work_is_refused_by_name(
    properties: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        from_properties(properties)


def test_a_properties_file_is_split_as_java_does() -> None:
    text = "# c\n! c\n\na=1\n b : 2 = 3\nc\\:d=x\\\n  y\nempty=\n"
    assert read_properties(text) == {"a": "1", "b": "2 = 3", "c:d": "xy", "empty": ""}


def test_tls_is_built_once_and_names_what_it_cannot_read(tmp_path: Path) -> None:
    connection = KafkaConnection(
        bootstrap_servers="a:1", security_protocol="SSL", ssl_check_hostname=False
    )
    context = connection.client_options("x")["ssl_context"]
    assert isinstance(context, ssl.SSLContext)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname is False
    assert connection.client_options("y")["ssl_context"] is context
    broken = tmp_path / "ca.pem"
    broken.write_text("no certificate")
    for path in (broken, tmp_path / "absent"):
        with pytest.raises(ConfigError, match="PEM"):
            KafkaConnection(
                bootstrap_servers="a:1", security_protocol="SSL", ssl_cafile=str(path)
            ).client_options("x")


def test_sasl_reaches_aiokafka() -> None:
    options = KafkaConnection(
        bootstrap_servers="a:1",
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        sasl_username="u",
        sasl_password="p",
    ).client_options("x")
    assert options["sasl_mechanism"] == "PLAIN"
    assert options["sasl_plain_username"] == "u"
    assert options["sasl_plain_password"] == "p"
