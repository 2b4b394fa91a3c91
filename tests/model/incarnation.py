"""One worker incarnation of the model: the real lane, every port behind a passage."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, cast

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stream_executor.audit.signing import certify, public_bytes
from stream_executor.auth.deny import DenyList
from stream_executor.auth.keys import KeySet, Scope, secret_key
from stream_executor.auth.policy import Policy
from stream_executor.auth.replay import ReplayBudget
from stream_executor.auth.token import TokenProfile
from stream_executor.lane.admission import AdmissionContext, Ceilings
from stream_executor.lane.damage import DamagedError
from stream_executor.lane.world import LaneSettings
from stream_executor.model.audit import Certificate, ContextDigests
from stream_executor.model.control import DenySubject, KeyPurpose
from stream_executor.model.request import ModuleName
from stream_executor.modules.orders import Orders
from stream_executor.modules.view import ControlView
from tests.lane_world import (
    AUDIENCE,
    AUDIT,
    FLEET,
    HARD,
    LIMITS,
    MODULE,
    OPERATOR,
    RESULTS,
    SECRET,
    FakeSandbox,
    MemoryWorld,
)
from tests.memory_log import MemoryReader, MemoryWriter
from tests.model.oracle import Control
from tests.model.signatures import NotedKey

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream_executor.lane.audit_log import Expected
    from stream_executor.lane.conclusion import Tally
    from stream_executor.lane.lane import Lane
    from tests.memory_log import MemoryBroker
    from tests.model.damage import Damages
    from tests.model.effects import Effects

BANNED = "agent-9"
SETTINGS = LaneSettings(
    window_requests=1000, window_bytes=1 << 20, max_result_bytes=1 << 16,
    batch_bytes=1 << 18, commit_requests=3, commit_bytes=1 << 16, most_floor_s=0.0,
)  # fmt: skip
_INCARNATION_KEYS = 16


class Stage(NamedTuple):
    """What is known once so much of the control log has been read."""

    view: ControlView
    context: AdmissionContext
    says: Control


@cache
def control_log() -> tuple[bytes, ...]:
    """Give everything that operators ever say; the first two records begin it."""
    says: list[Callable[[Orders], bytes]] = [
        lambda orders: orders.genesis("d", "c1", AUDIENCE),
        lambda orders: orders.enrol(KeyPurpose.FLEET, public_bytes(FLEET), "fleet"),
        lambda orders: orders.publish(ModuleName("late", "1"), MODULE, 4, 0),
        lambda orders: orders.deny(DenySubject.SUB, BANNED, "test"),
        lambda orders: orders.publish(ModuleName("late", "2"), MODULE, 4, 0),
        lambda orders: orders.allow(DenySubject.SUB, BANNED),
    ]
    view, values = ControlView(public_bytes(OPERATOR)), []
    for offset, say in enumerate(says):
        values.append(say(Orders(view, OPERATOR, 1)))
        view.apply(offset, 1, values[-1])
    return tuple(values)


@cache
def stages() -> dict[int, Stage]:
    """Give control offset → what is known once so much has been read."""
    keys = KeySet((secret_key(SECRET, Scope(frozenset({"tests"}), AUDIENCE)),))
    policy = Policy.parse(b"")
    found = {}
    for end in range(2, len(control_log()) + 1):
        view = ControlView(public_bytes(OPERATOR))
        for offset, value in enumerate(control_log()[:end]):
            view.apply(offset, 1, value)
        digests = ContextDigests(view.next_offset, view.head, policy.s256, keys.digest)
        context = AdmissionContext(
            keys, TokenProfile(), policy, DenyList.of(view.denied), view,
            Ceilings(LIMITS, 1 << 20, HARD, 1 << 22, 1 << 15), digests,
        )  # fmt: skip
        names = frozenset(
            f"late@{v}" for v in "12" if view.resolve(ModuleName("late", v))
        )
        says = Control(view.denied.sub, names)
        found[view.next_offset] = Stage(view, context, says)
    return found


@cache
def process_key(number: int) -> tuple[NotedKey, Certificate]:
    """Give one of a few process keys and its certificate: making them costs more."""
    seed = hashlib.sha256(b"process %d" % number).digest()
    key = Ed25519PrivateKey.from_private_bytes(seed)
    return NotedKey(key), certify(public_bytes(key), FLEET, 1)


class Incarnation(MemoryWorld):
    """A world whose every effect passes ``effects``, and whose control view lags.

    Args:
        broker: the shared log.
        control_end: gives how far the control log goes now.
        effects: this incarnation's passage.
        number: which one this is; names its process key.
        damages: what was done to the log, and ordered.
    """

    def __init__(
        self,
        broker: MemoryBroker,
        control_end: Callable[[], int],
        effects: Effects,
        number: int,
        damages: Damages,
    ) -> None:
        self.broker = broker
        self.damages = damages
        self.damaged: DamagedError | None = None
        self.effects = effects
        self.settings = SETTINGS
        self.sandbox = FakeSandbox(held=True)
        self.prover = MemoryReader(broker, effects)
        key, self.certificate = process_key(number % _INCARNATION_KEYS)
        self.incarnation = number.to_bytes(16, "big")
        self.process_key = cast("Ed25519PrivateKey", key)
        self.replay_budget = ReplayBudget(1 << 20)
        self.known = min(stages())
        self.states: list[str] = []
        self.seeks: list[int] = []
        self.tallies: list[Tally] = []
        self.inline: dict[bytes, int] = {}
        self.errors: list[BaseException] = []
        self._control_end = control_end

    @property
    def view(self) -> ControlView:
        """What has been read of the control log."""
        return stages()[self.known].view

    @view.setter
    def view(self, view: ControlView) -> None:
        raise NotImplementedError

    def context(self) -> AdmissionContext:
        """What decisions rest on."""
        return stages()[self.known].context

    async def confirm_view(self) -> None:
        """Read the control log to its end."""
        await self.effects("2 recover: confirm the control view")
        self.known = self._control_end()

    def reader(self) -> MemoryReader:
        """A reader."""
        return MemoryReader(self.broker, self.effects)

    def writer(self, partition: int, batch_bytes: int) -> MemoryWriter:
        """A writer."""
        del batch_bytes
        return MemoryWriter(
            self.broker, RESULTS, AUDIT, partition, passage=self.effects
        )

    def seek(self, partition: int, offset: int) -> None:
        """Remember where the lane wants to read."""
        super().seek(partition, offset)
        self.effects.strike("4 seek")

    def committed(self, partition: int, tally: Tally, seconds: float) -> None:
        """Remember what was counted."""
        super().committed(partition, tally, seconds)
        self.effects.strike("11 count")

    def carry(self, requests: int) -> None:
        """Let a transaction carry so many requests."""
        self.settings = msgspec.structs.replace(SETTINGS, commit_requests=requests)

    def expected(self, partition: int) -> Expected:
        """What the log must be, and what was ordered about it."""
        expected = super().expected(partition)
        return msgspec.structs.replace(expected, resumes=self.damages.resumes)

    def failed(self, lane: Lane, error: BaseException) -> None:
        """Remember it: nothing but damage may halt a lane here."""
        del lane
        if isinstance(error, DamagedError) and self.damages.halting:
            self.damaged = error
        else:
            self.errors.append(error)
