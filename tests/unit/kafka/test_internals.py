"""What we rely on behind aiokafka's names is checked at start."""

from __future__ import annotations

import subprocess
import sys

import pytest
from aiokafka import conn, errors
from aiokafka.producer import sender

from stream_executor.kafka.internals import (
    probe,
    refuse_challenges,
    shorten_marker_wait,
)
from stream_executor.model.errors import ConfigError


def test_the_installed_aiokafka_is_the_one_we_know() -> None:
    probe()


def test_the_marker_wait_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "BACKOFF_OVERRIDE", 0.02)
    shorten_marker_wait(0.000_5)
    assert sender.BACKOFF_OVERRIDE == 0.000_5


def test_an_aiokafka_that_has_moved_things_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(sender, "BACKOFF_OVERRIDE")
    with pytest.raises(ConfigError, match=r"aiokafka>=0\.14"):
        shorten_marker_wait(0.001)


async def test_a_challenge_to_a_token_is_a_refusal() -> None:
    """RFC 7628, 3.2.2; aiokafka takes whatever comes back for success."""

    class Provider:
        async def token(self) -> str:
            return "t"

    refuse_challenges()
    authenticator = conn.OAuthAuthenticator(sasl_oauth_token_provider=Provider())
    assert await authenticator.step(None) == (b"n,,\x01auth=Bearer t\x01\x01", True)
    with pytest.raises(errors.SaslAuthenticationFailed, match="invalid_token"):
        await authenticator.step(b'{"status":"invalid_token"}')
    assert await authenticator.step(b"") is None


def test_a_python_without_assertions_is_refused() -> None:
    """aiokafka guards its transactions by them."""
    program = (
        "from stream_executor.kafka.internals import probe\n"
        "from stream_executor.model.errors import ConfigError\n"
        "try:\n    probe()\nexcept ConfigError:\n    raise SystemExit(4)\n"
    )
    done = subprocess.run([sys.executable, "-O", "-c", program], check=False)
    assert done.returncode == 4
