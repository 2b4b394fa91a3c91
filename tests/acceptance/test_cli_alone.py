"""The installed command without any broker."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import stream_executor
from stream_executor.cli.failures import EXITS, KINDS
from stream_executor.model.codes import CODES, Code, Status
from stream_executor.sandbox.artefact_folder import ArtefactFolder, Environments
from stream_executor.sandbox.compile import Refusal
from tests.acceptance.cli_runner import COMMAND

if TYPE_CHECKING:
    from tests.acceptance.cli_runner import Cli

EXAMPLES = Path(__file__).parents[2] / "examples" / "modules"
ADD = str(EXAMPLES / "add.wat")
GOOD_SECRET = "uJ3kq9ZtX0wQpLr7VbNc5MfHs2YdGa8eTiOo1K4E"
TRAPS = '(module (func (export "f") unreachable))'


def test_version_is_the_distributions_and_comes_quickly(cli: Cli) -> None:
    began = time.process_time()
    ran = cli("--version")
    assert ran.out == f"wasm-executor {stream_executor.__version__}\n"
    assert stream_executor.__version__ == importlib.metadata.version("stream-executor")
    assert ran.code == 0
    assert time.process_time() - began < 1


def test_version_imports_nothing_heavy() -> None:
    script = (
        "import sys; from stream_executor.cli.main import main; main(['--version']); "
        "heavy = {'typer', 'aiokafka', 'pydantic', 'wasmtime', 'msgspec', 'rich'}; "
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    python = COMMAND.with_name("python")
    ran = subprocess.run([python, "-c", script], capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_every_command_has_help(cli: Cli) -> None:
    for command in (
        "", "dev", "demo", "init", "run", "doctor", "status", "lane list",
        "topics plan", "topics apply", "topics check", "topics acls", "keys generate",
        "keys jwks", "module new", "module publish", "module list", "module show",
        "module revoke", "cache list", "cache forget", "submit", "invoke",
        "backup now", "backup verify", "backup restore",
        "results follow", "token issue", "token inspect",
        "request show", "audit verify", "audit tail", "audit replay", "explain",
    ):  # fmt: skip
        ran = cli(*command.split(), "--help")
        assert ran.code == 0, (command, ran.err)
        assert "Usage: wasm-executor" in ran.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["submt"], "Did you mean 'submit'?"),
        (["invoke", ADD, "--functon", "add"], "--function"),
        (["topics"], "a command is missing"),
        (["topics", "plan", "--format", "yaml"], "kafka-topics"),
        (["explain", "fuel_exhaustd"], "did you mean 'fuel_exhausted'"),
        (["submit"], "MODULE"),
        (["invoke", ADD, "--function", "add", "--arg", "2"], "TYPE:VALUE"),
        (["invoke", ADD, "--function", "add", "--arg", "i32:9999999999"], "i32"),
        (["invoke", ADD, "--function", "add", "--input", ADD], "exactly one"),
        (["invoke", "nowhere.wasm"], "no such file"),
        (["invoke", "-"], "no WebAssembly"),
        (["audit", "replay", "--since", "yesterday", "--operator-key", "00"], "30m"),
        (["keys", "generate", "--out", "k", "--alg", "none"], "EdDSA"),
        (["keys", "jwks", "nowhere.pem"], "no such file"),
        (["module", "new", "add", "--lang", "cobol"], "cobol"),
        (["-X", "a"], "No such option"),
        (["submit", "add@1", "-X", "nonsense"], "NAME=VALUE"),
    ],
)
def test_usage_errors_exit_2_or_4_and_say_what_to_try(
    cli: Cli, arguments: list[str], words: str
) -> None:
    ran = cli(*arguments, stdin=b"")
    assert ran.code in {2, 4}, ran
    assert words in ran.err
    assert ran.err.splitlines()[-1].startswith("  try: ") or "error[" in ran.err
    assert "error[" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    "name",
    [
        *(code.value for code in CODES),
        *(status.value for status in Status),
        *(str(int(exit_code)) for exit_code in EXITS),
        *KINDS,
    ],
)
def test_everything_that_we_say_is_explained(name: str) -> None:
    """In this process: eighty starts of an interpreter would prove no more."""
    from stream_executor.cli.main import main  # noqa: PLC0415

    assert main(["explain", name]) == 0


def test_explain_prints_json_and_lists_all(cli: Cli) -> None:
    one = cli("explain", "auth_replayed", "--json").object
    assert one["schema"] == "wasm-executor/explanation/v1"
    assert (one["name"], one["status"]) == ("auth_replayed", "REJECTED")
    names = {entry["name"] for entry in cli("explain", "--json").objects}
    assert {"timeout", "TIMEOUT", "FAILED", "70", "USAGE"} <= names
    assert cli("explain", "error[CONFIG]:").code == 0


def test_a_reader_that_goes_away_is_no_error(cli: Cli) -> None:
    ran = subprocess.run(  # noqa: S602 - a shell's pipe is the point
        f"{COMMAND} explain --json | head -n 1; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        env=cli.variables,
        cwd=cli.folder,
        check=False,
    )
    assert ran.stdout.splitlines()[-1] == b"0"
    assert ran.stderr == b""


def test_the_configuration_is_checked_without_a_broker(cli: Cli) -> None:
    cli.environment |= {
        "JWT_SECRET": GOOD_SECRET,
        "MAX_FUEL": "10000000",
        "KAFKA_BOOTSTRAP_SERVERS": "nowhere.invalid:9092",
    }
    ran = cli("--test-config")
    assert ran.code == 0, ran.err
    assert GOOD_SECRET not in ran.out + ran.err
    lines = [line.split() for line in ran.out.splitlines()]
    assert ["MAX_FUEL", "10000000", "environment"] in lines
    assert ["bootstrap.servers", "nowhere.invalid:9092", "environment"] in lines
    shown = cli("--test-config", "--json").object
    assert shown["schema"] == "wasm-executor/configuration/v1"
    assert shown["ok"] is True


def test_every_problem_of_a_configuration_is_named_at_once(cli: Cli) -> None:
    cli.environment |= {
        "JWT_SECRET": "short",
        "MAX_FUEL": "0",
        "WASM_EXECUTOR_WORKRES": "2",
    }
    ran = cli("--test-config")
    assert ran.code == 4
    assert ran.out == ""
    assert "error[CONFIG]: 3 settings are refused" in ran.err
    for name in ("JWT_SECRET", "MAX_FUEL", "WASM_EXECUTOR_WORKRES"):
        assert name in ran.err
    assert cli("run").code == 4


def test_an_unfinished_configuration_does_not_run(cli: Cli) -> None:
    cli.environment["JWT_SECRET"] = GOOD_SECRET
    ran = cli()
    assert ran.code == 4
    assert "WASM_EXECUTOR_FLEET_KEY" in ran.err


def test_invoke_runs_each_kind_of_module(cli: Cli) -> None:
    called = cli("invoke", ADD, "--function", "add", "--arg", "i32:2", "--arg", "i32:3")
    assert (called.code, called.out) == (0, "i32:5\n")
    upper = cli("invoke", str(EXAMPLES / "upper.wat"), "--input", "-", stdin=b"abc z{")
    assert (upper.code, upper.out) == (0, "ABC Z{")
    counted = cli(
        "invoke", str(EXAMPLES / "count.wat"), "--stdin", "-", stdin=b"x" * 70
    )
    assert (counted.code, counted.out) == (0, "70 bytes\n")
    assert cli("invoke", str(EXAMPLES / "count.wat")).out == "0 bytes\n"


def test_invoke_prints_the_json_of_a_result_record(cli: Cli) -> None:
    from stream_executor.wire.results import decode_result  # noqa: PLC0415

    ran = cli(
        "invoke", ADD, "--function", "add", "--arg", "i32:2", "--arg", "i32:3",
        "--request-id", "mine", "--json",
    )  # fmt: skip
    result = decode_result(ran.out.strip().encode())
    assert (result.request_id, result.status, result.topic) == (
        "mine", "SUCCEEDED", "local",
    )  # fmt: skip
    assert json.loads(ran.out)["outputs"] == [{"i32": 5}]


def test_an_unsuccessful_invocation_exits_5_and_is_explained(cli: Cli) -> None:
    module = cli.folder / "traps.wat"
    module.write_text(TRAPS)
    ran = cli("invoke", str(module), "--function", "f")
    assert ran.code == 5
    assert ran.out == ""
    assert "trap (unreachable)" in ran.err
    assert "explain trap" in ran.err
    limited = cli(
        "invoke", str(EXAMPLES / "count.wat"), "--stdin", ADD, "--fuel", "10", "--json"
    )
    assert (limited.code, limited.object["code"]) == (5, "fuel_exhausted")


def test_bad_text_is_shown_where_it_is_bad(cli: Cli) -> None:
    module = cli.folder / "bad.wat"
    module.write_text("(module (func (export) ))")
    ran = cli("invoke", str(module))
    assert ran.code == 2
    assert "error[REFUSED]" in ran.err
    assert "bad.wat" in ran.err


def test_a_new_module_runs_as_it_is(cli: Cli) -> None:
    assert cli("module", "new", "mine").out == "mine.wat\n"
    ran = cli(
        "invoke", "mine.wat", "--function", "add", "--arg", "i32:1", "--arg", "i32:1"
    )
    assert ran.out == "i32:2\n"
    again = cli("module", "new", "mine")
    assert (again.code, "exists already" in again.err) == (2, True)
    shown = cli("module", "show", "mine.wat", "--json").object
    assert shown["exports"] == ["add(i32, i32) -> (i32)"]


def test_keys_are_made_once_and_listed_without_their_private_part(cli: Cli) -> None:
    made = cli("keys", "generate", "--out", "agent.pem", "--kid", "agent-1")
    assert made.code == 0, made.err
    assert made.object["kid"] == "agent-1"
    assert (cli.folder / "agent.pem").stat().st_mode & 0o777 == 0o600
    assert cli("keys", "generate", "--out", "agent.pem").code == 4
    (cli.folder / "agent.jwk").write_text(made.out)
    listed = cli("keys", "jwks", "agent.jwk", "agent.pem", "--issuer", "me")
    keys = listed.object["keys"]
    assert [key["x"] for key in keys] == [made.object["x"]] * 2
    assert keys[0]["wx_issuers"] == ["me"]
    assert not any("d" in key for key in keys)


def test_a_key_set_that_we_print_is_one_that_workers_take(cli: Cli) -> None:
    for algorithm in ("EdDSA", "ES256", "RS256", "PS256"):
        ran = cli("keys", "generate", "--out", f"{algorithm}.pem", "--alg", algorithm)
        assert ran.code == 0, ran.err
        (cli.folder / f"{algorithm}.jwk").write_text(ran.out)
    names = [f"{name}.jwk" for name in ("EdDSA", "ES256", "RS256", "PS256")]
    (cli.folder / "jwks.json").write_text(
        cli("keys", "jwks", *names, "--issuer", "me", "--role", "Administrator").out
    )
    cli.environment["WASM_EXECUTOR_JWKS_FILE"] = str(cli.folder / "jwks.json")
    assert cli("--test-config").code == 0


def test_tokens_are_issued_and_read_without_a_broker(cli: Cli) -> None:
    (cli.folder / "credentials.json").write_text(
        json.dumps(
            {
                "schema": "wasm-executor/credentials/v1",
                "bootstrap_servers": "nowhere.invalid:1",
                "audience": "a",
                "issuer": "i",
                "subject": "s",
                "secret": GOOD_SECRET,
            }
        )
    )
    (cli.folder / "body").write_bytes(b"{}")
    issued = cli(
        "token", "issue", "--credentials", "credentials.json", "--body", "body",
        "--partition", "3",
    )  # fmt: skip
    assert issued.code == 0, issued.err
    token = issued.out.strip()
    read = cli("token", "inspect", token, "--body", "body", "--json").object
    assert read["claims"]["wx"]["partition"] == 3
    assert read["claims"]["sub"] == "s"
    assert read["findings"] == []
    (cli.folder / "body").write_bytes(b"{ }")
    other = cli("token", "inspect", "-", "--body", "body", stdin=token.encode())
    assert "finding" in other.out


def test_nobody_answers_is_could_not_tell(cli: Cli) -> None:
    ran = cli("topics", "check", "--bootstrap-server", "127.0.0.1:9")
    assert ran.code == 3
    assert "error[UNAVAILABLE]" in ran.err
    ran = cli("status", "--http", "http://127.0.0.1:9")
    assert ran.code == 3
    assert "nothing answers" in ran.err


def test_the_doctor_finds_what_is_missing_and_goes_on(cli: Cli) -> None:
    ran = cli("doctor", "--bootstrap-server", "127.0.0.1:9", "--json")
    checks = {check["id"]: check for check in ran.objects}
    assert checks["python"]["state"] == "ok"
    assert checks["engine"]["state"] == "ok"
    assert checks["hardening"]["state"] in {"ok", "warning"}
    assert checks["cache"]["state"] == "ok"
    assert checks["kafka.reachable"]["state"] == "unknown"
    assert ran.code == 3
    assert all(check["remedy"] for check in checks.values() if check["state"] != "ok")


def test_the_cache_is_listed_and_told_to_forget(cli: Cli, tmp_path: Path) -> None:
    """Without the key: files can be counted and deleted, never made."""
    environments = Environments(bytes(32), bytes(32))
    folder = ArtefactFolder(
        tmp_path / "compile-cache", bytes(32), environments, 1 << 20, 1 << 20
    )
    refusal = Refusal(Code.COMPILE_LIMIT, "too much")
    for first in (b"\xaa", b"\xbb", b"\xcc"):
        folder.write_refusal(first * 32, refusal)
    here = ("--state-dir", str(tmp_path))
    listed = cli("cache", "list", "--json", *here).objects
    assert {(one["sha256"], one["refused"]) for one in listed} == {
        (digit * 64, True) for digit in "abc"
    }
    assert cli("cache", "forget", *here).code == 2
    assert cli("cache", "forget", "aaaa", *here).code == 2
    assert cli("cache", "forget", "d" * 64, *here).code == 2
    assert cli("cache", "forget", "a" * 8, *here).out == f"{'a' * 64}\n"
    forgotten = cli("cache", "forget", "--refused", "--json", *here).object
    assert forgotten["forgotten"] == 2
    assert cli("cache", "list", "--json", *here).objects == []
    assert folder.read_refusal(b"\xaa" * 32) is None
    folder.close()


def test_debug_shows_the_traceback(cli: Cli) -> None:
    ran = cli("--debug", "explain", "nonsense")
    assert "Traceback" in ran.err
    assert ran.code == 2
