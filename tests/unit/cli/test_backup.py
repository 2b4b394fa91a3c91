"""What ``backup`` says and exits with; in this process, for speed."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from stream_executor.audit.log_file import AuditLogFile
from stream_executor.cli.main import main
from tests.acceptance.cli_runner import Ran
from tests.backups import Host, manual, set_up

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    made = set_up(tmp_path)
    monkeypatch.setenv("WASM_EXECUTOR_ENV_FILE", str(made.configuration))
    return made


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    def run(*arguments: str) -> Ran:
        code = main(arguments)
        said = capfd.readouterr()
        return Ran(code, said.out, said.err)

    return run


def test_without_a_backup_there_is_nothing_to_verify(
    cli: Callable[..., Ran], host: Host
) -> None:
    for folder in ("missing", "etc"):
        ran = cli("backup", "verify", "--backup-dir", str(host.root / folder))
        assert ran.code == 2
        assert ran.err.splitlines()[-1] == "  try: wasm-executor backup now"
    for command in ("verify", "restore"):
        named = cli("backup", command, str(host.archive))
        assert named.code == 2
        assert f"{host.archive}: no such file" in named.err


def test_a_damaged_archive_is_a_finding(cli: Callable[..., Ran], host: Host) -> None:
    archive = cli("backup", "now").out.splitlines()[0]
    good = cli("backup", "verify", "--json").object
    assert good["schema"] == "wasm-executor/backup-verification/v1"
    assert (good["verdict"], good["lines"], good["findings"]) == ("ok", 18, [])
    os.truncate(archive, good["manifest"]["files"][0]["size_bytes"])
    ran = cli("backup", "verify")
    assert ran.code == 1
    assert ran.out.startswith("FAIL  archive  wasm-audit-")
    assert cli("backup", "verify", "--json").object["verdict"] == "finding"
    before = host.files()
    ran = cli("backup", "restore")
    assert ran.code == 1
    assert ran.out.startswith("FAIL  archive  wasm-audit-")
    assert "nothing was restored" in ran.err
    assert host.files() == before


def test_without_audit_log_there_is_no_backup_unless_none_is_written(
    cli: Callable[..., Ran], host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.log.unlink()
    ran = cli("backup", "now")
    assert ran.code == 4
    assert "audit.log: no such file" in ran.err
    monkeypatch.setenv("ENABLE_AUDIT_LOGGING", "false")
    assert cli("backup", "now").code == 0


def test_a_restore_needs_no_configuration_that_is_whole(
    cli: Callable[..., Ran], host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = cli("backup", "now").out.splitlines()[0]
    host.configuration.write_text("MAX_FUEL=7\nMAX_FUELS=8\n")
    assert cli("backup", "now").code == 4

    ran = cli("backup", "restore", archive, "--config")
    assert (ran.code, ran.out) == (4, "")
    assert f"put AUDIT_LOG_PATH={host.log} before the command" in ran.err
    monkeypatch.setenv("AUDIT_LOG_PATH", str(host.log))
    done = cli("backup", "restore", archive, "--config", "--json").object
    assert "audit.log" in done["files"]
    assert len(done["aside"]) == 2
    assert "AUDIT_LOG_PATH" in host.configuration.read_text()


def test_without_a_configuration_file_none_is_copied(
    cli: Callable[..., Ran], host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WASM_EXECUTOR_ENV_FILE", os.devnull)
    monkeypatch.setenv("AUDIT_LOG_PATH", str(host.log))
    ran = cli("backup", "now", "--backup-dir", str(host.backups))
    assert ran.code == 0
    assert "no configuration file is in use" in ran.err
    assert cli("backup", "verify", "--backup-dir", str(host.backups)).code == 0


@pytest.mark.needs("tar")
def test_the_manuals_four_steps_and_their_trap(
    cli: Callable[..., Ran], host: Host
) -> None:
    """`cp -r` onto a folder that is there nests the copy; `--test-config` says so."""
    assert cli("backup", "now").code == 0
    folder = host.configuration.parent
    shutil.rmtree(host.log.parent)
    manual("tar -xzf /backup/wasm-audit-$(date +%Y%m%d).tar.gz -C /", host)
    copy = f"cp -r /backup/wasm-executor-config-$(date +%Y%m%d) {folder}"
    manual(copy, host)
    notes = cli("--test-config", "--json").object["notes"]
    (note,) = [note for note in notes if "is not the restored one" in note]
    manual(note.partition("; ")[2].replace("sudo ", ""), host)
    assert "restored" not in str(cli("--test-config", "--json").object["notes"])
    shutil.rmtree(folder)
    manual(copy, host)
    assert cli("--test-config").code == 0
    with AuditLogFile(host.log, lambda: 0) as log:
        assert log.restored
        assert log.read_from(0) == 13
