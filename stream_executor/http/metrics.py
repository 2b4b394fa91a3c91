"""Every metric: name, type, help, labels, buckets. The only place that names one.

The first seven are the manual's and carry no labels, so that its PromQL divides. All
others begin with ``wasm_executor_``. Label values come from closed enums, and every
series is there at 0 from the start. Units are base units. Workers count in a ``Tally``
(``http.tally``) and never import prometheus_client; ``http.exposition`` renders.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from stream_executor.model.artefact import CacheOutcome
from stream_executor.model.codes import Code
from stream_executor.model.conditions import Condition
from stream_executor.model.job import ChildEnd
from stream_executor.model.lanes import LaneState

SUCCEEDED = "succeeded"  # the label of a result without a code


class Kind(StrEnum):
    """Prometheus' types that we use."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Combine(StrEnum):
    """How one gauge of several workers becomes one number."""

    SUM = "sum"
    MAX = "max"


class CommitFailure(StrEnum):
    """The three classes of failed commit."""

    FENCED = "fenced"
    INDEFINITE = "indefinite"
    PERMANENT = "permanent"


class Metric(msgspec.Struct, frozen=True):
    """One row.

    Attributes:
        label: the one label's name, or None.
        values: the label's closed set of values.
        buckets: upper bounds of a histogram, rising, without +Inf.
        combine: for gauges that workers report.
    """

    name: str
    kind: Kind
    help: str
    label: str | None = None
    values: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    combine: Combine = Combine.SUM


_TABLE: list[Metric] = []


def _row(metric: Metric) -> Metric:
    _TABLE.append(metric)
    return metric


def _counter(
    name: str, text: str, label: str | None = None, values: tuple[str, ...] = ()
) -> Metric:
    return _row(Metric(name, Kind.COUNTER, text, label, values))


def _gauge(name: str, text: str, combine: Combine = Combine.SUM) -> Metric:
    return _row(Metric(name, Kind.GAUGE, text, combine=combine))


def _histogram(name: str, text: str, buckets: tuple[float, ...]) -> Metric:
    return _row(Metric(name, Kind.HISTOGRAM, text, buckets=buckets))


# The manual's seven; workers count them after the commit.
EXECUTIONS = _counter(
    "wasm_executions_total", "Executions that reached the sandbox and were committed."
)
EXECUTIONS_FAILED = _counter(
    "wasm_executions_failed_total", "Committed executions that did not succeed."
)
# From below a millisecond (a fast guest) to the default deadline and beyond it, and
# close around 0.1 s: the manual's threshold for scaling up.
EXECUTION_DURATION = _histogram(
    "wasm_execution_duration_seconds",
    "Time of one execution in the sandbox.",
    (
        0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075,
        0.1, 0.125, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    ),
)  # fmt: skip
CONCURRENT = _gauge("wasm_concurrent_executions", "Guests that run now.")
AUTH_SUCCESS = _counter(
    "wasm_auth_success_total", "Requests whose token was verified and authorized."
)
AUTH_FAILED = _counter(
    "wasm_auth_failed_total", "Records refused for their token, each offset counted."
)
FUEL_CONSUMED = _counter("wasm_fuel_consumed_total", "Fuel that guests consumed.")

# Work and its outcomes.
RESULTS = _counter(
    "wasm_executor_results_total",
    "Answered offsets by code; `succeeded` where there is none.",
    "code",
    (SUCCEEDED, *(str(code) for code in Code)),
)
CAPACITY = _gauge(
    "wasm_executor_concurrent_executions_capacity", "Guests that could run at once."
)
IN_FLIGHT = _gauge(
    "wasm_executor_in_flight_requests", "Requests admitted and not yet committed."
)
ANSWER_LATENCY = _histogram(
    "wasm_executor_answer_latency_seconds",
    "Time from a request's append to the commit of its result.",
    (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0,
     600.0),
)  # fmt: skip
COMMIT_DURATION = _histogram(
    "wasm_executor_commit_duration_seconds",
    "Time of one transaction, from begin to the broker's answer.",
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0),
)
COMMIT_FAILURES = _counter(
    "wasm_executor_commit_failures_total",
    "Times that a lane gave its producer up and began anew, by the failure's class.",
    "class",
    tuple(CommitFailure),
)
LAST_COMMIT = _gauge(
    "wasm_executor_last_commit_timestamp_seconds",
    "When the last transaction committed, seconds since 1970; 0 before the first.",
    Combine.MAX,
)
REPLAY_BYTES = _gauge(
    "wasm_executor_replay_window_bytes", "Memory that remembers spent tokens."
)
REPLAY_LIMIT = _gauge(
    "wasm_executor_replay_window_limit_bytes",
    "Most memory for spent tokens; beyond it requests are refused as rate_limited.",
)
COMPILATIONS = _counter(
    "wasm_executor_module_compilations_total", "Modules compiled, not found in a cache."
)
CACHE_LOOKUPS = _counter(
    "wasm_executor_compile_cache_lookups_total",
    "Looks into the compile cache on disk, by what they gave.",
    "outcome",
    tuple(CacheOutcome),
)
CACHE_BYTES = _gauge(
    "wasm_executor_compile_cache_bytes", "Bytes in the compile cache.", Combine.MAX
)
CACHE_LIMIT = _gauge(
    "wasm_executor_compile_cache_limit_bytes",
    "The WASM_EXECUTOR_CACHE_BYTES setting.",
    Combine.MAX,
)
CHILD_ENDS = _counter(
    "wasm_executor_sandbox_child_ends_total",
    "Sandbox children that ended before their worker.",
    "reason",
    tuple(ChildEnd),
)
KEYS_FETCHED = _gauge(
    "wasm_executor_jwks_fetched_timestamp_seconds",
    "When the JWKS address last answered, seconds since 1970; 0 if never.",
    Combine.MAX,
)
# The process that writes `audit.log`.
AUDIT_LOG_LINES = _counter(
    "wasm_executor_audit_log_lines_total", "Lines written to AUDIT_LOG_PATH."
)
AUDIT_LOG_COMPLETE = _gauge(
    "wasm_executor_audit_log_complete_timestamp_seconds",
    "When that file last held every sealed audit record, or another process on this "
    "host wrote it, seconds since 1970; 0 if this process does not know.",
    Combine.MAX,
)

