"""Whatever is wrong with a backup is found, and whatever it holds does no harm."""

from __future__ import annotations

import gzip
import io
import tarfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream_executor.services import backup_archive
from stream_executor.services.backup_archive import sum_file
from tests.backups import (
    Host,
    lines,
    members_of,
    set_up,
    verified,
    write_archive,
    write_sum,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Content = list[tuple[tarfile.TarInfo, bytes]]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = set_up(tmp_path)
    made.back_up()
    return made


def found(host: Host) -> list[str]:
    return [
        f"{one.part} {one.where}: {one.what}" for one in verified(host.archive).findings
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.data())
def test_any_flipped_bit_is_found(host: Host, data: st.DataObject) -> None:
    whole = host.archive.read_bytes()
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    flipped = bytearray(whole)
    flipped[bit // 8] ^= 1 << bit % 8
    host.archive.write_bytes(flipped)
    try:
        assert f"archive {host.archive.name}: its SHA-256 is not that" in found(host)[0]
        write_sum(host.archive)
        if not found(host):  # a bit that gzip does not use: time, system, padding
            assert gzip.decompress(flipped) == gzip.decompress(whole)
    finally:
        host.archive.write_bytes(whole)
        write_sum(host.archive)


def test_an_archive_that_ends_early_is_found_without_its_checksum(host: Host) -> None:
    whole = host.archive.read_bytes()
    sum_file(host.archive).unlink()
    assert verified(host.archive).notes
    for size in range(0, len(whole), len(whole) // 16):
        host.archive.write_bytes(whole[:size])
        assert any("archive" in one for one in found(host)), size


def without_line(content: Content) -> Content:
    return [(info, data.replace(lines(0, 7, 7), b"")) for info, data in content]


def compressed_badly(content: Content) -> Content:
    return [
        (info, data[:-9] if info.name.endswith(".gz") else data)
        for info, data in content
    ]


def position_ahead(content: Content) -> Content:
    return [(info, data.replace(b'"seq":11', b'"seq":99')) for info, data in content]


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (
            without_line,
            "log audit.log-20261122: partition 0: seq 7 to 7 are missing",
        ),
        (compressed_badly, "log audit.log-20261121.gz: no gzip file, or not all"),
        (position_ahead, "log position: partition 0 goes to seq 99"),
    ],
)
def test_faults_of_the_log_are_found_under_honest_digests(
    host: Host, change: Callable[[Content], Content], finding: str
) -> None:
    write_archive(host.archive, change(members_of(host.archive)))
    assert any(one.startswith(finding) for one in found(host)), found(host)


def test_a_removed_line_is_found_by_the_digest_first(host: Host) -> None:
    write_archive(host.archive, without_line(members_of(host.archive)), honest=False)
    assert "it is not what the manifest says" in "\n".join(found(host))


def foreign(host: Host) -> list[tuple[str, tarfile.TarInfo]]:
    folder = str(host.log.parent.relative_to("/"))
    made = []
    for name, kind in (
        ("../../etc/passwd", tarfile.REGTYPE),
        (f"{folder}/../../../etc/passwd", tarfile.REGTYPE),
        ("/etc/passwd", tarfile.REGTYPE),
        ("etc/passwd", tarfile.REGTYPE),
        (f"./{folder}/audit.log", tarfile.REGTYPE),
        (f"{folder}/audit.log", tarfile.REGTYPE),  # a second time
        (f"{folder}/audit.log.1", tarfile.SYMTYPE),
        (f"{folder}/audit.log.1", tarfile.LNKTYPE),
        (f"{folder}/audit.log.1", tarfile.CHRTYPE),
        (f"{folder}/audit.log.1", tarfile.FIFOTYPE),
        (f"{folder}/audit.log.lock", tarfile.REGTYPE),
        (f"{folder}/config.env", tarfile.REGTYPE),
        (f"{folder}/deeper/audit.log", tarfile.REGTYPE),
        (folder, tarfile.REGTYPE),
        ("etc", tarfile.DIRTYPE),
        ("../etc", tarfile.DIRTYPE),
    ):
        info = tarfile.TarInfo(name)
        info.type = kind
        info.linkname = "/etc/shadow"
        made.append((f"{name} {kind!r}", info))
    return made


def test_a_member_that_no_backup_has_is_found_although_the_manifest_names_it(
    host: Host,
) -> None:
    others = [one for one in members_of(host.archive) if not one[0].isdir()]
    for shown, info in foreign(host):
        write_archive(host.archive, [*others[:-1], (info, b""), others[-1]])
        faults = found(host)
        assert any("no member that a backup has" in one for one in faults), shown


def test_a_missing_manifest_and_a_missing_member_are_found(host: Host) -> None:
    content = members_of(host.archive)
    write_archive(host.archive, content[:-1], honest=False)
    assert "it holds no backup-manifest.json" in found(host)[-1]
    write_archive(host.archive, [*content[:2], *content[3:]], honest=False)
    assert any("audit.log: it is missing" in one for one in found(host))


def test_a_manifest_that_is_no_text_is_found(host: Host) -> None:
    changed = [
        (info, data.replace(b'"release": "', b'"release": "\xff'))
        for info, data in members_of(host.archive)
    ]
    write_archive(host.archive, changed, honest=False)
    assert any("backup-manifest.json: 'utf-8' codec" in one for one in found(host))


def test_a_manifest_that_leads_elsewhere_is_found(host: Host) -> None:
    *others, (info, manifest) = members_of(host.archive)
    for path in (b"audit.log", b"/var/../etc/audit.log"):
        said = manifest.replace(str(host.log).encode(), path)
        write_archive(host.archive, [*others, (info, said)])
        assert any("no path" in one for one in found(host))
    name = b"wasm-executor-config-20261123"
    said = manifest.replace(name, b"../../etc")
    write_archive(host.archive, [*others, (info, said)])
    assert any("'../../etc': it is not beside" in one for one in found(host))


def bomb(host: Host, raw: bytes) -> list[str]:
    host.archive.write_bytes(gzip.compress(raw, mtime=0))
    write_sum(host.archive)
    return found(host)


def test_an_archive_cannot_take_memory(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A header that says it is long, endless filling, endless members or names."""
    monkeypatch.setattr(backup_archive, "MAX_SMALL_BYTES", 100_000)
    monkeypatch.setattr(backup_archive, "MAX_MEMBERS", 50)
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 2**32
    assert "too long" in bomb(host, header.tobuf() + bytes(10**6))[0]
    assert "too long" in bomb(host, bytes(10**6))[0]
    many = b"".join(tarfile.TarInfo(f"{n}").tobuf() for n in range(60))
    assert any("more than 50 members" in one for one in bomb(host, many))
    long_names = tarfile.TarInfo("x" * 200).tobuf(tarfile.GNU_FORMAT) * 2_000
    assert bomb(host, long_names)


def test_a_line_without_end_is_read_in_parts(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "stream_executor.services.backup_verification.MAX_LINE_BYTES", 1000
    )
    content = members_of(host.archive)
    at = next(i for i, (info, _) in enumerate(content) if info.name[-3:] == ".gz")
    content[at] = (content[at][0], gzip.compress(b"x" * 10**6))
    write_archive(host.archive, content)
    assert len(found(host)) < 50


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.tuples(st.binary(max_size=2000), st.booleans()))
def test_any_bytes_are_a_finding_and_no_exception(
    host: Host, case: tuple[bytes, bool]
) -> None:
    whole, (garbage, within) = host.archive.read_bytes(), case
    if within:
        buffer = bytearray(gzip.decompress(whole))
        buffer[512 : 512 + len(garbage)] = garbage
        garbage = gzip.compress(bytes(buffer))
    host.archive.write_bytes(garbage)
    try:
        assert verified(host.archive).findings
    finally:
        host.archive.write_bytes(whole)


def test_data_behind_the_last_member_are_found(host: Host) -> None:
    raw = gzip.decompress(host.archive.read_bytes())
    assert any("data behind" in one for one in bomb(host, raw + b"more"))
    assert bomb(host, raw + bytes(10_240)) == []


def test_the_configurations_copy_is_judged(host: Host) -> None:
    copy = host.backups / "wasm-executor-config-20261123"
    file = copy / "config.env"
    good = file.read_text()
    file.write_text(good + "MAX_FUEL\n")
    assert any("not the files of" in one for one in found(host))
    assert any("expected NAME=value" in one for one in found(host))
    file.write_text(good)
    file.chmod(0o644)
    assert any("others have rights" in one for one in found(host))
    file.chmod(0o640)
    assert found(host) == []
    file.rename(copy / "other.env")
    assert any("the configuration file is missing" in one for one in found(host))
    copy.rename(host.root / "gone")
    assert any("it is not beside the archive" in one for one in found(host))
    assert verified(host.archive, configuration=False).findings == []


def test_an_archive_without_configuration_says_so(host: Host) -> None:
    *others, (info, manifest) = members_of(host.archive)
    said = manifest.replace(b'"wasm-executor-config-20261123"', b"null")
    write_archive(host.archive, [*others, (info, said)])
    report = verified(host.archive)
    assert report.findings == []
    assert report.notes == ["the archive names no copy of the configuration"]


def test_reading_stops_at_nothing_that_tar_would_write(host: Host) -> None:
    """Verifying makes no file, wherever members lead."""
    before = set(host.root.rglob("*"))
    content = members_of(host.archive)
    write_archive(host.archive, [*content, *((info, b"") for _, info in foreign(host))])
    found(host)
    assert set(host.root.rglob("*")) == before


def test_a_sparse_member_is_not_unfolded(host: Host) -> None:
    folder = host.log.parent.relative_to("/")
    info = tarfile.TarInfo(f"{folder}/audit.log.9")
    info.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": info.name,
        "GNU.sparse.realsize": str(2**40),
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info.size = 512
        tar.addfile(info, io.BytesIO(b"1\n0\n512\n".ljust(512, b"\0")))
    assert any("no member" in one for one in bomb(host, buffer.getvalue()))
