"""What can be wrong with the world around the service; one name each, everywhere.

The log (``condition.begun``), ``/health``, the metric ``wasm_executor_conditions``,
``/status``, ``doctor`` and docs/recovery.md use these names. Not here: what is wrong
with a log (``lane.damage``), and who notices (``services.conditions``).
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Condition(StrEnum):
    """Closed: it labels a metric."""

    BROKERS_AWAY = "brokers_away"
    CLUSTER_CHANGED = "cluster_changed"
    NAME_UNRESOLVED = "name_unresolved"
    TLS_REFUSED = "tls_refused"
    CREDENTIALS_REFUSED = "credentials_refused"
    RIGHTS_MISSING = "rights_missing"
    TOPIC_MISSING = "topic_missing"
    TOPIC_SETTINGS = "topic_settings"
    REPLICAS_MISSING = "replicas_missing"
    CLOCK_APART = "clock_apart"
    DISK_FULL = "disk_full"
    DISK_READ_ONLY = "disk_read_only"


REMEDIES: dict[Condition, str] = {
    Condition.BROKERS_AWAY: (
        "start the brokers, or mend KAFKA_BOOTSTRAP_SERVERS and the network; a "
        "listener with TLS needs KAFKA_SECURITY_PROTOCOL"
    ),
    Condition.CLUSTER_CHANGED: (
        "bring KAFKA_BOOTSTRAP_SERVERS, its name or its address back to the cluster "
        "that is named; a restart would take this one for the executor's own"
    ),
    Condition.NAME_UNRESOLVED: (
        "mend the name service (getent hosts NAME) or the name in "
        "KAFKA_BOOTSTRAP_SERVERS or the brokers' advertised.listeners"
    ),
    Condition.TLS_REFUSED: (
        "compare KAFKA_SSL_TRUSTSTORE_LOCATION with the authority of the brokers' "
        "certificate, its names and its end: openssl s_client -connect HOST:PORT"
    ),
    Condition.CREDENTIALS_REFUSED: (
        "mend user, password and mechanism (KAFKA_SASL_*) here and restart, or on the "
        "brokers with kafka-configs"
    ),
    Condition.RIGHTS_MISSING: "grant what `wasm-executor topics acls` prints",
    Condition.TOPIC_MISSING: (
        "`wasm-executor topics plan`; what was in it comes back from a copy of the "
        "cluster only; `wasm-executor audit doctor` says what an empty one costs"
    ),
    Condition.TOPIC_SETTINGS: "`wasm-executor topics plan`, then `topics apply`",
    Condition.REPLICAS_MISSING: (
        "start the brokers that are down, or lower min.insync.replicas to what there is"
    ),
    Condition.CLOCK_APART: "timedatectl, on this host and on the brokers",
    Condition.DISK_FULL: "free space, or enlarge the file system: df -h PATH",
    Condition.DISK_READ_ONLY: "dmesg | tail; then mount -o remount,rw",
}


class Trouble(msgspec.Struct, frozen=True):
    """One condition that holds now.

    Attributes:
        reason: what was found, in words.
        since_ms: since when, milliseconds since 1970.
    """

    condition: Condition
    reason: str
    since_ms: int

    def __str__(self) -> str:
        reason = self.reason.removesuffix(".")
        return f"{self.condition}: {reason}; {REMEDIES[self.condition]}"
