"""A backup holds the log of one moment, whole, whatever happens to it meanwhile."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from datetime import date, timedelta
from pathlib import Path

import msgspec
import pytest

from stream_executor.audit.log_file import AuditLogFile
from stream_executor.model.errors import UnavailableError
from stream_executor.services.backup import back_up
from stream_executor.services.backup_archive import (
    MANIFEST,
    archive_name,
    configuration_name,
)
from stream_executor.services.backup_files import BackupError, open_regular
from stream_executor.services.resident import newest_backup_s
from tests.backups import (
    NOW,
    SECRET,
    Host,
    chunk,
    in_memory,
    lines,
    members_of,
    python,
    set_up,
    unpack,
    verified,
)

_OPEN = "stream_executor.services.backup_log.open_regular"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return set_up(tmp_path)


def unpacked(host: Host) -> Path:
    """Unpack the archive elsewhere; give the log there."""
    root = host.root / "elsewhere"
    unpack(host.archive, root)
    return root / host.log.relative_to("/")


@pytest.mark.needs("tar", "sha256sum")
def test_tar_brings_every_file_back_as_it_was(host: Host) -> None:
    host.back_up()

    log = unpacked(host)
    assert {path.name for path in log.parent.iterdir()} == {*host.files(), MANIFEST}
    for name in host.files():
        was, now = host.log.with_name(name), log.with_name(name)
        assert now.read_bytes() == was.read_bytes()
        assert now.stat().st_mode == was.stat().st_mode
        assert int(now.stat().st_mtime) == int(was.stat().st_mtime)
    assert log.parent.stat().st_mode & 0o777 == 0o750
    for sums in host.backups.glob("*.sha256"):
        subprocess.run(["sha256sum", "-c", sums], cwd=host.backups, check=True)  # noqa: S607
    report = verified(host.archive)
    assert (report.findings, report.notes, report.lines) == ([], [], 18)


def test_the_writer_goes_on_where_a_backup_unpacked_by_tar_ends(host: Host) -> None:
    """Elsewhere, and over a newer state: no gap, no double, and the file says so."""
    host.back_up()
    before = host.log.read_bytes()
    host.write(chunk(0, 12, 14))
    unpack(host.archive, Path("/"))
    assert host.log.read_bytes() == before
    for log in (unpacked(host), host.log):
        with AuditLogFile(log, lambda: 0) as opened:
            assert opened.restored
            assert (opened.read_from(0), opened.read_from(1)) == (13, 7)
            opened.append([chunk(0, 9, 14), chunk(1, 3, 8)])
        back_up(msgspec.structs.replace(host.plan, audit_log=log), NOW)
        report = verified(host.archive)
        assert report.findings == []
        assert [one.last_seq for one in report.covered] == [14, 8]


def test_names_dates_modes_and_the_gauge_are_the_manuals(host: Host) -> None:
    made = host.back_up()

    assert made.archive == host.archive
    assert made.configuration == host.backups / "wasm-executor-config-20261123"
    modes = {p.name: p.stat().st_mode & 0o777 for p in host.backups.glob("wasm-*")}
    assert modes == {
        "wasm-audit-20261123.tar.gz": 0o640,
        "wasm-audit-20261123.tar.gz.sha256": 0o640,
        "wasm-executor-config-20261123": 0o750,
        "wasm-executor-config-20261123.sha256": 0o600,
    }
    assert newest_backup_s(host.backups) == host.archive.stat().st_mtime


def test_the_same_files_at_the_same_time_make_the_same_bytes(host: Host) -> None:
    digest = host.back_up().sha256
    host.archive.unlink()

    assert host.back_up().sha256 == digest


def test_a_second_backup_on_one_day_replaces_the_first(host: Host) -> None:
    host.back_up()
    with host.log.open("ab") as file:
        file.write(lines(0, 12, 14))
    host.position.unlink()
    host.configuration.write_text("MAX_FUEL=7\n")
    host.back_up()

    report = verified(host.archive)
    assert (report.findings, report.covered[0].last_seq) == ([], 14)
    copy = host.backups / "wasm-executor-config-20261123" / "config.env"
    assert copy.read_text() == "MAX_FUEL=7\n"
    assert len(list(host.backups.glob("wasm-*"))) == 4


def test_only_whole_lines_are_taken_and_only_what_the_position_covers(
    host: Host,
) -> None:
    whole = host.log.read_bytes()
    with host.log.open("ab") as file:  # a write that failed, to be cut off
        file.write(lines(0, 12, 12) + b'{"partition":0,"se')
    with host.log.with_name("audit.log-20261122").open("ab") as file:
        file.write(b'{"torn by a power cut')
    host.back_up()

    log = unpacked(host)
    assert log.read_bytes() == whole
    assert log.with_name("audit.log-20261122").read_bytes() == lines(0, 6, 8)


def test_without_a_position_all_whole_lines_are_taken(host: Host) -> None:
    damaged = host.position.read_bytes().replace(b'"ab', b'"\xff')
    host.position.write_bytes(damaged)
    with host.log.open("ab") as file:
        file.write(lines(0, 12, 12) + b'{"partition":0,"se')
    host.back_up()

    report = verified(host.archive)
    assert report.findings == []
    assert report.covered[0].last_seq == 12
    assert "audit.log.position" not in {
        path.name for path in unpacked(host).parent.iterdir()
    }


def test_a_file_that_is_being_compressed_is_taken_once(host: Host) -> None:
    host.log.with_name("audit.log-20261122.gz").write_bytes(b"\x1f\x8b half")

    assert "audit.log-20261122.gz" not in host.back_up().files
    assert verified(host.archive).findings == []


@pytest.mark.parametrize("last", [False, True])
def test_a_rotation_in_between_makes_it_begin_again(
    host: Host, monkeypatch: pytest.MonkeyPatch, *, last: bool
) -> None:
    rotated = host.log.with_name("audit.log-20261123")

    def rotating(name: str, folder: int) -> int:
        if not rotated.exists() and name == sorted(host.files())[-1 if last else 0]:
            host.log.rename(rotated)
            host.log.write_bytes(lines(0, 12, 14))
        return open_regular(name, folder)

    monkeypatch.setattr(_OPEN, rotating)
    host.back_up()

    report = verified(host.archive)
    assert (report.findings, report.covered[0].last_seq) == ([], 14)


def test_a_log_that_never_rests_is_given_up(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream_executor.services.backup._PAUSE_S", 0)

    def emptied(name: str, folder: int) -> int:
        descriptor = open_regular(name, folder)
        host.log.with_name(f"audit.log-{len(host.files())}").touch()
        return descriptor

    monkeypatch.setattr(_OPEN, emptied)
    with pytest.raises(UnavailableError, match="changed while"):
        host.back_up()
    assert list(host.backups.glob("wasm-audit-*")) == []


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_only_has_the_name_of_a_log_is_not_read(host: Host, kind: str) -> None:
    """Its folder is the service's, and root makes the backup."""
    name = host.log.with_name("audit.log.1")
    if kind == "link":
        name.symlink_to(host.configuration)
    else:
        os.mkfifo(name)
    with pytest.raises(BackupError, match=r"audit\.log\.1 is "):
        host.back_up()
    assert not host.archive.exists()


