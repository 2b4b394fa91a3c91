"""Parts of a worker that need no broker."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from stream_executor.auth.policy import Policy
from stream_executor.kafka.connection import KafkaConnection
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
