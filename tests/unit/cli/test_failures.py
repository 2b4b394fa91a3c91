"""Every exception of ours leaves with its own name, exit code and remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stream_executor.audit.project import utc
from stream_executor.cli import main as entry
from stream_executor.cli.audit import _leaf_line
from stream_executor.cli.failures import EXITS, KINDS, CommandError, Exit, translate
from stream_executor.cli.results import print_result
from stream_executor.client.errors import (
    ArgumentError,
    OutcomeUnknownError,
    ResultTimeoutError,
)
from stream_executor.client.result import Result
from stream_executor.client.submission import Submission
from stream_executor.embedded import EmbeddedKafkaError
from stream_executor.model import errors
from stream_executor.model.result import ExecutionResult
from stream_executor.modules.orders import OrderRefusedError
from stream_executor.settings import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

SUBMISSION = Submission("wasm.requests", 1, 7, "r-1")


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (CommandError("USAGE", "x"), "USAGE", Exit.USAGE),
        (ArgumentError("x"), "REFUSED", Exit.USAGE),
        (OrderRefusedError("x"), "REFUSED", Exit.USAGE),
        (errors.MalformedError("x"), "REFUSED", Exit.USAGE),
        (errors.ConfigError("x"), "CONFIG", Exit.CONFIGURATION),
        (errors.TopicDriftError("topics are not as they must be:\ny"), "TOPICS", 4),
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


def test_what_to_try_is_the_help_of_the_subcommand(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert entry.main(["submit", "m@1", "--function", "f", "--arg", "5"]) == Exit.USAGE
    shown = capsys.readouterr().err
    assert "like i64:5" in shown
    assert shown.endswith("  try: wasm-executor submit --help\n")
    assert entry.main(["module", "new", "WRONG"]) == Exit.USAGE
    assert capsys.readouterr().err.endswith("try: wasm-executor module new --help\n")


def test_credentials_that_are_gone_tell_how_to_come_by_new_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "credentials.json"
    command = ["submit", "m@1", "--credentials", str(path)]
    assert entry.main(command) == Exit.CONFIGURATION
    shown = capsys.readouterr().err
    assert f"there is no credentials file {path}" in shown
    assert "without --data" in shown
    assert "try: start `wasm-executor dev` and export EXECUTOR_CREDENTIALS" in shown
    path.write_text("[]")
    assert entry.main(command) == Exit.CONFIGURATION
    shown = capsys.readouterr().err
    assert f"{path} is no credentials file" in shown
    assert "export EXECUTOR_CREDENTIALS" in shown


def test_a_module_that_is_not_there_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    record = ExecutionResult(
        "t", 0, 0, 1, None, "REJECTED", "module_not_found", "no such published module",
        None, None, b"", b"", False, False, None, 0, True, 0, 0, None, None, None, b"",
        0,
    )  # fmt: skip
    assert print_result(Result(record), "m@1", as_json=False) == Exit.UNSUCCESSFUL
    shown = capsys.readouterr().err
    assert "no such published module: m@1 (" in shown
    assert shown.endswith("  try: wasm-executor module list\n")


def test_before_its_first_request_a_lane_has_no_time() -> None:
    row = {"time": utc(0), "lane_time": 0, "partition": 1, "seq": 0, "kind": "seal"}
    assert _leaf_line(row) == "-  1/0  seal"
    row |= {"time": utc(1000), "lane_time": 1000}
    assert _leaf_line(row).startswith("1970-01-01T00:00:01.000Z  1/0")


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
