"""``backup`` as the timer and an operator call it, the manual's commands beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stream_executor.audit.log_file import AuditLogFile
from tests.acceptance.cli_runner import Cli
from tests.backups import chunk, manual, set_up

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.needs("tar")
def test_now_verify_and_restore(tmp_path: Path) -> None:
    host = set_up(tmp_path)
    cli = Cli(host.root, {"WASM_EXECUTOR_ENV_FILE": str(host.configuration)})
    made = cli("backup", "now", "--json")
    assert (made.code, made.object["schema"]) == (0, "wasm-executor/backup/v1")
    listed = manual("ls -lh /backup/wasm-audit-*.tar.gz | tail -7", host)
    assert made.object["archive"] in listed
    members = manual("tar -tzf /backup/wasm-audit-$(date +%Y%m%d).tar.gz", host)
    assert f"{str(host.log)[1:]}\n" in members
    assert f"{str(host.position)[1:]}\n" in members
    assert ".lock" not in members
    good = cli("backup", "verify")
    assert good.code == 0
    assert good.out.splitlines()[-1] == f"{made.object['archive']}: ok (18 lines)"

    host.write(chunk(0, 12, 14))
    with AuditLogFile(host.log, lambda: 0):
        refused = cli("backup", "restore")
    assert refused.code == 3
    assert refused.err.splitlines()[-1] == "  try: sudo systemctl stop wasm-executor"
    assert cli("backup", "restore").code == 0
    assert len(host.log.read_bytes().splitlines()) == 6
