"""What decisions rest on is one value, and stays while a part cannot be read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stream_executor.audit.signing import public_bytes
from stream_executor.model.errors import ConfigError
from stream_executor.modules.orders import Orders
from stream_executor.modules.view import ControlView
from stream_executor.services.decision_basis import DecisionBasis
from stream_executor.services.worker_settings import Ceilings, TokenRules

if TYPE_CHECKING:
    from pathlib import Path

OPERATOR = Ed25519PrivateKey.generate()


async def test_a_reload_with_the_policy_away_keeps_the_old_one(tmp_path: Path) -> None:
    """SIGHUP while somebody has the file away: nothing changes, nobody dies."""
    path = tmp_path / "policy.toml"
    path.write_text("")
    view = ControlView(public_bytes(OPERATOR))
    view.apply(0, 1, Orders(view, OPERATOR, 1).genesis("d", "c", "an-audience"))
    settings = SimpleNamespace(
        policy_path=str(path),
        tokens=TokenRules(900, 300, None, ("tests",), None, None, 300),
        secrets=SimpleNamespace(jwt_secret=bytes(range(40)), jwt_secret_previous=None),
        ceilings=Ceilings(*([1] * 12)),
        result_encoding="json",
    )
    follower = SimpleNamespace(view=view)
    basis = DecisionBasis(cast("Any", settings), cast("Any", follower))
    await basis.load_keys()
    assert basis.audience == "an-audience"
    before = basis.context()
    assert basis.context() is before

    path.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        await basis.reload()
    path.write_text("not TOML [")
    with pytest.raises(ConfigError):
        await basis.reload()
    assert basis.context() is before

    path.write_text("")
    await basis.reload()
    after = basis.context()
    assert after is not before
    assert after.policy is not before.policy
