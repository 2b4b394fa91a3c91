"""Credentials: one JSON file that says who you are and where everything is.

``wasm-executor dev`` and ``init`` write such a file; operators hand one to each
requester. It holds a secret or names a key file, so it is written with mode 0600 and
its ``repr`` says nothing. Relative paths in it are relative to the file.

Not here: the service's own configuration (``settings``).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from stream_executor.client.errors import CredentialsError
from stream_executor.client.ports import Signer
from stream_executor.model.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stream_executor.client.ports import RequestLog, ResultLog

_FIRST = b'{\n  "schema": "wasm-executor/credentials/v1",'


class CredentialTopics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The topics' names."""

    requests: str = "wasm.requests"
    results: str = "wasm.results"
    audit: str = "wasm.audit"
    modules: str = "wasm.modules"
    control: str = "wasm.control"
    checkpoints: str = "wasm.checkpoints"


class Credentials(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    kw_only=True,
):
    """Who asks, with which key, and where.

    Attributes:
        schema: the file's own version.
        bootstrap_servers: ``host:port`` of brokers, separated by commas.
        audience: the deployment's ``aud``.
        issuer, subject: ``iss`` and ``sub`` of every token.
        secret, secret_file: the HS256 secret, here or in a file.
        private_key_file, kid, algorithm: instead of a secret: a private key (PEM or
            JWK), its name in the JWKS, and its algorithm if the key leaves a choice.
        topics: the topics' names.
        kafka: client properties under Kafka's names (security).
        administrator_key_file: Ed25519 key (PEM) that signs module publications.
        operator_public_key: lower hex; what ``audit verify`` trusts.
        http: address of the service's HTTP port, for ``status``.
    """

    bootstrap_servers: str
    audience: str
    issuer: str
    subject: str
    schema: Literal["wasm-executor/credentials/v1"] = "wasm-executor/credentials/v1"
    secret: str | None = None
    secret_file: str | None = None
    private_key_file: str | None = None
    kid: str | None = None
    algorithm: str | None = None
    topics: CredentialTopics = CredentialTopics()
    kafka: dict[str, str] = {}
    administrator_key_file: str | None = None
    operator_public_key: str | None = None
    http: str | None = None

    def __repr__(self) -> str:
        return f"Credentials({self.issuer!r}, {self.subject!r}, …)"

    def signer(self) -> Signer:
        """Give what signs requests with this key.

        Raises:
            ConfigError: no key, two keys, or one that cannot be read or used.
        """
        from stream_executor.auth.sign import (  # noqa: PLC0415 - cryptography is heavy
            RequestSigner,
        )

        ways = [self.secret, self.secret_file, self.private_key_file]
        if len(ways) - ways.count(None) != 1:
            raise ConfigError(
                "credentials: expected exactly one of secret, secret_file and "
                "private_key_file"
            )
        if self.private_key_file is not None:
            if self.kid is None:
                raise ConfigError("credentials: private_key_file needs kid")
            return RequestSigner.from_private_key(
                _read(Path(self.private_key_file)),
                kid=self.kid,
                issuer=self.issuer,
                subject=self.subject,
                audience=self.audience,
                algorithm=self.algorithm,
            )
        secret = self.secret
        if self.secret_file is not None:
            secret = _read(Path(self.secret_file)).decode().strip()
        return RequestSigner.from_secret(
            secret or "",
            issuer=self.issuer,
            subject=self.subject,
            audience=self.audience,
            kid=self.kid,
        )


def read_credentials(path: Path | str) -> Credentials:
    """Read a credentials file.

    Raises:
        ConfigError: it is missing, unreadable or not such a file; the message quotes
            no value of it.
    """
    path = Path(path)
    try:
        credentials = msgspec.json.decode(path.read_bytes(), type=Credentials)
    except FileNotFoundError as error:
        raise CredentialsError(
            f"there is no credentials file {path}\n"
            "a `wasm-executor dev` without --data takes its file along when it stops"
        ) from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise CredentialsError(f"{path} is no credentials file\n{error}") from error
    files = ("secret_file", "private_key_file", "administrator_key_file")
    return msgspec.structs.replace(
        credentials,
        **{
            name: str(path.parent / given)
            for name in files
            if (given := getattr(credentials, name)) is not None
        },
    )


def write_credentials(path: Path, credentials: Credentials) -> None:
    """Write a credentials file that only its owner can read, all of it or nothing."""
    data = msgspec.json.format(msgspec.json.encode(credentials), indent=2) + b"\n"
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(
        os.open(draft, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb"
    ) as file:
        # The file says its version first, which omit_defaults would leave out.
        file.write(_FIRST + data[1:])
    draft.replace(path)


class Place(msgspec.Struct, frozen=True):
    """Everything a client needs: where, and as whom."""

    properties: dict[str, str]
    requests_topic: str
    results_topic: str
    signer: Signer

    async def connect(self) -> tuple[RequestLog, ResultLog]:
        """Open the requests topic for appending; the results are opened by ``start``.

        Raises:
            UnavailableError, BrokerRefusedError, ConfigError: see the classes.
        """
        from stream_executor.client.logs import (  # noqa: PLC0415 - aiokafka is heavy
            connect,
        )

        return await connect(self.properties, self.requests_topic, self.results_topic)


def resolve(
    credentials: Credentials | Path | str | None,
    *,
    bootstrap_servers: str | None = None,
    requests_topic: str | None = None,
    results_topic: str | None = None,
    kafka_properties: Mapping[str, str] | None = None,
    signer: Signer | None = None,
) -> Place:
    """Lay what is given over what the credentials say.

    Raises:
        ConfigError: no brokers or no signer among both.
    """
    if isinstance(credentials, Path | str):
        credentials = read_credentials(credentials)
    topics = CredentialTopics() if credentials is None else credentials.topics
    properties: dict[str, str] = {}
    if credentials is not None:
        properties["bootstrap.servers"] = credentials.bootstrap_servers
        properties |= credentials.kafka
    properties |= kafka_properties or {}
    if bootstrap_servers is not None:
        properties["bootstrap.servers"] = bootstrap_servers
    if "bootstrap.servers" not in properties:
        raise ConfigError(
            "no brokers: give credentials, the path of the file that "
            "EXECUTOR_CREDENTIALS names, or bootstrap_servers"
        )
    if signer is None:
        if credentials is None:
            raise ConfigError("no key to sign with: give signer or credentials")
        signer = credentials.signer()
    return Place(
        properties,
        requests_topic or topics.requests,
        results_topic or topics.results,
        signer,
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
