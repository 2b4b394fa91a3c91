"""How to reach the brokers: one frozen value, built once, for every client we open.

Understands the property names of Java's clients and of librdkafka, because operators
have such files already, and says which lines it did not use. Secrets appear in no
``repr`` and in no message.

Not here: reading files or the environment (``settings`` does).
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from stream_executor.kafka.oauth import OAuthSource
from stream_executor.model.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

PROTOCOLS: Final = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
OAUTHBEARER: Final = "OAUTHBEARER"
MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", OAUTHBEARER)
# Below the 30 s after which the broker gives up our transactions (`writer`).
MIN_REQUEST_TIMEOUT_MS: Final = 1_000
MAX_REQUEST_TIMEOUT_MS: Final = 25_000


@dataclass(frozen=True, kw_only=True, slots=True)
class KafkaConnection:
    """Where the brokers are and who we are to them.

    Attributes:
        bootstrap_servers: ``host:port`` separated by commas.
        security_protocol: one of ``PROTOCOLS``.
        sasl_mechanism: one of ``MECHANISMS``, for the SASL protocols.
        sasl_username: user of that mechanism.
        sasl_password: its password; never printed.
        oauth: where OAUTHBEARER's tokens come from.
        ssl_cafile: PEM file with the authorities to trust; None is the system's.
        ssl_cadata: the same as PEM text.
        ssl_certfile: PEM file with our certificate chain (and, if ``ssl_keyfile`` is
            None, our key).
        ssl_keyfile: PEM file with our key.
        ssl_key_password: passphrase of the key; never printed.
        ssl_check_hostname: whether the broker's certificate must name its host.
        client_id: what brokers show in their logs and quotas.
        request_timeout_ms: how long one request may take; must stay below the
            transaction timeout of 30 s.

    Raises:
        ConfigError: a field is out of range or contradicts another.
    """

    bootstrap_servers: str
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str = "SCRAM-SHA-512"
    sasl_username: str | None = None
    sasl_password: str | None = field(default=None, repr=False)
    oauth: OAuthSource | None = None
    ssl_cafile: str | None = None
    ssl_cadata: str | None = field(default=None, repr=False)
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_key_password: str | None = field(default=None, repr=False)
    ssl_check_hostname: bool = True
    client_id: str = "wasm-executor"
    request_timeout_ms: int = 10_000

    def __post_init__(self) -> None:
        if not self.bootstrap_servers.strip():
            raise ConfigError("bootstrap servers: expected host:port, got nothing")
        if self.security_protocol not in PROTOCOLS:
            raise ConfigError(
                f"security protocol: expected one of {', '.join(PROTOCOLS)}, "
                f"got {self.security_protocol[:64]!r}"
            )
        low, high = MIN_REQUEST_TIMEOUT_MS, MAX_REQUEST_TIMEOUT_MS
        if not low <= self.request_timeout_ms <= high:
            raise ConfigError(
                f"request timeout: expected {low} to {high} ms, "
                f"got {self.request_timeout_ms}"
            )
        if self.security_protocol.startswith("SASL"):
            if self.sasl_mechanism not in MECHANISMS:
                raise ConfigError(
                    f"SASL mechanism: expected one of {', '.join(MECHANISMS)}, "
                    f"got {self.sasl_mechanism[:64]!r}"
                )
            if self.sasl_mechanism == OAUTHBEARER:
                if self.oauth is None:
                    raise ConfigError(
                        "OAUTHBEARER needs sasl.oauthbearer.token.endpoint.url"
                    )
            elif self.sasl_username is None or self.sasl_password is None:
                raise ConfigError(
                    f"{self.security_protocol} needs a SASL user name and password"
                )

    @property
    def request_timeout_s(self) -> float:
        """How long one request may take, in seconds."""
        return self.request_timeout_ms / 1000

    def client_options(self, role: str) -> dict[str, Any]:
        """Build the keyword arguments that every aiokafka client shares.

        Args:
            role: what this client is for (``lane-7``, ``fetch``); becomes part of the
                client id, so that a broker's log tells our connections apart.

        Raises:
            ConfigError: a certificate or key cannot be read.
        """
        options: dict[str, Any] = {
            "bootstrap_servers": [
                server.strip()
                for server in self.bootstrap_servers.split(",")
                if server.strip()
            ],
            "client_id": f"{self.client_id}-{role}",
            "request_timeout_ms": self.request_timeout_ms,
            "security_protocol": self.security_protocol,
        }
        if self.security_protocol.endswith("SSL"):
            options["ssl_context"] = _tls(self)
        if self.security_protocol.startswith("SASL"):
            options["sasl_mechanism"] = self.sasl_mechanism
            if self.oauth is not None and self.sasl_mechanism == OAUTHBEARER:
                # Here, so that commands without Kafka do not load aiokafka.
                from stream_executor.kafka.tokens import (  # noqa: PLC0415
                    token_provider,
                )

                options["sasl_oauth_token_provider"] = token_provider(self.oauth)
            else:
                options["sasl_plain_username"] = self.sasl_username
                options["sasl_plain_password"] = self.sasl_password
        return options


@lru_cache(maxsize=8)
def _tls(connection: KafkaConnection) -> ssl.SSLContext:
    """Build the TLS context of a connection, once per process and connection."""
    try:
        context = ssl.create_default_context(
            cafile=connection.ssl_cafile, cadata=connection.ssl_cadata
        )
        context.check_hostname = connection.ssl_check_hostname
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise _unreadable(connection, error) from error
    _load_certificate(connection, context)
    return context


def renew_certificate(connection: KafkaConnection) -> None:
    """Read our certificate and key again; connections made from now on show it.

    Raises:
        ConfigError: they cannot be read or do not belong together.
    """
    if connection.security_protocol.endswith("SSL"):
        _load_certificate(connection, _tls(connection))


def _load_certificate(connection: KafkaConnection, context: ssl.SSLContext) -> None:
    if connection.ssl_certfile is None:
        return
    # Without a passphrase an encrypted key would ask for one on the terminal.
    passphrase = connection.ssl_key_password or ""
    try:
        context.load_cert_chain(
            connection.ssl_certfile, connection.ssl_keyfile, passphrase
        )
    except (OSError, ValueError) as error:
        raise _unreadable(connection, error) from error


def _unreadable(connection: KafkaConnection, error: Exception) -> ConfigError:
    return ConfigError(
        f"TLS to {connection.bootstrap_servers}: {error}; expected PEM files"
    )


# Property name -> our field. Java's names first, then librdkafka's where they differ.
_NAMES: Final = {
    "bootstrap.servers": "bootstrap_servers",
    "metadata.broker.list": "bootstrap_servers",
    "security.protocol": "security_protocol",
    "sasl.mechanism": "sasl_mechanism",
    "sasl.mechanisms": "sasl_mechanism",
    "sasl.username": "sasl_username",
    "sasl.password": "sasl_password",
    "ssl.truststore.location": "ssl_cafile",
    "ssl.ca.location": "ssl_cafile",
    "ssl.truststore.certificates": "ssl_cadata",
    "ssl.ca.pem": "ssl_cadata",
    "ssl.keystore.location": "ssl_certfile",
    "ssl.certificate.location": "ssl_certfile",
    "ssl.key.location": "ssl_keyfile",
    "ssl.key.password": "ssl_key_password",
    "client.id": "client_id",
}
# Property name -> field of OAuthSource. Java's names, then librdkafka's.
_OAUTH: Final = {
    "sasl.oauthbearer.token.endpoint.url": "url",
    "sasl.oauthbearer.client.credentials.client.id": "client_id",
    "sasl.oauthbearer.client.credentials.client.secret": "client_secret",
    "sasl.oauthbearer.client.id": "client_id",
    "sasl.oauthbearer.client.secret": "client_secret",
    "sasl.oauthbearer.scope": "scope",
    "https.ca.location": "cafile",
}
# Say how another client gets the token; ours has the one way that _OAUTH describes.
_OAUTH_METHODS: Final = ("sasl.oauthbearer.method", "sasl.login.callback.handler.class")
_TIMEOUTS: Final = ("request.timeout.ms", "socket.timeout.ms")
_HOSTNAME: Final = "ssl.endpoint.identification.algorithm"
_VERIFY: Final = "enable.ssl.certificate.verification"
_JAAS: Final = "sasl.jaas.config"
_STORE_TYPES: Final = ("ssl.truststore.type", "ssl.keystore.type")
_UNUSABLE: Final = {
    "ssl.keystore.key": "give ssl.key.location, a PEM file",
    "ssl.keystore.certificate.chain": "give ssl.certificate.location, a PEM file",
    "ssl.key.pem": "give ssl.key.location, a PEM file",
    "ssl.certificate.pem": "give ssl.certificate.location, a PEM file",
}
_JAAS_OPTION: Final = re.compile(r'(\w+)\s*=\s*"((?:[^"\\]|\\.)*)"')
_JAAS_MODULE: Final = re.compile(r"\.(Plain|Scram|OAuthBearer)LoginModule\s")
_JAAS_OAUTH: Final = {
    "clientId": "client_id",
    "clientSecret": "client_secret",
    "scope": "scope",
}


def from_properties(
    properties: Mapping[str, str],
) -> tuple[KafkaConnection, tuple[str, ...]]:
    """Read a connection from Kafka's own property names, Java's or librdkafka's.

    Args:
        properties: name to value, as ``client.properties`` or librdkafka have them.

    Returns:
        The connection, and the names that were not used, sorted, so that the caller
        can show them: a misspelt ``sasl.usrname`` must not pass in silence.

    Raises:
        ConfigError: no bootstrap servers, a key store that is not PEM, certificate
            checks switched off, or a value that ``KafkaConnection`` refuses.
    """
    fields: dict[str, Any] = {}
    oauth = {_OAUTH[n]: v.strip() for n, v in properties.items() if n in _OAUTH}
    ignored: list[str] = []
    for name, value in properties.items():
        _refuse_unusable(name, value.strip())
        if name in _NAMES:
            fields[_NAMES[name]] = value
        elif name in _TIMEOUTS:
            fields["request_timeout_ms"] = _integer(name, value)
        elif name == _HOSTNAME:
            fields["ssl_check_hostname"] = value.strip().lower() not in {"", "none"}
        elif name == _JAAS:
            _jaas(value, fields, oauth)
        elif name not in {*_STORE_TYPES, *_OAUTH, *_OAUTH_METHODS, _VERIFY}:
            ignored.append(name)
    if "bootstrap_servers" not in fields:
        raise ConfigError("expected bootstrap.servers among the properties")
    if "security_protocol" in fields:
        fields["security_protocol"] = fields["security_protocol"].strip().upper()
    if "url" in oauth:
        fields["oauth"] = OAuthSource(**oauth)
    return KafkaConnection(**fields), tuple(sorted(ignored))


def read_properties(text: str) -> dict[str, str]:
    r"""Split a ``.properties`` file into names and values.

    Takes ``name=value`` and ``name: value``, comments with ``#`` and ``!``, and lines
    continued by a trailing backslash. Of Java's escapes only ``\:``, ``\=``, ``\#``,
    ``\!`` and ``\\`` in names are undone; values are taken as they stand.

    Raises:
        ConfigError: a line has no separator; the message names the line number only,
            since the line may hold a secret.
    """
    properties: dict[str, str] = {}
    pending = ""
    for number, raw in enumerate(text.splitlines(), start=1):
        line = pending + raw.strip()
        pending = ""
        if not line or line[0] in "#!":
            continue
        if line.endswith("\\") and not line.endswith("\\\\"):
            pending = line[:-1]
            continue
        found = re.match(r"((?:[^=:\\]|\\.)+?)\s*[=:]\s*(.*)", line, re.DOTALL)
        if found is None:
            raise ConfigError(f"properties, line {number}: expected name=value")
        properties[re.sub(r"\\(.)", r"\1", found[1]).strip()] = found[2]
    return properties


def _refuse_unusable(name: str, value: str) -> None:
    """Raise where silence would be worse: stores and checks we do not support."""
    if name in _UNUSABLE:
        raise ConfigError(f"{name} is not supported: {_UNUSABLE[name]}")
    if name in _STORE_TYPES and value.upper() != "PEM":
        raise ConfigError(
            f"{name}={value[:16]}: only PEM is supported; convert the store with "
            "`keytool -exportcert -rfc` or openssl"
        )
    if name == _VERIFY and value.lower() != "true":
        raise ConfigError(f"{name}: certificates are always verified")


def _jaas(value: str, fields: dict[str, Any], oauth: dict[str, str]) -> None:
    """Take user name and password from a JAAS login line; show nothing of it."""
    module = _JAAS_MODULE.search(value)
    options = {
        name: re.sub(r"\\(.)", r"\1", text)
        for name, text in _JAAS_OPTION.findall(value)
    }
    if module is not None and module[1] == "OAuthBearer":
        oauth |= {_JAAS_OAUTH[n]: options[n] for n in _JAAS_OAUTH if n in options}
        return
    if module is None or not {"username", "password"} <= set(options):
        raise ConfigError(
            f"{_JAAS}: expected a PlainLoginModule or ScramLoginModule line with "
            "username and password in double quotes, or an OAuthBearerLoginModule"
        )
    fields |= {f"sasl_{name}": options[name] for name in ("username", "password")}


def _integer(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise ConfigError(
            f"{name}: expected milliseconds, got {value[:64]!r}"
        ) from None
