"""Every setting: name, type, range, default, meaning. The table that is the contract.

The manual's names are bare, and so are those that the design fixed; everything new is
``WASM_EXECUTOR_*``. Zero never means unlimited. docs/settings.md is generated from this
table. Rules between settings, and where values come from, are not here.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from stream_executor.key_text import read_bytes, read_private_key, read_public_key
from stream_executor.model.errors import ConfigError
from stream_executor.model.lanes import MOST_COMMIT_REQUESTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic.fields import FieldInfo
    from pydantic_settings import PydanticBaseSettingsSource

_TOPIC = re.compile(r"(?!\.{1,2}$)[a-zA-Z0-9._-]{1,249}")
_ID = re.compile(r"[A-Za-z0-9._-]{1,200}")


def _setting(name: str, default: Any, text: str, **limits: Any) -> Any:
    return Field(default, validation_alias=name, description=text, **limits)


def _ours(name: str, default: Any, text: str, **limits: Any) -> Any:
    return _setting(f"WASM_EXECUTOR_{name}", default, text, **limits)


def _matching(pattern: re.Pattern[str], what: str) -> AfterValidator:
    def validate(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(f"expected {what}")
        return value

    return AfterValidator(validate)


def _readable(read: Callable[[str], object]) -> AfterValidator:
    """Refuse a key that cannot be read, without quoting it."""

    def validate(value: SecretStr | str) -> SecretStr | str:
        read(value.get_secret_value() if isinstance(value, SecretStr) else value)
        return value

    return AfterValidator(validate)


def _strong(value: SecretStr) -> SecretStr:
    # Imported here: `--version` and completion do not pay for PyJWT.
    from stream_executor.auth.keys import validate_secret  # noqa: PLC0415

    try:
        validate_secret(value.get_secret_value().encode())
    except ConfigError as error:
        raise ValueError(str(error).removeprefix("JWT_SECRET ")) from error
    return value


def _address(value: str) -> str:
    from stream_executor.auth.load import validate_url  # noqa: PLC0415 - as above

    try:
        return validate_url(value)
    except ConfigError as error:
        raise ValueError(str(error)) from error


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _lower(value: object) -> object:
    lower = value.lower() if isinstance(value, str) else value
    return {"warning": "warn"}.get(lower, lower) if isinstance(lower, str) else lower


def _host_name() -> str:
    return socket.gethostname()


Topic = Annotated[str, _matching(_TOPIC, "letters, digits, '.', '_' and '-'")]
Identifier = Annotated[str, _matching(_ID, "1 to 200 letters, digits, '.', '_', '-'")]
JwtSecret = Annotated[SecretStr, AfterValidator(_strong)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Level = Annotated[Literal["debug", "info", "warn", "error"], BeforeValidator(_lower)]


class SettingsFields(BaseSettings):
    """Every setting, validated one by one; ``settings.Settings`` adds the rest."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=False
    )

    # -- the manual's ------------------------------------------------------------
    # Defaults are those of the manual's deployment; its "double" examples (10,000,000
    # fuel, 134,217,728 bytes) make sense on no others.
    jwt_secret: JwtSecret | None = _setting(
        "JWT_SECRET", None, "HS256 secret of tokens, at least 32 bytes; ceiling Agent."
    )
    max_fuel: int = _setting(
        "MAX_FUEL", 5_000_000, "Fuel of one execution.", ge=1, le=10**15
    )
    max_memory_bytes: int = _setting(
        "MAX_MEMORY_BYTES", 67_108_864, "Linear memory of one guest.",
        ge=65_536, le=4_294_967_296,
    )  # fmt: skip
    max_stack_bytes: int = _setting(
        "MAX_STACK_BYTES", 1_048_576, "Call stack of a guest; engine-wide.",
        ge=8_192, le=2_097_152,
    )  # fmt: skip
    timeout_seconds: float = _setting(
        "TIMEOUT_SECONDS", 5.0, "Wall-clock time of one execution.", ge=0.1, le=300
    )
    audit_log_path: Path = _setting(
        "AUDIT_LOG_PATH", Path("/var/log/wasm-executor/audit.log"),
        "The readable audit log, JSON Lines.",
    )  # fmt: skip
    enable_audit_logging: bool = _setting(
        "ENABLE_AUDIT_LOGGING", True,
        "Write that file. The audit topic is always written.",
    )  # fmt: skip
    jwt_expiry_minutes: int = _setting(
        "JWT_EXPIRY_MINUTES", 60, "Most minutes between a token's iat and exp.",
        ge=1, le=1_440,
    )  # fmt: skip
    metrics_port: int = _setting(
        "METRICS_PORT", 9090, "Port of metrics, health and status.", ge=1, le=65_535
    )
    log_level: Level = _setting(
        "LOG_LEVEL", "info", "debug, info, warn or error, in any case."
    )

    # -- named bare in the design ----------------------------------------------------
    jwt_secret_previous: JwtSecret | None = _setting(
        "JWT_SECRET_PREVIOUS", None, "Accepted beside JWT_SECRET during a rotation."
    )
    max_module_bytes: int = _setting(
        "MAX_MODULE_BYTES", 10_485_760, "Size of a module.", ge=8, le=62_914_560
    )
    max_result_bytes: int = _setting(
        "MAX_RESULT_BYTES", 524_288, "Size of a whole encoded result record.",
        ge=4_096, le=8_388_608,
    )  # fmt: skip
    result_encoding: Literal["json", "avro"] = _setting(
        "RESULT_ENCODING", "json", "How results are written."
    )
    workers: int = _setting(
        "WORKERS", 1, "Worker processes; one fills about a core.", ge=1, le=64
    )
    token_max_append_age_seconds: int = _setting(
        "TOKEN_MAX_APPEND_AGE_SECONDS", 120,
        "A request must be appended this soon after its token's iat.", ge=5, le=3_600,
    )  # fmt: skip
    require_hardening: bool = _setting(
        "REQUIRE_HARDENING", False,
        "Refuse to start where guests cannot be locked down.",
    )  # fmt: skip
    # Interpreters need 250 M fuel and 30 MB modules.
    hard_max_fuel: int = _setting(
        "HARD_MAX_FUEL", 1_000_000_000, "Most fuel that a grant may give a module.",
        ge=1, le=10**15,
    )  # fmt: skip
    hard_max_memory_bytes: int = _setting(
        "HARD_MAX_MEMORY_BYTES", 536_870_912, "Most memory that a grant may give.",
        ge=65_536, le=4_294_967_296,
    )  # fmt: skip
    hard_max_timeout_seconds: float = _setting(
        "HARD_MAX_TIMEOUT_SECONDS", 60.0,
        "Longest wall-clock time that a grant may give.", ge=0.1, le=300,
    )  # fmt: skip
    # Below wasm.modules' max.message.bytes of 64 MiB.
    hard_max_module_bytes: int = _setting(
        "HARD_MAX_MODULE_BYTES", 33_554_432, "Largest module that can be published.",
        ge=8, le=62_914_560,
    )  # fmt: skip

    # -- names and keys --------------------------------------------------------------
    app_id: Identifier = _ours(
        "APP_ID", "wasm-executor",
        "The deployment's name: the group's, and part of the audience at `init`.",
    )  # fmt: skip
    group: Identifier | None = _ours("GROUP", None, "Consumer group; default APP_ID.")
    instance_id: Identifier = Field(
        default_factory=_host_name,
        validation_alias="WASM_EXECUTOR_INSTANCE_ID",
        description="First part of static member ids; default the host's name.",
    )
    requests_topic: Topic = _ours("REQUESTS_TOPIC", "wasm.requests", "Topic name.")
    results_topic: Topic = _ours("RESULTS_TOPIC", "wasm.results", "Topic name.")
    audit_topic: Topic = _ours("AUDIT_TOPIC", "wasm.audit", "Topic name.")
    modules_topic: Topic = _ours("MODULES_TOPIC", "wasm.modules", "Topic name.")
    control_topic: Topic = _ours("CONTROL_TOPIC", "wasm.control", "Topic name.")
    checkpoints_topic: Topic = _ours(
        "CHECKPOINTS_TOPIC", "wasm.checkpoints", "Topic name."
    )
    operator_public_key: Annotated[str, _readable(read_public_key)] | None = _ours(
        "OPERATOR_PUBLIC_KEY", None,
        "The trust root: Ed25519 public key, PEM, base64 or hex. Needed to run.",
    )  # fmt: skip
    fleet_key: Annotated[SecretStr, _readable(read_private_key)] | None = _ours(
        "FLEET_KEY", None,
        "Ed25519 private key that certifies workers; stays in the supervisor. "
        "Needed to run.",
    )  # fmt: skip
    deployment_secret: Annotated[SecretStr, _readable(read_bytes)] | None = _ours(
        "DEPLOYMENT_SECRET", None,
        "32 bytes, base64 or hex, that salt the audit's digests. Needed to run.",
    )  # fmt: skip
    notary_key: Annotated[SecretStr, _readable(read_private_key)] | None = _ours(
        "NOTARY_KEY", None,
        "Ed25519 private key of the notary, which is planned: accepted, and not used.",
    )  # fmt: skip

    # -- who may ask -----------------------------------------------------------------
    jwt_secret_issuers: Names = _ours(
        "JWT_SECRET_ISSUERS", ("wasm-executor",),
        "Issuers that JWT_SECRET may speak for, separated by commas.", min_length=1,
    )  # fmt: skip
    audience: str | None = _ours(
        "AUDIENCE", None, "Required aud; default: what `init` wrote."
    )
    jwks_file: Path | None = _ours("JWKS_FILE", None, "Public keys of issuers.")
    jwks_url: Annotated[str, AfterValidator(_address)] | None = _ours(
        "JWKS_URL", None, "Address of such a document; https, or this host."
    )
    jwks_refresh_seconds: int = _ours(
        "JWKS_REFRESH_SECONDS", 300, "Between two reads of it.", ge=10, le=86_400
    )
    policy_file: Path | None = _ours(
        "POLICY_FILE", None, "Policy (TOML): who may run what; default all published."
    )

    # -- how much --------------------------------------------------------------------
    children: int | None = _ours(
        "CHILDREN", None,
        "Sandbox children of one worker; default the CPUs divided by WORKERS.",
        ge=1, le=256,
    )  # fmt: skip
    # CPython, 26 MB: 7 s on a quiet machine, 25 s of CPU and 35 s on a busy one.
    compile_seconds: float = _ours(
        "COMPILE_SECONDS", 60.0, "To compile one module; CPython takes 7 to 35.",
        ge=0.5, le=600,
    )  # fmt: skip
    compile_memory_bytes: int = _ours(
        "COMPILE_MEMORY_BYTES", 2_147_483_648, "To compile one module; CPython fits.",
        ge=268_435_456, le=17_179_869_184,
    )  # fmt: skip
    cache_bytes: int = _ours(
        "CACHE_BYTES", 536_870_912, "Compiled modules kept on disk.",
        ge=16_777_216, le=1_099_511_627_776,
    )  # fmt: skip
    compile_ahead: bool = _ours(
        "COMPILE_AHEAD", True,
        "Compile published modules in the background, before they are asked for.",
    )  # fmt: skip
    replay_bytes: int = _ours(
        "REPLAY_BYTES", 67_108_864,
        "Memory for spent tokens, per worker; 10,000 a second fit 64 MiB.",
        ge=1_048_576, le=17_179_869_184,
    )  # fmt: skip
    window_requests: int = _ours(
        "WINDOW_REQUESTS", 4_000, "In flight in one lane.", ge=1, le=100_000
    )
    window_bytes: int = _ours(
        "WINDOW_BYTES", 16_777_216, "In flight in one lane.",
        ge=2_097_152, le=1_073_741_824,
    )  # fmt: skip
    # Ceilings of one transaction from measurements on Kafka 4.3.
    commit_requests: int = _ours(
        "COMMIT_REQUESTS", 500, "Most requests of one transaction.",
        ge=1, le=MOST_COMMIT_REQUESTS,
    )  # fmt: skip
    commit_bytes: int = _ours(
        "COMMIT_BYTES", 524_288, "Bytes after which a transaction is full.",
        ge=16_384, le=900_000,
    )  # fmt: skip
    commit_floor_ms: int = _ours(
        "COMMIT_FLOOR_MS", 50,
        "Longest wait between two commits under load; an idle lane commits at once.",
        ge=0, le=1_000,
    )  # fmt: skip

    # -- the group -------------------------------------------------------------------
    # A false alarm costs a take-over, never correctness; Kafka's 45 s leave a crashed
    # machine's partitions idle.
    session_timeout_seconds: float = _ours(
        "SESSION_TIMEOUT_SECONDS", 10.0, "Silence after which a worker is gone.",
        ge=6, le=300,
    )  # fmt: skip
    heartbeat_seconds: float = _ours(
        "HEARTBEAT_SECONDS", 3.0, "Between heartbeats.", ge=0.5, le=100
    )
    rebalance_timeout_seconds: float = _ours(
        "REBALANCE_TIMEOUT_SECONDS", 60.0, "For workers to rejoin.", ge=10, le=600
    )
    leave_on_stop: bool = _ours(
        "LEAVE_ON_STOP", False,
        "Leave the group when stopping: for scaling in, not for restarts.",
    )  # fmt: skip
    drain_seconds: float = _ours(
        "DRAIN_SECONDS", 20.0,
        "Time for running work when stopping; systemd and pods must wait 18 s longer.",
        ge=1, le=600,
    )  # fmt: skip

    # -- this host -------------------------------------------------------------------
    state_dir: Path = _ours(
        "STATE_DIR", Path("/var/lib/wasm-executor"), "Compile cache and slot locks."
    )
    http_host: str = _ours(
        "HTTP_HOST", "127.0.0.1",
        "Address of METRICS_PORT; 0.0.0.0 for scrapes and probes from outside.",
    )  # fmt: skip
    http_token: Annotated[SecretStr, Field(min_length=16)] | None = _ours(
        "HTTP_TOKEN", None, "Bearer token for all of that port but health."
    )
    http_tls_cert_file: Path | None = _ours(
        "HTTP_TLS_CERT_FILE", None, "Certificate chain (PEM): serve HTTPS."
    )
    http_tls_key_file: Path | None = _ours(
        "HTTP_TLS_KEY_FILE", None, "Its private key (PEM)."
    )
    backup_dir: Path = _ours(
        "BACKUP_DIR",
        Path("/backup"),
        "Where `backup now` writes; the newest one's age is a metric.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take what ``environment.gather`` found and nothing else.

        pydantic-settings' own readers know neither systemd's dialect nor what an
        unknown name is (pydantic-settings#985).
        """
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)


FIELDS: dict[str, FieldInfo] = SettingsFields.model_fields


def variable(field: str) -> str:
    """Give a field's name in the environment."""
    return str(FIELDS[field].validation_alias)


def is_secret(field: str) -> bool:
    """Tell whether a field's value must not be shown."""
    return "SecretStr" in str(FIELDS[field].annotation)


def accepts_file(field: str) -> bool:
    """Tell whether a field may come from a file, as ``<name>_FILE``."""
    return is_secret(field) or field == "operator_public_key"


def accepts_nothing(field: str) -> bool:
    """Tell whether an empty value means "not set"; never for a secret."""
    return FIELDS[field].default is None and not is_secret(field)