def test_a_folder_with_the_name_of_a_log_is_left_alone(host: Host) -> None:
    host.log.with_name("audit.log.old").mkdir()
    assert "audit.log.old" not in host.back_up().files


def test_without_audit_log_there_is_no_backup_unless_none_is_written(
    host: Host,
) -> None:
    for path in host.log.parent.iterdir():
        path.unlink()
    with pytest.raises(BackupError, match=r"audit\.log: no such file") as raised:
        host.back_up()
    assert "ENABLE_AUDIT_LOGGING=false" in raised.value.remedy

    host.log.parent.rmdir()
    plan = msgspec.structs.replace(host.plan, log_expected=False)
    back_up(plan, NOW)
    assert verified(host.archive).findings == []
    assert [Path(info.name).name for info, _ in members_of(host.archive)] == [MANIFEST]


def test_only_one_backup_runs_at_a_time(host: Host) -> None:
    host.back_up()
    with (host.backups / ".wasm-executor-backup.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UnavailableError, match="another backup"):
            host.back_up()


def test_the_configurations_copy_has_no_rights_for_others(host: Host) -> None:
    folder = host.configuration.parent
    (folder / "keys").mkdir(mode=0o755)
    (folder / "keys" / "fleet.pem").write_text("key")
    outside = host.root / "secret"
    outside.write_text("secret")
    (folder / "linked").symlink_to(outside)
    (folder / "folder").symlink_to(host.root)
    os.mkfifo(folder / "pipe")
    made = host.back_up()

    assert made.configuration is not None
    copied = {path.name: path for path in made.configuration.rglob("*")}
    assert set(copied) == {"config.env", "keys", "fleet.pem", "linked"}
    assert not copied["linked"].is_symlink()
    assert all(not path.stat().st_mode & 0o007 for path in copied.values())
    assert made.left_out == [str(folder / "folder"), str(folder / "pipe")]
    assert SECRET not in host.archive.read_bytes().decode("latin-1")
    assert verified(host.archive).findings == []


@pytest.mark.root
def test_the_services_user_makes_a_backup_without_what_is_roots(host: Host) -> None:
    """As Debian's `nobody`; the keys of the operator stay where they are."""
    operators = host.configuration.parent / "operator.pem"
    operators.touch(0o600)
    host.backups.mkdir()
    for path in (host.backups, host.log.parent, *host.log.parent.iterdir()):
        os.chown(path, 65534, 65534)
    for folder in (host.configuration.parent, host.root, *host.root.parents[:2]):
        folder.chmod(0o755)
    ran = python(
        "import os, sys; from pathlib import Path; from tests.backups import *\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "print(*Host(Path(sys.argv[1])).back_up().left_out)",
        host.root,
    )
    assert ran.stdout == f"{operators}\n", ran.stderr
    assert verified(host.archive).findings == []
    assert host.archive.stat().st_uid == 65534


@pytest.mark.needs("setpriv")
@pytest.mark.root
def test_root_with_the_units_capabilities_replaces_and_prunes(host: Host) -> None:
    """As in wasm-executor-backup.service: reading all, writing to its own alone."""
    for path in (host.configuration.parent, host.configuration):
        os.chown(path, 65534, 65534)
    host.back_up()
    old = host.backups / configuration_name(date(2001, 1, 1))
    shutil.copytree(host.configuration.parent, old)
    os.chown(old, 65534, 65534)
    ran = python(
        "import sys; from pathlib import Path; from tests.backups import *\n"
        "print(*Host(Path(sys.argv[1])).back_up().pruned)",
        host.root,
        within=(
            "setpriv",
            "--bounding-set=-all,+dac_read_search,+chown,+fowner",
            "--inh-caps=-all",
        ),
    )
    assert ran.stdout == f"{old.name}\n", ran.stderr
    report = verified(host.archive)
    assert (report.findings, report.notes) == ([], [])
    assert not list(host.backups.glob(".wasm-executor-config*"))


def test_a_folder_that_is_no_configuration_is_not_copied(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream_executor.services.backup_files.MAX_COPIED_FILES", 2)
    for number in range(3):
        (host.configuration.parent / str(number)).touch()
    with pytest.raises(BackupError, match="too large"):
        host.back_up()
    within = msgspec.structs.replace(host.plan, folder=host.configuration.parent / "b")
    with pytest.raises(BackupError, match="is to be copied there"):
        back_up(within, NOW)


def test_old_backups_go_and_the_newest_never(host: Host) -> None:
    kept = {NOW.date() - timedelta(days=days) for days in (2, 3)}
    for days in (2, 3, 4, 5):
        day = NOW.date() - timedelta(days=days)
        host.backups.mkdir(exist_ok=True)
        (host.backups / archive_name(day)).touch()
        (host.backups / f"{archive_name(day)}.sha256").touch()
        (host.backups / configuration_name(day)).mkdir()
    others = [host.backups / "wasm-audit-20261399.tar.gz", host.backups / "mine"]
    for other in others:
        other.touch()
    plan = msgspec.structs.replace(host.plan, keep_days=3, configuration=None)
    made = back_up(plan, NOW)

    left = {path.name for path in host.backups.glob("wasm-*")}
    assert left == {
        *(archive_name(day) for day in {*kept, NOW.date()}),
        *(f"{archive_name(day)}.sha256" for day in {*kept, NOW.date()}),
        *(configuration_name(day) for day in kept),
        others[0].name,
    }
    assert made.pruned == [
        *(archive_name(NOW.date() - timedelta(days=days)) for days in (5, 4)),
        *(configuration_name(NOW.date() - timedelta(days=days)) for days in (5, 4)),
    ]
    assert others[1].exists()


def test_of_a_kind_that_is_not_made_any_more_the_newest_stays(host: Host) -> None:
    last = host.backups / configuration_name(date(2001, 1, 1))
    last.mkdir(parents=True)
    back_up(msgspec.structs.replace(host.plan, configuration=None), NOW)
    assert last.exists()


_KILLED = """
import sys
from itertools import count
from pathlib import Path
from tests.backups import Host, killed_at, verified
host = Host(Path(sys.argv[1]))
for point in count():
    killed = killed_at(point, host.back_up)
    if host.archive.exists():
        report = verified(host.archive)
        assert not report.findings, (point, report.findings)
    for copy in host.backups.glob("wasm-executor-config-*"):
        if copy.is_dir():
            assert (copy / "keys" / "k.pem").read_text() == "key", point
    if not killed:
        break
assert not list(host.backups.glob(".wasm-[ae]*-2*")), "leftovers"
print(point)
"""


@pytest.mark.parametrize("again", [False, True])
def test_killed_anywhere_it_leaves_whole_archives_or_none(*, again: bool) -> None:
    """Also where it replaces one of the same day, and prunes."""
    with in_memory() as folder:
        host = set_up(folder)
        (host.configuration.parent / "keys").mkdir()
        (host.configuration.parent / "keys" / "k.pem").write_text("key")
        if again:
            host.back_up()
            old = host.backups / configuration_name(date(2001, 1, 1)) / "keys"
            old.mkdir(parents=True)
            (old / "k.pem").write_text("key")
        ran = python(_KILLED, host.root)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) > 40


def test_a_full_disk_leaves_the_archive_that_was_there(host: Host) -> None:
    digest = host.back_up().sha256
    host.log.with_name("audit.log.1").write_bytes(os.urandom(100_000) + b"\n")
    script = (
        "import resource, sys; from pathlib import Path; from tests.backups import *\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "Host(Path(sys.argv[1])).back_up()\n"
    )
    ran = python(script, host.root)
    assert "BackupError" in ran.stderr
    assert "file too large" in ran.stderr
    assert verified(host.archive).findings == []
    assert digest in (host.backups / f"{host.archive.name}.sha256").read_text()
    assert not list(host.backups.glob(".wasm-audit-*"))
