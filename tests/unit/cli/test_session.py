"""What a command line keeps to itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import structlog

from stream_executor.cli import session

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("debug", [False, True])
def test_the_sandboxs_events_never_go_to_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, debug: bool
) -> None:
    monkeypatch.setattr(session, "debug", debug)
    log = structlog.get_logger()
    session.silence_sandbox()
    log.warning("sandbox.child_ended")
    said = capsys.readouterr()
    assert (said.out, "sandbox.child_ended" in said.err) == ("", debug)
