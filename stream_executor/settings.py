"""All configuration, read once: the sole reader of the environment.

``load`` gives frozen ``Settings`` or every problem at once. Workers get plain values
(``Settings.worker_values``) and import neither this nor pydantic. Each setting stands
in ``settings_fields``, rules between them in ``settings_rules``; how raw values are
found is ``environment``'s affair. Nothing here talks to Kafka or prints a secret.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic import PrivateAttr, SecretStr, ValidationError

from stream_executor.environment import (
    Gathered,
    RawValue,
    configuration_file,
    gather,
    is_secret_property,
)
from stream_executor.kafka.connection import from_properties
from stream_executor.key_text import read_bytes, read_public_key
from stream_executor.model.errors import ConfigError
from stream_executor.services.worker_settings import (
    Ceilings,
    Membership,
    Pace,
    Secrets,
    TokenRules,
    Topics,
    WorkerSettings,
)
from stream_executor.settings_fields import (
    FIELDS,
    SettingsFields,
    accepts_file,
    accepts_nothing,
    is_secret,
    variable,
)
from stream_executor.settings_rules import broken_rules, oddities

if TYPE_CHECKING:
    from collections.abc import Mapping

HIDDEN = "(hidden)"
NOT_SET = "(not set)"
DEFAULT = "default"
NO_KEY_FOR_TOKENS = (
    "JWT_SECRET is not set, and no JWKS: no token could be verified; make a secret "
    "with `openssl rand -base64 48`"
)
_NEEDED_TO_RUN = ("operator_public_key", "fleet_key", "deployment_secret")
# Kafka's usual address on a developer's machine.
_DEFAULT_PROPERTIES = {"bootstrap.servers": "localhost:9092"}


class SettingsError(ConfigError):
    """The configuration is refused.

    Attributes:
        problems: everything that is wrong with it, one line each, no secrets.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Row(msgspec.Struct, frozen=True):
    """One line of ``--test-config``.

    Attributes:
        value: as text; a secret is ``HIDDEN``, nothing is ``NOT_SET``.
        origin: ``default``, ``environment``, ``FILE:LINE``, or the secret's file.
    """

    name: str
    value: str
    origin: str


