"""Parts of a worker that need no broker."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from structlog.testing import capture_logs

from stream_executor.auth.policy import Policy
from stream_executor.kafka.connection import KafkaConnection
from stream_executor.kafka.topics import TopicNames
from stream_executor.model.conditions import Condition
from stream_executor.model.errors import (
    BrokerRefusedError,
    ExecutorError,
    UnavailableError,
)
from stream_executor.services import worker_runtime
from stream_executor.services.surroundings import Surroundings
from stream_executor.services.worker_runtime import WorkerRuntime

if TYPE_CHECKING:
    from pathlib import Path


def runtime(**parts: object) -> WorkerRuntime:
    """A worker that has only these parts."""
    made = object.__new__(WorkerRuntime)
    vars(made).update(parts)
    return made


async def test_a_reload_with_the_policy_away_keeps_the_old_one(tmp_path: Path) -> None:
    """SIGHUP while somebody has the file away: nothing changes, nobody dies."""
    path = tmp_path / "policy.toml"
    before, context = Policy.parse(b""), object()
    settings = SimpleNamespace(policy_path=str(path))
    worker = runtime(
        _orders=SimpleNamespace(settings=settings),
        _connection=KafkaConnection(bootstrap_servers="nowhere:1"),
        _keys=None,
        _policy=before,
        _context=context,
    )
    await worker._reload()
    assert worker._policy is before
    assert cast("Any", worker._context) is context

    path.write_text("not TOML [")
    await worker._reload()
    assert worker._policy is before

    path.write_text("")
    await worker._reload()
    assert worker._policy is not before
    assert worker._context is None


async def test_a_module_that_cannot_be_fetched_now_fails_no_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Lanes that wait for it begin anew; it is tried until it comes."""
    monkeypatch.setattr(worker_runtime, "_MODULE_AGAIN_S", 0.0)
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

    lane = SimpleNamespace(do_without=lambda *given: told.append(given))
    worker = runtime(_inline={}, _modules=Modules(), _lanes={0: lane})
    assert await worker._load_module(b"s256") == b"module"
    assert [type(error) for _, error in told] == [UnavailableError, BrokerRefusedError]

    troubles.append(BrokerRefusedError("beyond the end", "other"))
    with pytest.raises(BrokerRefusedError):  # trying again cannot help
        await worker._load_module(b"s256")


async def test_a_start_waits_for_the_world_as_long_as_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An hour without brokers: every 5 s a try, one line when it begins and ends."""
    waited_s: list[float] = []

    async def sleep(seconds: float) -> None:
        waited_s.append(seconds)

    async def step() -> None:
        if sum(waited_s) < 3_600:
            error = UnavailableError("nobody answers")
            error.condition = Condition.BROKERS_AWAY
            raise error

    monkeypatch.setattr("stream_executor.services.worker_runtime.asyncio.sleep", sleep)
    around = Surroundings(KafkaConnection(bootstrap_servers="x:1"), TopicNames(), print)
    worker = runtime(_note="", _waits=False, _around=around)
    with capture_logs() as lines:
        await worker._retried(step)
    assert max(waited_s) == 5.0
    assert [line["event"] for line in lines] == [
        "worker.waiting", "condition.begun", "condition.ended",
    ]  # fmt: skip
    assert around.conditions.troubles == ()
