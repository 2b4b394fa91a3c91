"""What a worker is told: its settings and its identity, as one line of JSON.

The supervisor parses the configuration (``stream_executor.settings``) and hands each
worker plain frozen values on standard input, so that a worker imports no pydantic,
reads no environment, and no secret shows in an argument list or in ``/proc/*/environ``.
Standard input stays open for the worker's life: later lines are ``Reload``s, its end
means that the supervisor is gone (``services.lifeline`` reads both).

Nothing is checked here beyond types; ranges and rules between values are the settings'.
"""

from __future__ import annotations

import msgspec

from stream_executor.model.audit import Certificate


class Topics(msgspec.Struct, frozen=True):
    """Names of the six topics."""

    requests: str = "wasm.requests"
    results: str = "wasm.results"
    audit: str = "wasm.audit"
    modules: str = "wasm.modules"
    control: str = "wasm.control"
    checkpoints: str = "wasm.checkpoints"


class Ceilings(msgspec.Struct, frozen=True):
    """The most that a module may use.

    Attributes:
        fuel_units, memory_bytes, deadline_ms, module_bytes: for every module.
        stack_bytes: engine-wide; no request and no grant changes it.
        result_bytes: a whole encoded result record.
        hard_fuel_units, hard_memory_bytes, hard_deadline_ms, hard_module_bytes: the
            most that an Administrator's publication may grant one module.
        compile_deadline_ms, compile_memory_bytes: for compiling one module.
    """

    fuel_units: int
    memory_bytes: int
    stack_bytes: int
    deadline_ms: int
    module_bytes: int
    result_bytes: int
    hard_fuel_units: int
    hard_memory_bytes: int
    hard_deadline_ms: int
    hard_module_bytes: int
    compile_deadline_ms: int
    compile_memory_bytes: int


class TokenRules(msgspec.Struct, frozen=True):
    """What tokens are accepted, all but the keys that are secret.

    Attributes:
        max_lifetime_s: most seconds between iat and exp (JWT_EXPIRY_MINUTES).
        max_append_age_s: most seconds between iat and the record's append time.
        audience: the required aud; None means what the control chain says.
        secret_issuers: issuers that JWT_SECRET may speak for.
        jwks_path: JWKS file, or None; read again at a reload.
        jwks_url: JWKS address, or None.
        jwks_refresh_s: seconds between two reads of the address.
    """

    max_lifetime_s: int
    max_append_age_s: int
    audience: str | None
    secret_issuers: tuple[str, ...]
    jwks_path: str | None
    jwks_url: str | None
    jwks_refresh_s: int


class Pace(msgspec.Struct, frozen=True):
    """How much a worker takes in, and how often a lane commits.

    Attributes:
        replay_bytes: memory for spent tokens, of all lanes of one worker together.
        window_requests, window_bytes: most requests admitted and not yet committed
            in one lane; intake pauses above either.
        commit_requests, commit_bytes: most that one transaction carries.
        commit_floor_ms: the longest wait between two commits of a lane under load;
            an idle lane commits at once.
        drain_s: the drain budget.
    """

    replay_bytes: int
    window_requests: int
    window_bytes: int
    commit_requests: int
    commit_bytes: int
    commit_floor_ms: int
    drain_s: float


class Membership(msgspec.Struct, frozen=True):
    """How a worker is a member of the group and a client of the brokers.

    Attributes:
        group: the consumer group.
        leave_on_stop: send LeaveGroup at the end of a drain (scaling in); otherwise
            a restarted worker has its lanes back at once.
        properties: Kafka client properties under their Kafka names.
    """

    group: str
    leave_on_stop: bool
    session_timeout_ms: int
    heartbeat_ms: int
    rebalance_timeout_ms: int
    properties: dict[str, str]


