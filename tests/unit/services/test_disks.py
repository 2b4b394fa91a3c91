"""What is found wrong with the file systems that the service writes to."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from stream_executor.model.conditions import REMEDIES, Condition
from stream_executor.model.errors import ConfigError
from stream_executor.services import diagnosis_host, disks
from stream_executor.services.slots import Slots

if TYPE_CHECKING:
    from stream_executor.settings import Settings

GIB = 1 << 30


def facts(free: int, *, size: int = 100 * GIB, flag: int = 0, inodes: int = 9) -> Any:
    return SimpleNamespace(
        f_bavail=free // 4096, f_frsize=4096, f_blocks=size // 4096, f_flag=flag,
        f_favail=inodes, f_files=100,
    )  # fmt: skip


def configured(folder: Path) -> Settings:
    return cast(
        "Settings",
        SimpleNamespace(
            state_dir=folder / "state",
            audit_log_path=folder / "log" / "audit.log",
            backup_dir=folder / "backups",
            enable_audit_logging=True,
        ),
    )


def test_what_is_full_or_read_only_is_a_condition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = configured(tmp_path)
    settings.state_dir.mkdir()
    settings.audit_log_path.parent.mkdir()
    told = {
        settings.state_dir: facts(1 << 20),
        settings.audit_log_path.parent: facts(GIB, flag=os.ST_RDONLY),
    }
    monkeypatch.setattr(os, "statvfs", lambda path: told[Path(path)])
    found, least = disks.survey(settings)
    assert set(found) == {Condition.DISK_FULL, Condition.DISK_READ_ONLY}
    assert "WASM_EXECUTOR_STATE_DIR" in found[Condition.DISK_FULL]
    assert "AUDIT_LOG_PATH" in found[Condition.DISK_READ_ONLY]
    assert least == 1 << 20
    told[settings.state_dir] = facts(GIB, inodes=0)
    assert "inode" in disks.survey(settings)[0][Condition.DISK_FULL]
    told |= dict.fromkeys(told, facts(GIB))
    assert disks.survey(settings) == ({}, GIB)


def test_backups_are_written_by_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = configured(tmp_path)
    settings.backup_dir.mkdir()
    monkeypatch.setattr(os, "statvfs", lambda _: facts(GIB, flag=os.ST_RDONLY))
    assert disks.survey(settings) == ({}, GIB)
    monkeypatch.setattr(os, "statvfs", lambda _: facts(0))
    assert set(disks.survey(settings)[0]) == {Condition.DISK_FULL}


def test_a_small_file_system_may_be_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: facts(3 << 20, size=4 << 20))
    assert disks.look("X", tmp_path).condition is None
    monkeypatch.setattr(os, "statvfs", lambda _: facts(0, size=4 << 20))
    assert disks.look("X", tmp_path).condition is Condition.DISK_FULL


def test_the_doctor_looks_at_each_folder_there_or_not(tmp_path: Path) -> None:
    settings = configured(tmp_path)
    settings.state_dir.mkdir()
    found = {check.id: check for check in diagnosis_host.disks(settings)}
    assert set(found) == {"disk.state", "disk.audit_log", "disk.backups"}
    assert {check.state for check in found.values()} == {"ok"}
    assert "not made yet" in found["disk.backups"].found
    assert "not made yet" not in found["disk.state"].found


def test_the_doctor_names_what_it_may_not_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    for check in diagnosis_host.disks(configured(tmp_path)):
        assert check.state == "warning"
        assert f"user {os.geteuid()} may not write there" in check.found


def test_the_doctor_says_what_the_running_instance_finds() -> None:
    document = {
        "service": {"instance": "host"},
        "health": {"reasons": ["clock_apart: 90 s"]},
        "readiness": {"reasons": []},
    }
    check = diagnosis_host.service("host", lambda: document)
    assert (check.state, check.found) == ("failed", "clock_apart: 90 s")
    assert diagnosis_host.service("other", lambda: document).state == "ok"
    document["health"] = {"reasons": []}
    assert diagnosis_host.service("host", lambda: document).state == "ok"

    def nobody() -> dict[str, Any]:
        raise OSError("refused")

    check = diagnosis_host.service("host", nobody)
    assert (check.state, check.found) == ("ok", "none answers: refused")


def test_an_error_without_words_is_named() -> None:
    def ask() -> dict[str, Any]:
        raise TimeoutError

    check = diagnosis_host.service("host", ask)
    assert check.found == "none answers: TimeoutError"


def test_the_kernel_is_asked_whether_the_clock_is_kept() -> None:
    check = diagnosis_host.clock_sync()
    assert check.state in {"ok", "warning"}
    assert check.found


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, REMEDIES[Condition.DISK_FULL]),
        (errno.EROFS, REMEDIES[Condition.DISK_READ_ONLY]),
        (errno.EACCES, "the service's user must be able to write there"),
    ],
)
def test_a_start_on_such_a_disk_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    def refused(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(ConfigError, match=re.escape(remedy)):
        Slots(tmp_path, 1)
