"""A restore brings a verified backup back, keeps what was there, and can be killed."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from stream_executor.audit.log_file import AuditLogFile
from stream_executor.services.backup_files import BackupError
from stream_executor.services.backup_restore import (
    LogInUseError,
    Restored,
    Target,
    restore,
)
from tests.backups import (
    NOW,
    Host,
    chunk,
    in_memory,
    lines,
    members_of,
    python,
    set_up,
    verified,
    write_archive,
)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return went_on(set_up(tmp_path))


def went_on(made: Host) -> Host:
    """Back up; then there is one more rotation, and a new configuration."""
    made.back_up()
    made.write(chunk(0, 12, 14), rotated="audit.log-20261123")
    made.configuration.write_text("MAX_FUEL=7\n")
    return made


def restored(host: Host, *, config: bool = False, accept: bool = False) -> Restored:
    folder = host.configuration.parent if config else None
    return restore(host.archive, Target(host.log, folder, accept_faults=accept), NOW)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def test_the_log_is_as_it_was_and_what_was_there_is_kept(host: Host) -> None:
    later = host.files()
    done = restored(host)

    report = verified(host.archive)
    assert report.manifest is not None
    said = {one.name: one.sha256 for one in report.manifest.files}
    assert {
        name: hashlib.sha256(content).hexdigest()
        for name, content in host.files().items()
    } == said
    (aside,) = done.aside
    assert aside == host.log.parent / "before-restore-20261123T020000"
    assert contents(aside) == later
    assert host.configuration.read_text() == "MAX_FUEL=7\n"
    assert not list(host.log.parent.glob(".restore*"))


def test_the_writer_goes_on_at_the_backups_end(host: Host) -> None:
    """Nothing comes twice or is missing, and the log says what happened."""
    restored(host)
    with AuditLogFile(host.log, lambda: 0) as log:
        assert log.restored
        assert (log.read_from(0), log.read_from(1)) == (13, 7)
        log.append([chunk(0, 9, 14), chunk(1, 3, 8)])
    host.back_up()
    report = verified(host.archive)
    assert report.findings == []
    assert [one.last_seq for one in report.covered] == [14, 8]


def test_the_configuration_comes_back_whole_with_modes(host: Host) -> None:
    shutil.copytree(  # the manual's `cp -r` where the target exists
        host.backups / "wasm-executor-config-20261123",
        host.configuration.parent / "wasm-executor-config-20261123",
    )
    done = restored(host, config=True)

    assert "JWT_SECRET" in host.configuration.read_text()
    assert [p.name for p in host.configuration.parent.iterdir()] == ["config.env"]
    assert host.configuration.parent.stat().st_mode & 0o777 == 0o750
    assert host.configuration.stat().st_mode & 0o777 == 0o640
    assert (done.aside[1] / "config.env").read_text() == "MAX_FUEL=7\n"


def test_onto_an_empty_host(host: Host, tmp_path: Path) -> None:
    root = tmp_path / "new"
    target = Target(host.log, host.configuration.parent, root)
    done = restore(host.archive, target, NOW)

    log = root / host.log.relative_to("/")
    assert done.aside == []
    assert log.parent.stat().st_mode & 0o777 == 0o750
    assert log.read_bytes() == lines(0, 9, 11) + lines(1, 3, 5)
    assert (root / host.configuration.relative_to("/")).exists()


@pytest.mark.root
def test_owners_come_back(host: Host, tmp_path: Path) -> None:
    for path in (host.log.parent, *host.log.parent.iterdir(), host.configuration):
        os.chown(path, 12345, 12346)
    host.back_up()
    assert host.archive.stat().st_gid == 12346
    root = tmp_path / "new"
    restore(host.archive, Target(host.log, host.configuration.parent, root), NOW)

    there = root / host.log.parent.relative_to("/")
    for path in (there, *there.iterdir(), root / host.configuration.relative_to("/")):
        status = path.stat()
        assert (status.st_uid, status.st_gid) == (12345, 12346), path


def test_nothing_happens_beside_a_running_writer(host: Host) -> None:
    before = host.files()
    with (
        AuditLogFile(host.log, lambda: 0),
        pytest.raises(LogInUseError, match="a process writes") as raised,
    ):
        restored(host)
    assert "systemctl stop" in raised.value.remedy
    assert set(host.files()) == set(before)


def test_nothing_happens_with_a_damaged_archive(host: Host) -> None:
    damaged = bytearray(host.archive.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    host.archive.write_bytes(damaged)
    before = host.files()
    done = restored(host, config=True, accept=True)

    assert done.report.findings
    assert (done.files, done.aside) == ([], [])
    assert host.files() == before


def test_a_log_with_faults_comes_back_only_if_that_is_accepted(host: Host) -> None:
    content = [
        (info, data.replace(lines(0, 7, 7), b""))
        for info, data in members_of(host.archive)
    ]
    write_archive(host.archive, content)
    assert restored(host).files == []
    assert "audit.log" in restored(host, accept=True).files


def test_an_archive_of_another_log_is_refused(host: Host) -> None:
    with pytest.raises(BackupError, match="the archive is of") as raised:
        restore(host.archive, Target(Path("/var/log/audit.log"), root=host.root), NOW)
    assert f"AUDIT_LOG_PATH={host.log}" in raised.value.remedy


def test_a_configuration_that_the_archive_does_not_name_is_refused(
    host: Host,
) -> None:
    *others, (info, manifest) = members_of(host.archive)
    said = manifest.replace(b'"wasm-executor-config-20261123"', b"null")
    write_archive(host.archive, [*others, (info, said)])
    before = host.files()
    with pytest.raises(BackupError, match="names no copy"):
        restored(host, config=True)
    assert host.files() == before


# After each strike once more, without; each time on a fresh host.
_KILLED = """
import shutil, sys
from datetime import timedelta
from itertools import count
from pathlib import Path
from stream_executor.services.backup_restore import Target, restore
from tests.backups import NOW, Host, killed_at
origin = Host(Path(sys.argv[1]))
target = Target(origin.log, origin.configuration.parent)
saved = Path(sys.argv[1] + ".saved")
origin.root.rename(saved)
old = {p.read_bytes() for p in saved.rglob("*") if p.is_file()}
for point in count():
    shutil.copytree(saved, origin.root)
    killed = killed_at(point, lambda: restore(origin.archive, target, NOW))
    if origin.position.exists():
        assert origin.log.exists(), point
    if killed:
        assert restore(origin.archive, target, NOW + timedelta(seconds=1)).files
    now = {p.read_bytes() for p in origin.root.rglob("*") if p.is_file()}
    assert not old - now, (point, "lost")
    files = [p for p in origin.log.parent.iterdir() if p.is_file()]
    print(sorted((p.name, p.read_bytes()) for p in files))
    assert "JWT_SECRET" in origin.configuration.read_text()
    for hidden in (".restore*", ".wasm-executor.*"):
        assert not list(origin.root.rglob(hidden)), point
    shutil.rmtree(origin.root)
    if not killed:
        break
print(point, file=sys.stderr)
"""


def test_killed_anywhere_the_same_command_ends_it_and_nothing_is_lost() -> None:
    with in_memory() as folder:
        ran = python(_KILLED, went_on(set_up(folder / "host")).root)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stderr) > 40
    assert len(set(ran.stdout.splitlines())) == 1
