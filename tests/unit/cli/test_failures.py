"""Every exception of ours leaves with its own name, exit code and remedy."""

from __future__ import annotations

import pytest

from stream_executor.cli import main as entry
from stream_executor.cli.failures import EXITS, KINDS, CommandError, Exit, translate
from stream_executor.client.errors import (
    ArgumentError,
    OutcomeUnknownError,
    ResultTimeoutError,
)
from stream_executor.client.submission import Submission
from stream_executor.embedded import EmbeddedKafkaError
from stream_executor.model import errors
from stream_executor.modules.orders import OrderRefusedError
from stream_executor.settings import SettingsError

SUBMISSION = Submission("wasm.requests", 1, 7, "r-1")


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (CommandError("USAGE", "x"), "USAGE", Exit.USAGE),
        (ArgumentError("x"), "REFUSED", Exit.USAGE),
        (OrderRefusedError("x"), "REFUSED", Exit.USAGE),
        (errors.MalformedError("x"), "REFUSED", Exit.USAGE),
        (errors.ConfigError("x"), "CONFIG", Exit.CONFIGURATION),
        (errors.ConfigError("topics are not as they must be:\ny"), "TOPICS", 4),
        (SettingsError(["a", "b"]), "CONFIG", Exit.CONFIGURATION),
        (errors.BrokerRefusedError("x", "not_authorised"), "KAFKA_REFUSED", 4),
        (errors.BrokerRefusedError("x", "unknown_topic"), "TOPICS", 4),
        (EmbeddedKafkaError("x", remedy="y"), "EMBEDDED_KAFKA", 4),
        (errors.UnavailableError("x"), "UNAVAILABLE", Exit.UNKNOWN),
        (errors.TransientError("x"), "UNAVAILABLE", Exit.UNKNOWN),
        (errors.IndefiniteError("x"), "OUTCOME_UNKNOWN", Exit.UNKNOWN),
        (OutcomeUnknownError("x", ["r-1"]), "OUTCOME_UNKNOWN", Exit.UNKNOWN),
        (ResultTimeoutError(SUBMISSION, 1.0), "TIMEOUT", Exit.UNKNOWN),
        (errors.IntegrityError("x"), "INTEGRITY", Exit.FINDING),
        (errors.MisuseError("x"), "BUG", Exit.BUG),
        (ZeroDivisionError("x"), "BUG", Exit.BUG),
    ],
)
def test_each_exception_has_its_row(error: Exception, kind: str, code: int) -> None:
    failure = translate(error)
    assert (failure.kind, failure.exit) == (kind, code)
    assert str(failure).startswith(f"error[{kind}]: ")
    assert str(failure).splitlines()[-1].startswith("  try: ")


def test_what_to_try_names_the_request() -> None:
    assert translate(ResultTimeoutError(SUBMISSION, 1.0)).remedy.endswith(
        "request show wasm.requests/1/7"
    )
    assert translate(OutcomeUnknownError("x", ["r-1"])).remedy.endswith("show r-1")


def test_several_problems_are_all_named() -> None:
    shown = str(translate(SettingsError(["A is wrong", "B is wrong"])))
    assert shown.splitlines() == [
        "error[CONFIG]: 2 settings are refused",
        "  cause: A is wrong",
        "         B is wrong",
        "  try: wasm-executor --test-config",
    ]


def test_every_kind_exits_by_the_documented_table() -> None:
    assert set(EXITS) == set(Exit)
    assert {kind.exit for kind in KINDS.values()} <= set(Exit)


def test_a_bug_exits_70_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from stream_executor.cli import explain  # noqa: PLC0415

    def broken() -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(explain, "_entries", broken)
    assert entry.main(["explain"]) == 70
    shown = capsys.readouterr().err
    assert "error[BUG]: ZeroDivisionError: oops" in shown
    assert "Traceback" not in shown


def test_ctrl_c_exits_130(monkeypatch: pytest.MonkeyPatch) -> None:
    from stream_executor.cli import explain  # noqa: PLC0415

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(explain, "_entries", interrupted)
    assert entry.main(["explain"]) == 130
