"""How a command reaches Kafka and the deployment: options that many commands share.

``@with_reach`` gives a command's ``reach`` parameter its options. Nothing is read
before a command asks: with credentials or ``--bootstrap-server`` a client's machine
needs no configuration of the service at all.

Order, the later wins: configuration (file, environment), credentials,
``--command-config``, ``-X``, ``--bootstrap-server``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stream_executor.cli.failures import CommandError
from stream_executor.cli.options import shared
from stream_executor.cli.output import hint

if TYPE_CHECKING:
    from stream_executor.client.credentials import Credentials
    from stream_executor.kafka.connection import KafkaConnection
    from stream_executor.kafka.topics import TopicNames
    from stream_executor.settings import Settings

_PANEL = "How to reach Kafka"

BootstrapServer = Annotated[
    str | None,
    typer.Option(
        "--bootstrap-server",
        metavar="HOST:PORT",
        help="Brokers, separated by commas.",
        rich_help_panel=_PANEL,
    ),
]
CommandConfig = Annotated[
    Path | None,
    typer.Option(
        "--command-config",
        metavar="FILE",
        help="Kafka client properties (Java's or librdkafka's names).",
        rich_help_panel=_PANEL,
    ),
]
Properties = Annotated[
    list[str] | None,
    typer.Option(
        "-X",
        "--command-property",
        metavar="NAME=VALUE",
        help="One Kafka client property; may be repeated.",
        rich_help_panel=_PANEL,
    ),
]
EnvFile = Annotated[
    Path | None,
    typer.Option(
        "--env-file",
        metavar="FILE",
        help="The service's configuration file.",
        rich_help_panel=_PANEL,
    ),
]
CredentialsFile = Annotated[
    Path | None,
    typer.Option(
        "--credentials",
        metavar="FILE",
        envvar="EXECUTOR_CREDENTIALS",
        help="Credentials, as `dev` and `init` write them.",
        rich_help_panel=_PANEL,
    ),
]
_OPTIONS: dict[str, Any] = {
    "credentials_file": CredentialsFile,
    "bootstrap_server": BootstrapServer,
    "command_config": CommandConfig,
    "command_property": Properties,
    "env_file": EnvFile,
}


@dataclass
class Reach:
    """Where things are and who asks, as the command line says."""

    credentials_file: Path | None = None
    bootstrap_server: str | None = None
    command_config: Path | None = None
    command_property: list[str] | None = None
    env_file: Path | None = None

    @cached_property
    def credentials(self) -> Credentials | None:
        """The credentials, None if no file was named.

        Raises:
            ConfigError: it is none.
        """
        from stream_executor.client.credentials import read_credentials

        if self.credentials_file is None:
            return None
        return read_credentials(self.credentials_file)

    @cached_property
    def settings(self) -> Settings:
        """The service's configuration.

        Raises:
            SettingsError: with everything that is wrong with it.
        """
        from stream_executor.settings import load

        return load(self.env_file)

    @cached_property
    def properties(self) -> dict[str, str]:
        """Kafka client properties, secret ones included: never print this."""
        from stream_executor.kafka.connection import read_properties

        properties: dict[str, str] = {}
        if self.credentials is not None:
            properties["bootstrap.servers"] = self.credentials.bootstrap_servers
            properties |= self.credentials.kafka
        elif self.bootstrap_server is None or self.env_file is not None:
            properties |= self.settings.kafka_properties
            if not self.settings.brokers_named and self.bootstrap_server is None:
                hint(
                    "no --credentials (EXECUTOR_CREDENTIALS), no --bootstrap-server: "
                    f"asking {properties['bootstrap.servers']}"
                )
        if self.command_config is not None:
            properties |= read_properties(read_text(self.command_config))
        for pair in self.command_property or ():
            name, separator, value = pair.partition("=")
            if not separator:
                raise CommandError("USAGE", f"-X: expected NAME=VALUE, got {pair!r}")
            properties[name.strip()] = value
        if self.bootstrap_server is not None:
            properties["bootstrap.servers"] = self.bootstrap_server
        return properties

    @cached_property
    def connection(self) -> KafkaConnection:
        """How to connect.

        Raises:
            ConfigError: the properties make no connection.
        """
        connection, _ = self._connecting
        return connection

    @property
    def used_properties(self) -> dict[str, str]:
        """What of ``properties`` the connection rests on; errors as there.

        An environment may hold more of that look, such as KAFKA_HEAP_OPTS.
        """
        _, unused = self._connecting
        return {n: v for n, v in self.properties.items() if n not in unused}

    @cached_property
    def _connecting(self) -> tuple[KafkaConnection, tuple[str, ...]]:
        from stream_executor.kafka.connection import from_properties

        connection, unused = from_properties(self.properties)
        if unused:  # a misspelt name must not pass in silence
            hint(f"Kafka properties that are not used: {', '.join(unused)}")
        return connection, unused

    @cached_property
    def topics(self) -> TopicNames:
        """The topics' names: the credentials', else the configuration's."""
        from stream_executor.kafka.topics import TopicNames

        source: Any = self.credentials
        if source is None and self.bootstrap_server is not None and not self.env_file:
            return TopicNames()
        source = self.settings.topics if source is None else source.topics
        return TopicNames(
            **{name: getattr(source, name) for name in TopicNames.__struct_fields__}
        )

    def operator_public_key(self, given: str | None = None) -> bytes:
        """Give the deployment's trust root: as given, the credentials', the settings'.

        Raises:
            CommandError: nobody says it, or it is no key.
        """
        from stream_executor.audit.key_files import public_key
        from stream_executor.model.errors import ConfigError

        text = given
        if text is None and self.credentials is not None:
            text = self.credentials.operator_public_key
        if text is None and self.credentials is None:
            text = self.settings.operator_public_key
        if text is None:
            raise CommandError(
                "CONFIG",
                "the operator's public key is not known",
                cause="it is the root of trust, so it never comes from the topics",
                remedy="--credentials FILE or EXECUTOR_CREDENTIALS, as "
                "`wasm-executor dev` prints it; else --operator-key KEY",
            )
        try:
            return public_key(text)
        except ConfigError as error:
            raise CommandError("CONFIG", f"operator's public key: {error}") from error


with_reach = shared("reach", Reach, _OPTIONS)


def read_text(path: Path) -> str:
    """Read a text file that the command line names.

    Raises:
        CommandError: it cannot be read.
    """
    return read_file(path).decode(errors="replace")


def read_file(path: Path) -> bytes:
    """Read a file that the command line names; ``-`` is standard input.

    Raises:
        CommandError: it cannot be read.
    """
    import sys

    if str(path) == "-":
        return sys.stdin.buffer.read()
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandError(
            "NOT_FOUND", f"{path}: {(error.strerror or 'cannot be read').lower()}"
        ) from error