class Secrets(msgspec.Struct, frozen=True):
    """What must never be printed; its ``repr`` says nothing.

    Attributes:
        jwt_secret: HS256 key of JWT_SECRET, or None.
        jwt_secret_previous: the one before, accepted beside it, or None.
        deployment_secret: 32 bytes that salt content digests.
        kafka_properties: Kafka client properties that hold passwords or keys; to be
            laid over ``Membership.properties``.
    """

    jwt_secret: bytes | None
    jwt_secret_previous: bytes | None
    deployment_secret: bytes
    kafka_properties: dict[str, str]

    def __repr__(self) -> str:
        return "Secrets(…)"


class WorkerSettings(msgspec.Struct, frozen=True):
    """Everything that is the same for all workers of one supervisor.

    Attributes:
        operator_public_key: 32 bytes, the trust root.
        result_encoding: ``json`` or ``avro``.
        policy_path: policy file (TOML), or None; read again at a reload.
        state_dir: folder for what may be lost: the compile cache, slot locks.
        cache_bytes: most bytes in the compile cache.
        compile_ahead: compile published modules before somebody asks for them.
        children: sandbox children per worker.
        require_hardening: refuse to start where the sandbox cannot be locked down.
        log_level: ``debug``, ``info``, ``warn`` or ``error``.
    """

    operator_public_key: bytes
    topics: Topics
    ceilings: Ceilings
    tokens: TokenRules
    pace: Pace
    membership: Membership
    secrets: Secrets
    result_encoding: str
    policy_path: str | None
    state_dir: str
    cache_bytes: int
    compile_ahead: bool
    children: int
    require_hardening: bool
    log_level: str

    @property
    def kafka_properties(self) -> dict[str, str]:
        """All Kafka client properties, secret ones included: never print this."""
        return {**self.membership.properties, **self.secrets.kafka_properties}


class WorkerIdentity(msgspec.Struct, frozen=True):
    """Who one worker incarnation is.

    Attributes:
        instance: ``<instance>-<slot>``: the static member id, stable over restarts.
        slot: the slot's number on this host, held by the supervisor's lock.
        incarnation: 16 random bytes, new at every start.
        process_secret_key: 32-byte seed of this incarnation's Ed25519 key.
        certificate: the fleet key's word for that key.
    """

    instance: str
    slot: int
    incarnation: bytes
    process_secret_key: bytes
    certificate: Certificate

    def __repr__(self) -> str:
        return f"WorkerIdentity({self.instance!r}, …)"


class WorkerOrders(msgspec.Struct, frozen=True, tag="orders"):
    """The first line on a worker's standard input.

    Attributes:
        supervisor_pid: who must be alive.
        report_fd: inherited file descriptor to write ``services.reports`` frames to.
    """

    settings: WorkerSettings
    identity: WorkerIdentity
    supervisor_pid: int
    report_fd: int


class Reload(msgspec.Struct, frozen=True, tag="reload"):
    """A later line: take this log level, read files again that may have changed."""

    log_level: str


class AuditLogOrders(msgspec.Struct, frozen=True, tag="audit_log"):
    """The first line for the process that writes ``audit.log``.

    It gets no key and no secret but what Kafka asks for.

    Attributes:
        path: the file (AUDIT_LOG_PATH).
        operator_public_key: 32 bytes, the trust root.
        topics: names of the topics.
        kafka_properties: Kafka client properties, secret ones included.
        log_level: ``debug``, ``info``, ``warn`` or ``error``.
        supervisor_pid, report_fd: as a worker's.
    """

    path: str
    operator_public_key: bytes
    topics: Topics
    kafka_properties: dict[str, str]
    log_level: str
    supervisor_pid: int
    report_fd: int

    def __repr__(self) -> str:
        return f"AuditLogOrders({self.path!r}, …)"


Orders = WorkerOrders | AuditLogOrders
Message = Orders | Reload
_DECODER: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


def encode_line(message: Message) -> bytes:
    """Give a message to a process as one line of JSON, newline included."""
    return msgspec.json.encode(message) + b"\n"


def decode_line(line: bytes) -> Message:
    """Read one line from the supervisor.

    Raises:
        msgspec.DecodeError: it is none; both ends come from one release, so this is
            a bug (or somebody started a worker by hand).
    """
    return _DECODER.decode(line)
