"""What the gauges of this host say."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from stream_executor.services.resident import (
    memory_limit_bytes,
    newest_backup_s,
    usage,
)

if TYPE_CHECKING:
    from pathlib import Path


def test_cpu_time_counts_processes_that_have_ended() -> None:
    before = usage().cpu_seconds
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-S", "-c", burn], check=True)

    assert usage().cpu_seconds - before >= 0.25


def test_we_use_less_than_we_may() -> None:
    assert 0 < usage().resident_bytes < memory_limit_bytes()


def test_the_limit_is_that_of_the_unit_or_of_a_group_above_it(tmp_path: Path) -> None:
    unit = tmp_path / "system.slice" / "wasm-executor.service"
    unit.mkdir(parents=True)
    (unit / "memory.max").write_text("max\n")
    (unit.parent / "memory.max").write_text("3000000\n")
    own = "1:cpu:/elsewhere\n0::/system.slice/wasm-executor.service\n"
    assert memory_limit_bytes(tmp_path, own) == 3_000_000
    (unit / "memory.max").write_text("2000000\n")
    assert memory_limit_bytes(tmp_path, own) == 2_000_000
    (tmp_path / "memory.max").write_text("1000000\n")
    assert memory_limit_bytes(tmp_path, "0::/\n") == 1_000_000


def test_the_newest_archive_tells_the_age_of_the_backup(tmp_path: Path) -> None:
    assert newest_backup_s(tmp_path) == 0
    assert newest_backup_s(tmp_path / "missing") == 0
    for name, written_s in (
        ("wasm-audit-20261101.tar.gz", 1_000),
        ("wasm-audit-20261102.tar.gz", 2_000),
        ("wasm-audit-20261102.tar.gz.sha256", 3_000),
        ("other.tar.gz", 4_000),
    ):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (written_s, written_s))

    assert newest_backup_s(tmp_path) == 2_000