CLOCK_SKEW = _gauge(
    "wasm_executor_clock_skew_seconds",
    "How far the brokers' clock is ahead of this host's, measured at each commit.",
    Combine.MAX,
)

# Derived by the supervisor: from the lanes' states, and of itself.
LANES = _row(
    Metric(
        "wasm_executor_lanes", Kind.GAUGE, "Lanes of this instance by state.",
        "state", tuple(LaneState),
    )
)  # fmt: skip
CONDITIONS = _row(
    Metric(
        "wasm_executor_conditions", Kind.GAUGE,
        "1 while this instance finds this wrong with the world around it.",
        "condition", tuple(Condition),
    )
)  # fmt: skip
DISK_FREE = _gauge(
    "wasm_executor_disk_free_bytes",
    "Free space where it is least: state, audit.log or backups.",
)
LAG = _gauge(
    "wasm_executor_lag_offsets",
    "Offsets between the lanes' next and their partitions' ends.",
)
PROCESSABLE_LAG = _gauge(
    "wasm_executor_processable_lag_offsets",
    "The lag of lanes that can work: what more workers would help with.",
)
OLDEST_UNANSWERED = _gauge(
    "wasm_executor_oldest_unanswered_timestamp_seconds",
    "Append time of the oldest request that a lane which can work holds unanswered, "
    "seconds since 1970; 0 if there is none.",
)
HEALTHY = _gauge("wasm_executor_healthy", "1 while /health answers 200, else 0.")
READY = _gauge("wasm_executor_ready", "1 while /ready answers 200, else 0.")
WORKERS = _gauge("wasm_executor_workers", "Worker processes that run now.")
WORKERS_CONFIGURED = _gauge("wasm_executor_workers_configured", "The WORKERS setting.")
WORKER_RESTARTS = _counter(
    "wasm_executor_worker_restarts_total", "Worker processes started anew."
)
RESIDENT_MEMORY = _gauge(
    "wasm_executor_resident_memory_bytes",
    "Memory of the supervisor, its workers and their sandbox children.",
)
MEMORY_LIMIT = _gauge(
    "wasm_executor_memory_limit_bytes",
    "Memory that these processes may use: the control group's limit, or the host's.",
)
CPU_SECONDS = _counter(
    "wasm_executor_cpu_seconds_total", "CPU time of the same processes."
)
CPUS = _gauge("wasm_executor_cpus", "CPUs that these processes may use.")
MAX_FUEL = _gauge("wasm_executor_max_fuel", "The MAX_FUEL setting.")
MAX_MEMORY = _gauge("wasm_executor_max_memory_bytes", "The MAX_MEMORY_BYTES setting.")
TIMEOUT = _gauge("wasm_executor_timeout_seconds", "The TIMEOUT_SECONDS setting.")
CERTIFICATE_EXPIRY = _gauge(
    "wasm_executor_http_certificate_expiry_timestamp_seconds",
    "When this port's TLS certificate ends, seconds since 1970; 0 without TLS.",
)
AUDIT_LOG_ENABLED = _gauge(
    "wasm_executor_audit_log_enabled", "1 if ENABLE_AUDIT_LOGGING is set, else 0."
)
KAFKA_CERTIFICATE_EXPIRY = _gauge(
    "wasm_executor_kafka_certificate_expiry_timestamp_seconds",
    "When our certificate towards Kafka ends, seconds since 1970; 0 without one.",
)
BACKUPS_EXPECTED = _gauge(
    "wasm_executor_backups_expected",
    "1 if WASM_EXECUTOR_BACKUP_DIR is set, or is a folder of this host; else 0.",
)
LAST_BACKUP = _gauge(
    "wasm_executor_backup_timestamp_seconds",
    "When the newest archive in WASM_EXECUTOR_BACKUP_DIR was written, seconds since "
    "1970; 0 if there is none.",
)

BUILD_INFO = "wasm_executor_build"  # an info metric: wasm_executor_build_info
TABLE: tuple[Metric, ...] = tuple(_TABLE)
BY_NAME: dict[str, Metric] = {metric.name: metric for metric in TABLE}
