"""A revoked module is refused by whatever way it is named; one too large, too."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from stream_executor.audit.digests import Salter
from stream_executor.auth.replay import ReplayWindow
from stream_executor.auth.token import Place
from stream_executor.lane.admission import REVOKED, Admission, Verified
from stream_executor.lane.entries import Admitted, Refused
from stream_executor.model.job import Limits
from stream_executor.model.request import (
    InlineModule,
    ModuleDigest,
    ModuleName,
)
from stream_executor.modules.orders import Orders
from tests.lane_driver import submit
from tests.lane_world import (
    DEPLOYMENT,
    HARD,
    LOG_ID,
    OPERATOR,
    REQUESTS,
    MemoryWorld,
    begun_broker,
)

if TYPE_CHECKING:
    from stream_executor.model.request import ModuleRef

WASM = b"\0asm\1\0\0\0"
S256 = sha256(WASM).digest()
NAME = ModuleName("m", "1")


class Decided:
    """Publishes, revokes, and decides single requests."""

    def __init__(self) -> None:
        self.broker = begun_broker()
        self.world = MemoryWorld(self.broker)
        self.admission = Admission(
            Place(REQUESTS, 0), Salter(DEPLOYMENT, LOG_ID),
            ReplayWindow(self.world.replay_budget, 300_000), 0,
        )  # fmt: skip

    @property
    def orders(self) -> Orders:
        """What an operator says next."""
        return Orders(self.world.view, OPERATOR, 1)

    def __call__(self, module: ModuleRef) -> Admitted | Refused | None:
        offset = submit(self.broker, module=module)
        record = self.broker.log(REQUESTS, 0)[offset]
        assert record is not None
        context = self.world.context()
        verified = self.admission.verify(record, context, self.broker.now_ms)
        assert isinstance(verified, Verified), verified
        return self.admission.place_module(verified, context, view_confirmed=True)


@pytest.mark.threat("T-24")
@pytest.mark.parametrize("way", [NAME, ModuleDigest(S256), InlineModule(WASM)])
def test_revoked_bytes_are_refused_by_name_by_digest_and_inline(way: ModuleRef) -> None:
    decide = Decided()
    decide.world.control(decide.orders.publish(NAME, S256, len(WASM), 0))
    assert isinstance(decide(way), Admitted)

    decide.world.control(decide.orders.revoke(S256, "malicious"))

    refused = decide(way)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.message) == ("module_not_found", REVOKED)


@pytest.mark.threat("T-24")
def test_bytes_revoked_in_advance_are_refused_once_published_or_sent() -> None:
    decide = Decided()
    decide.world.control(decide.orders.revoke(S256, "seen elsewhere"))
    decide.world.control(decide.orders.publish(NAME, S256, len(WASM), 0))
    for way in (NAME, InlineModule(WASM)):
        refused = decide(way)
        assert isinstance(refused, Refused)
        assert refused.code == "module_not_found"


def test_a_module_above_the_ceiling_runs_with_a_grant_only_up_to_the_hard_one() -> None:
    decide = Decided()
    world = decide.world
    grant = Limits(10**15, 1, 9_000)
    for name, size, given in (
        ("large", 2 << 20, None), ("granted", 2 << 20, grant), ("huge", 5 << 20, grant),
    ):  # fmt: skip
        digest = sha256(name.encode()).digest()
        world.control(
            decide.orders.publish(ModuleName(name, "1"), digest, size, 0, grant=given)
        )
    for name in ("large", "huge"):
        refused = decide(ModuleName(name, "1"))
        assert isinstance(refused, Refused)
        assert refused.code == "module_too_large"
    admitted = decide(ModuleName("granted", "1"))
    assert isinstance(admitted, Admitted)
    limits = admitted.job.limits
    ceilings = world.context().ceilings.limits
    assert limits == Limits(HARD.fuel_units, ceilings.memory_bytes, 9_000)