class Settings(SettingsFields):
    """The whole configuration; made by ``load``."""

    _raw: Gathered = PrivateAttr()

    @property
    def kafka_properties(self) -> dict[str, str]:
        """Kafka client properties, secret ones included: never print this."""
        found = {name: raw.text for name, raw in self._raw.properties.items()}
        return _DEFAULT_PROPERTIES | found

    @property
    def brokers_named(self) -> bool:
        """Whether the configuration says where the brokers are."""
        return "bootstrap.servers" in self._raw.properties

    @property
    def kafka_certificate(self) -> Path | None:
        """The file with our certificate towards Kafka, if there is one."""
        connection, _ = from_properties(self.kafka_properties)
        name = connection.ssl_certfile
        return None if name is None else Path(name)

    @property
    def notes(self) -> list[str]:
        """What an operator may want to know although nothing is wrong."""
        return [*self._raw.notes, *oddities(self)]

    @property
    def topics(self) -> Topics:
        """The names of the six topics."""
        return Topics(
            self.requests_topic, self.results_topic, self.audit_topic,
            self.modules_topic, self.control_topic, self.checkpoints_topic,
        )  # fmt: skip

    @property
    def deployment_secret_bytes(self) -> bytes:
        """The deployment secret; empty where this host has none."""
        return read_bytes(reveal(self.deployment_secret))

    @property
    def backups_expected(self) -> bool:
        """Whether BACKUP_DIR was named, or is there."""
        return "backup_dir" in self.model_fields_set or self.backup_dir.is_dir()

    @property
    def children_per_worker(self) -> int:
        """CHILDREN, or this host's CPUs divided among the workers."""
        return self.children or max(1, cpus() // self.workers)

    def missing_to_run(self) -> list[str]:
        """Say what ``wasm-executor`` needs to run and is not set.

        ``--test-config`` only notes these, but for
        ``NO_KEY_FOR_TOKENS``: the manual runs it with JWT_SECRET alone.
        """
        missing = [
            f"{variable(field)} (or {variable(field)}_FILE) is not set; "
            "`wasm-executor init` makes it"
            for field in _NEEDED_TO_RUN
            if getattr(self, field) is None
        ]
        if not (self.jwt_secret or self.jwks_file or self.jwks_url):
            missing.append(NO_KEY_FOR_TOKENS)
        return missing

    def describe(self) -> list[Row]:
        """Give every setting with its effective value and origin, secrets hidden."""
        effective = {
            "group": self.group or self.app_id,
            "children": self.children_per_worker,
            "audience": self.audience or "what `init` wrote",
        }
        rows = []
        for field in FIELDS:
            value = effective.get(field, getattr(self, field))
            origin = _origin(self._raw.values.get(variable(field)))
            rows.append(Row(variable(field), _shown(field, value), origin))
        for name, value in sorted(self.kafka_properties.items()):
            shown = HIDDEN if is_secret_property(name) else value
            rows.append(Row(name, shown, _origin(self._raw.properties.get(name))))
        return rows

    def digest(self) -> str:
        """Give a short digest of the effective configuration, secrets left out.

        Equal on instances that run alike; shown in metrics and in the start-up line.
        """
        own = variable("instance_id")
        text = "\n".join(
            f"{r.name}={r.value}" for r in self.describe() if r.name != own
        )
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def worker_values(self) -> WorkerSettings:
        """Give what workers are told.

        Raises:
            SettingsError: something that is needed to run is missing.
        """
        if missing := self.missing_to_run():
            raise SettingsError(missing)
        properties = self.kafka_properties
        secret = {k: v for k, v in properties.items() if is_secret_property(k)}
        public = {k: v for k, v in properties.items() if k not in secret}
        return WorkerSettings(
            operator_public_key=read_public_key(self.operator_public_key or ""),
            topics=self.topics,
            ceilings=Ceilings(
                fuel_units=self.max_fuel,
                memory_bytes=self.max_memory_bytes,
                stack_bytes=self.max_stack_bytes,
                deadline_ms=_ms(self.timeout_seconds),
                module_bytes=self.max_module_bytes,
                result_bytes=self.max_result_bytes,
                hard_fuel_units=self.hard_max_fuel,
                hard_memory_bytes=self.hard_max_memory_bytes,
                hard_deadline_ms=_ms(self.hard_max_timeout_seconds),
                hard_module_bytes=self.hard_max_module_bytes,
                compile_deadline_ms=_ms(self.compile_seconds),
                compile_memory_bytes=self.compile_memory_bytes,
            ),
            tokens=TokenRules(
                max_lifetime_s=self.jwt_expiry_minutes * 60,
                max_append_age_s=self.token_max_append_age_seconds,
                audience=self.audience,
                secret_issuers=self.jwt_secret_issuers,
                jwks_path=_text(self.jwks_file),
                jwks_url=self.jwks_url,
                jwks_refresh_s=self.jwks_refresh_seconds,
            ),
            pace=Pace(
                replay_bytes=self.replay_bytes,
                window_requests=self.window_requests,
                window_bytes=self.window_bytes,
                commit_requests=self.commit_requests,
                commit_bytes=self.commit_bytes,
                commit_floor_ms=self.commit_floor_ms,
                drain_s=self.drain_seconds,
            ),
            membership=Membership(
                group=self.group or self.app_id,
                leave_on_stop=self.leave_on_stop,
                session_timeout_ms=_ms(self.session_timeout_seconds),
                heartbeat_ms=_ms(self.heartbeat_seconds),
                rebalance_timeout_ms=_ms(self.rebalance_timeout_seconds),
                properties=public,
            ),
            secrets=Secrets(
                jwt_secret=_bytes(self.jwt_secret),
                jwt_secret_previous=_bytes(self.jwt_secret_previous),
                deployment_secret=self.deployment_secret_bytes,
                kafka_properties=secret,
            ),
            result_encoding=self.result_encoding,
            policy_path=_text(self.policy_file),
            state_dir=str(self.state_dir),
            cache_bytes=self.cache_bytes,
            compile_ahead=self.compile_ahead,
            children=self.children_per_worker,
            require_hardening=self.require_hardening,
            log_level=self.log_level,
        )


def load(
    file: Path | None = None, environment: Mapping[str, str] | None = None
) -> Settings:
    """Read the configuration.

    Args:
        file: the file of ``--env-file``; None leaves it to the environment.
        environment: instead of the process's own, for tests and ``dev``. With
            ``WASM_EXECUTOR_ENV_FILE=/dev/null`` in it, no file matters.

    Raises:
        SettingsError: with every problem found.
    """
    raw = gather(
        os.environ if environment is None else environment,
        file,
        [variable(field) for field in FIELDS],
        [variable(field) for field in FIELDS if accepts_file(field)],
    )
    problems = list(raw.problems)
    optional = {variable(field) for field in FIELDS if accepts_nothing(field)}
    values: dict[str, Any] = {}
    for name, value in raw.values.items():
        if value.text.strip():
            values[name] = value.text.strip()
        elif name not in optional:
            problems.append(f"{name} ({value.origin}) is empty")
    try:
        settings = Settings(**values)
    except ValidationError as error:
        problems += [_explain(details, raw) for details in error.errors()]
        raise SettingsError(problems) from None  # its text could quote a secret
    settings._raw = raw  # noqa: SLF001 - this module's own
    problems += broken_rules(settings)
    if problems:
        raise SettingsError(problems)
    return settings


def file_in_use(file: Path | None = None) -> Path:
    """Give the configuration file that ``load`` reads if it is there."""
    return configuration_file(os.environ, file)


def path_alone(field: str, file: Path | None = None) -> Path:
    """Give one path of the configuration, although all else may be wrong with it.

    For a restore: what is to be restored may be what the rest needs.
    """
    raw = gather(os.environ, file, [variable(field)], [])
    value = raw.values.get(variable(field))
    return Path(value.text.strip() if value else FIELDS[field].default)


def reveal(secret: SecretStr | None) -> str:
    """Give a secret's text; empty if there is none."""
    return "" if secret is None else secret.get_secret_value()


def _explain(details: Any, raw: Gathered) -> str:
    """Say what is wrong with one value, by its name; a secret is not quoted."""
    name = str(details["loc"][0])
    value: RawValue | None = raw.values.get(name)
    message = str(details["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    hidden = any(is_secret(field) for field in FIELDS if variable(field) == name)
    if value is None or hidden:
        return f"{name}: {message}"
    return f"{name}={value.text[:64]} ({value.origin}): {message}"


def _shown(field: str, value: object) -> str:
    if value is None:
        return NOT_SET
    if is_secret(field):
        return HIDDEN
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _origin(raw: RawValue | None) -> str:
    return DEFAULT if raw is None else raw.origin


def cpus() -> int:
    """Count the CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _bytes(secret: SecretStr | None) -> bytes | None:
    return None if secret is None else secret.get_secret_value().encode()
