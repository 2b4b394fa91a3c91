"""A module that the brokers do not give now is waited for; no request fails for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from stream_executor.model.errors import (
    BrokerRefusedError,
    ExecutorError,
    UnavailableError,
)
from stream_executor.services import module_supply
from stream_executor.services.module_supply import ModuleSupply


async def test_a_module_that_cannot_be_fetched_now_fails_no_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Lanes that wait for it begin anew; it is tried until it comes."""
    monkeypatch.setattr(module_supply, "_AGAIN_S", 0.0)
    troubles: list[ExecutorError] = [
        UnavailableError("no broker"),
        BrokerRefusedError("deleted", "unknown_topic"),
    ]
    told: list[tuple[bytes, ExecutorError]] = []

    class Modules:
        async def find(self, _s256: bytes) -> bytes:
            if troubles:
                raise troubles.pop(0)
            return b"module"

    intake = SimpleNamespace(do_without=lambda *given: told.append(given))
    lane = SimpleNamespace(intake=intake)
    supply = ModuleSupply(cast("Any", Modules()), cast("Any", {0: lane}))
    assert await supply.load(b"s256") == b"module"
    assert [type(error) for _, error in told] == [UnavailableError, BrokerRefusedError]

    troubles.append(BrokerRefusedError("beyond the end", "other"))
    with pytest.raises(BrokerRefusedError):  # trying again cannot help
        await supply.load(b"s256")


async def test_an_inline_module_is_kept_until_its_last_request_is_done() -> None:
    class Modules:
        async def find(self, _s256: bytes) -> None:
            return None

    supply = ModuleSupply(cast("Any", Modules()), {})
    for _ in range(2):
        supply.hold_inline(b"s256", b"module")
    supply.release_inline(b"s256")
    assert await supply.load(b"s256") == b"module"
    supply.release_inline(b"s256")
    with pytest.raises(LookupError):
        await supply.load(b"s256")
