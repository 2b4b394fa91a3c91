"""A worker's world in memory: real decisions, fake broker, fake guest.

The guest of every job answers at once with the sum of its i32 arguments, or what
``answer`` says.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stream_executor.audit.signing import certify, public_bytes, signed
from stream_executor.auth.deny import DenyList
from stream_executor.auth.keys import KeySet, Scope, secret_key
from stream_executor.auth.policy import Policy
from stream_executor.auth.replay import ReplayBudget
from stream_executor.auth.sign import RequestSigner
from stream_executor.auth.token import TokenProfile
from stream_executor.lane.admission import AdmissionContext, Ceilings
from stream_executor.lane.audit_log import Expected
from stream_executor.lane.conclusion import LaneIdentity, Tally
from stream_executor.lane.head import LEAST_HORIZON_MS, LaneHead
from stream_executor.lane.world import LaneSettings
from stream_executor.model.audit import (
    ZERO32,
    ContextDigests,
    Genesis,
    LaneAcquired,
    Seal,
)
from stream_executor.model.control import KeyPurpose
from stream_executor.model.errors import IntegrityError
from stream_executor.model.job import Job, Limits, Report
from stream_executor.model.scalars import ValueType, pack_value, unpack
from stream_executor.modules.orders import Orders
from stream_executor.modules.view import ControlView
from stream_executor.wire.results import encode_json as encode_result
from tests.memory_log import MemoryBroker, MemoryReader, MemoryWriter

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream_executor.lane.lane import Lane

REQUESTS, RESULTS, AUDIT = "wasm.requests", "wasm.results", "wasm.audit"
SECRET = bytes(range(32, 72))
DEPLOYMENT = hashlib.sha256(b"deployment").digest()
OPERATOR = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"operator").digest())
FLEET = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"fleet").digest())
LOG_ID = hashlib.sha256(b"log").digest()[:16]
AUDIENCE = "wasm-executor/c1"
MODULE = hashlib.sha256(b"module").digest()
LIMITS = Limits(5_000_000, 1 << 26, 5_000)
HARD = Limits(50_000_000, 1 << 28, 30_000)


def add(job: Job) -> Report:
    """The guest: adds what it is given."""
    total = sum(int(v) for _, v, _ in unpack(job.payload))
    return Report(output=pack_value(ValueType.I32, total), fuel_consumed=7)


@dataclass
class FakeSandbox:
    """Answers jobs when told to, or at once."""

    answer: Callable[[Job], Report] = add
    held: bool = False
    waiting: list[tuple[list[Job], Callable[[int, list[Report]], None]]] = field(
        default_factory=list
    )
    entered: int = 0

    def submit(
        self,
        issuer: str,
        jobs: list[Job],
        on_reports: Callable[[int, list[Report]], None],
    ) -> None:
        """Take jobs."""
        del issuer
        self.entered += len(jobs)
        self.waiting.append((jobs, on_reports))
        if not self.held:
            self.run()

    def run(self) -> None:
        """Answer everything that waits."""
        waiting, self.waiting = self.waiting, []
        for jobs, on_reports in waiting:
            on_reports(0, [self.answer(job) for job in jobs])


class MemoryWorld:
    """One worker on a shared broker; all are one process unless a test says more."""

    incarnation = bytes(16)

    def __init__(self, broker: MemoryBroker) -> None:
        self.broker = broker
        self.settings = LaneSettings(
            window_requests=1000, window_bytes=1 << 20, max_result_bytes=1 << 16,
            batch_bytes=1 << 18, commit_requests=50, commit_bytes=1 << 16,
            most_floor_s=0.0,
        )  # fmt: skip
        self.sandbox = FakeSandbox()
        self.prover = MemoryReader(broker)
        self.process_key = Ed25519PrivateKey.generate()
        self.certificate = certify(public_bytes(self.process_key), FLEET, 1)
        self.replay_budget = ReplayBudget(1 << 20)
        self.view = ControlView(public_bytes(OPERATOR))
        orders = Orders(self.view, OPERATOR, 1)
        self.view.apply(0, 1, orders.genesis("d", "c1", AUDIENCE))
        fleet = orders.enrol(KeyPurpose.FLEET, public_bytes(FLEET), "fleet")
        self.view.apply(1, 1, fleet)
        scope = Scope(frozenset({"tests"}), AUDIENCE)
        self.keys = KeySet((secret_key(SECRET, scope),))
        self._context: AdmissionContext | None = None
        self.states: list[str] = []
        self.seeks: list[int] = []
        self.tallies: list[Tally] = []
        self.inline: dict[bytes, int] = {}

    @property
    def basis(self) -> MemoryWorld:
        """All parts in one."""
        return self

    modules = news = basis

    def expected(self, partition: int) -> Expected:
        """What the log must be."""
        return Expected(
            REQUESTS, RESULTS, AUDIT, partition, "c1", public_bytes(OPERATOR),
            self.believe, DEPLOYMENT, LEAST_HORIZON_MS, self.broker.now_ms,
            self.view.resumes, self.incarnation,
        )  # fmt: skip

    def believe(self, seal: Seal) -> None:
        """Only enrolled fleet keys."""
        if not self.view.fleet_key_valid(seal.fleet_key, seal.control_offset):
            message = "fleet key"
            raise IntegrityError(message)

    def reader(self) -> MemoryReader:
        """A reader."""
        return MemoryReader(self.broker)

    def writer(self, partition: int, batch_bytes: int) -> MemoryWriter:
        """A writer."""
        del batch_bytes
        return MemoryWriter(self.broker, RESULTS, AUDIT, partition)

    def opening(self, term: int, head: LaneHead) -> LaneAcquired:
        """A term's first leaf."""
        digests, certificate = self.context().digests, self.certificate
        return LaneAcquired(
            0, ZERO32, term, head.lane_time, head.next, 1000,
            certificate.process_key, certificate.fleet_key, certificate.certified_ms,
            certificate.certificate, self.incarnation, "host-0", "group", "0", "engine",
            ZERO32, LIMITS, [], [], digests.control_offset, digests.control_head,
            digests.policy_s256, digests.keys_s256,
        )  # fmt: skip

    async def hold_cluster(self) -> None:
        """There is but one."""

    def identity(
        self, partition: int, log_id: bytes, term: int, max_result_bytes: int
    ) -> LaneIdentity:
        """A lane's constants."""
        return LaneIdentity(
            REQUESTS, partition, log_id, term, self.certificate, "engine",
            encode_result, max_result_bytes, LEAST_HORIZON_MS,
        )  # fmt: skip

    def context(self) -> AdmissionContext:
        """What decisions rest on."""
        if self._context is None:
            policy = Policy.parse(b"")
            self._context = AdmissionContext(
                self.keys, TokenProfile(), policy, DenyList.of(self.view.denied),
                self.view, Ceilings(LIMITS, 1 << 20, HARD, 1 << 22, 1 << 15),
                ContextDigests(
                    self.view.next_offset, self.view.head, policy.s256,
                    self.keys.digest,
                ),
            )  # fmt: skip
        return self._context

    def refresh_keys(self, context: AdmissionContext) -> None:
        """There is nowhere to look."""

    def control(self, value: bytes) -> None:
        """Say something as an operator."""
        self.view.apply(self.view.next_offset, 1, value)
        self._context = None

    def now_ms(self) -> int:
        """The broker's clock is ours."""
        return self.broker.now_ms

    async def confirm_view(self) -> None:
        """It is always at the end."""

    def hold_inline(self, s256: bytes, module: bytes) -> None:
        """Count a hold."""
        del module
        self.inline[s256] = self.inline.get(s256, 0) + 1

    def release_inline(self, s256: bytes) -> None:
        """Count it off."""
        self.inline[s256] -= 1

    def seek(self, partition: int, offset: int) -> None:
        """Remember where the lane wants to read."""
        del partition
        self.seeks.append(offset)

    def committed(self, partition: int, tally: Tally, seconds: float) -> None:
        """Remember what was counted."""
        del partition, seconds
        self.tallies.append(tally)

    def appended(self, appended_ms: int, asked_ms: int) -> None:
        """There is one clock."""

    def gave_up(self, lane: Lane, error: Exception) -> None:
        """Nothing to count."""

    def changed(self, lane: Lane) -> None:
        """Remember the state."""
        self.states.append(lane.state)

    def failed(self, lane: Lane, error: BaseException) -> None:
        """Nothing to end."""


def first_leaf(start: int = 0) -> bytes:
    """Give the operator's genesis of the tests' log."""
    return signed(
        Genesis(
            0, ZERO32, LOG_ID, "c1", REQUESTS, RESULTS, AUDIT, "wasm.modules",
            "wasm.control", "wasm.checkpoints", 0, 1, start, public_bytes(OPERATOR),
            ZERO32, None, 1,
        ),
        OPERATOR,
    )  # fmt: skip


def begun_broker() -> MemoryBroker:
    """Give a broker after the ceremony."""
    broker = MemoryBroker()
    broker.append(AUDIT, 0, first_leaf())
    return broker


SIGNER = RequestSigner.from_secret(
    SECRET, issuer="tests", subject="agent-7", audience=AUDIENCE
)


def authorization(
    broker: MemoryBroker, value: bytes, jti: str | None = None
) -> list[tuple[str, bytes]]:
    """Give the header that signs this value now."""
    token = SIGNER.sign(REQUESTS, 0, value, now_s=broker.now_ms // 1000, jti=jti)
    return [("authorization", b"Bearer " + token)]
