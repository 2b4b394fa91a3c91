"""Rules between settings that are each fine alone, files they name, and oddities.

A file that a worker could not use is found here, before the first worker starts and by
``--test-config``. No network is touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from stream_executor.kafka.connection import from_properties
from stream_executor.model.errors import ConfigError
from stream_executor.settings_fields import variable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stream_executor.settings import Settings

# One request to a broker at most (kafka.connection), part of giving a lane up.
_REQUEST_S = 10.0
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def broken_rules(settings: Settings) -> list[str]:
    """Give everything that keeps these settings from being used together."""
    rules = (_ceilings, _tokens, _times, _names, _files, _kafka)
    return [problem for rule in rules for problem in rule(settings)]


def oddities(settings: Settings) -> Iterator[str]:
    """Give what is allowed and probably not meant."""
    _, ignored = from_properties(settings.kafka_properties)
    for name in ignored:
        yield f"the Kafka property {name} is not used"
    if settings.timeout_seconds > settings.drain_seconds:
        yield (
            "TIMEOUT_SECONDS is longer than WASM_EXECUTOR_DRAIN_SECONDS: a stop can "
            "cut guests, whose requests then run again elsewhere"
        )
    if settings.http_host not in _LOOPBACK and settings.http_token is None:
        yield "METRICS_PORT is open to the network, without WASM_EXECUTOR_HTTP_TOKEN"


def _ceilings(s: Settings) -> Iterator[str]:
    for most, hard in (
        ("max_fuel", "hard_max_fuel"),
        ("max_memory_bytes", "hard_max_memory_bytes"),
        ("max_module_bytes", "hard_max_module_bytes"),
        ("timeout_seconds", "hard_max_timeout_seconds"),
    ):
        if getattr(s, most) > getattr(s, hard):
            yield (
                f"{variable(most)}={getattr(s, most)} is above "
                f"{variable(hard)}={getattr(s, hard)}"
            )
    if s.commit_requests > s.window_requests:
        yield "WASM_EXECUTOR_COMMIT_REQUESTS is above WASM_EXECUTOR_WINDOW_REQUESTS"


def _tokens(s: Settings) -> Iterator[str]:
    if s.token_max_append_age_seconds > s.jwt_expiry_minutes * 60:
        yield (
            "TOKEN_MAX_APPEND_AGE_SECONDS is longer than JWT_EXPIRY_MINUTES: a token "
            "would expire first"
        )
    if s.jwt_secret_previous and not s.jwt_secret:
        yield "JWT_SECRET_PREVIOUS is set without JWT_SECRET"
    if s.jwt_secret and s.jwt_secret_previous == s.jwt_secret:
        yield "JWT_SECRET_PREVIOUS is the same as JWT_SECRET"


def _times(s: Settings) -> Iterator[str]:
    # Kafka's own rule: two heartbeats may be lost.
    if s.heartbeat_seconds * 3 > s.session_timeout_seconds:
        yield (
            "WASM_EXECUTOR_HEARTBEAT_SECONDS must be at most a third of "
            "WASM_EXECUTOR_SESSION_TIMEOUT_SECONDS"
        )
    # A worker that gives lanes up first lets their guests and one commit finish.
    busy_s = s.timeout_seconds + _REQUEST_S + s.drain_seconds
    if busy_s > s.rebalance_timeout_seconds:
        yield (
            f"TIMEOUT_SECONDS, {_REQUEST_S:g} for a commit and "
            f"WASM_EXECUTOR_DRAIN_SECONDS are {busy_s:g} together, above "
            "WASM_EXECUTOR_REBALANCE_TIMEOUT_SECONDS"
        )


def _names(s: Settings) -> Iterator[str]:
    names = msgspec.structs.astuple(s.topics)
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"two of the WASM_EXECUTOR_…_TOPIC settings are {name}"


def _files(s: Settings) -> Iterator[str]:
    if (s.http_tls_cert_file is None) != (s.http_tls_key_file is None):
        yield (
            "WASM_EXECUTOR_HTTP_TLS_CERT_FILE and WASM_EXECUTOR_HTTP_TLS_KEY_FILE "
            "go together"
        )
    if s.enable_audit_logging and not s.audit_log_path.is_absolute():
        yield f"AUDIT_LOG_PATH={s.audit_log_path}: expected an absolute path"
    for field, validate in (("policy_file", _policy), ("jwks_file", _jwks)):
        path: Path | None = getattr(s, field)
        try:
            if path is not None:
                validate(path.read_bytes(), s)
        except OSError as error:
            yield f"{variable(field)}={path}: {error.strerror}"
        except ConfigError as error:
            yield f"{variable(field)}={path}: {error}"
    if not s.state_dir.is_absolute():
        yield f"WASM_EXECUTOR_STATE_DIR={s.state_dir}: expected an absolute path"


def _policy(document: bytes, _: Settings) -> None:
    from stream_executor.auth.policy import Policy  # noqa: PLC0415 - only if there is one

    Policy.parse(document)


def _jwks(document: bytes, s: Settings) -> None:
    from stream_executor.auth.jwks import read_jwk_set  # noqa: PLC0415 - as above
    from stream_executor.auth.keys import Scope  # noqa: PLC0415 - as above

    # The default audience is not known before the cluster is.
    scope = Scope(frozenset(s.jwt_secret_issuers), s.audience or s.app_id)
    read_jwk_set(document, scope)


def _kafka(s: Settings) -> Iterator[str]:
    try:
        from_properties(s.kafka_properties)
    except ConfigError as error:
        yield f"KAFKA_*: {error}"
