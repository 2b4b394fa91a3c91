"""Verify a backup: all of it is there, as it was written, and its lines follow.

Judged: the archive's checksum, gzip's and tar's form, that no member leads elsewhere,
each member's digest, every line, each partition's sequence over all files, that the
position is not ahead of the lines; the configuration's checksums, modes and syntax.
Not judged: whether the lines are true. They are a projection; the chain and its
signatures are in the audit topic, and `audit verify` judges them there.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import stat
import zlib
from pathlib import Path
from typing import IO, Any, cast

import msgspec

from stream_executor.audit.log_coverage import MAX_LINE_BYTES, Covered, LogCoverage
from stream_executor.audit.log_lines import (
    COMPRESSED_SUFFIX,
    POSITION_SUFFIX,
    Position,
    is_log_name,
)
from stream_executor.environment_file import read_environment_file
from stream_executor.model.errors import MalformedError
from stream_executor.services.backup_archive import (
    FORMAT,
    MANIFEST,
    MAX_SMALL_BYTES,
    Manifest,
    Member,
    is_configuration_name,
    member_folder,
    members,
    place_of,
    sum_file,
)
from stream_executor.services.backup_files import sums_of

_CHUNK_BYTES = 1024 * 1024
_FOREIGN = "no member that a backup has"
ARCHIVE, LOG, CONFIGURATION = "archive", "log", "configuration"


class Finding(msgspec.Struct, frozen=True):
    """Something that is not as it must be.

    Attributes:
        part: ``archive`` (not what was written), ``log`` (what was written has faults)
            or ``configuration``.
        where: file, and line if it is one of a log's.
        what: one sentence.
    """

    part: str
    where: str
    what: str


class BackupReport(msgspec.Struct):
    """What verification saw.

    Attributes:
        archive: its path.
        manifest: what it says of itself; None if it does not.
        covered: what the log's files hold, by partition.
        lines: of all those files.
        findings: all that is wrong.
        notes: what could not be compared.
    """

    archive: str
    manifest: Manifest | None = None
    covered: list[Covered] = []
    lines: int = 0
    findings: list[Finding] = []
    notes: list[str] = []

    def add(self, part: str, where: str, what: str) -> None:
        """Take one more finding."""
        self.findings.append(Finding(part, where, what))


def verify_backup(path: Path, file: IO[bytes], *, configuration: bool) -> BackupReport:
    """Verify an archive, and the copy of the configuration beside it.

    Args:
        path: where the archive lies.
        file: it, opened at its beginning.
        configuration: judge that copy, too.

    Raises:
        OSError: something cannot be read.
    """
    report = BackupReport(str(path))
    _judge_sum(path, file, report)
    file.seek(0)
    found: dict[str, Member | None] = {}
    try:
        _judge_members(file, found, report)
    except MalformedError as error:
        report.add(ARCHIVE, path.name, str(error))
    _judge_manifest(path, found, report)
    if configuration:
        _judge_configuration(path, report)
    return report


def _judge_sum(path: Path, file: IO[bytes], report: BackupReport) -> None:
    beside = sum_file(path)
    digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    try:
        said = beside.read_bytes()
    except FileNotFoundError:
        report.notes.append(f"{beside.name} is missing; the digests within count")
        return
    if said != f"{digest}  {path.name}\n".encode():
        report.add(ARCHIVE, path.name, f"its SHA-256 is not that of {beside.name}")


def _judge_members(
    file: IO[bytes], found: dict[str, Member | None], report: BackupReport
) -> None:
    """Read the members; what has no place in a backup is a finding and stays unread."""
    coverage = LogCoverage()
    reached: dict[int, int] = {}
    for info, content in members(file):
        place = place_of(info.name)
        if place is None or info.name in found or not (content or info.isdir()):
            report.add(ARCHIVE, repr(info.name[:128]), _FOREIGN)
            continue
        if content is None:
            found[info.name] = None
            continue
        name = place[1]
        hashing = _Hashing(content)
        reader = io.BufferedReader(hashing, _CHUNK_BYTES)
        if name == MANIFEST:
            report.manifest = _read_manifest(reader, report)
        elif name.endswith(POSITION_SUFFIX):
            reached = _read_position(name, reader, report)
        else:
            coverage.begin(name)
            _read_lines(name, reader, coverage, report)
        while reader.read(_CHUNK_BYTES):
            pass
        found[info.name] = Member(name, info.size, hashing.hash.hexdigest())
    report.covered = coverage.finish()
    report.lines = coverage.lines
    for problem in coverage.problems:
        where = f"{problem.file}:{problem.line}" if problem.line else problem.file
        report.add(LOG, where, problem.what)
    last = {one.partition: one.last_seq for one in report.covered}
    for partition, seq in reached.items():
        if seq > last.get(partition, -1):
            report.add(LOG, "position", f"partition {partition} goes to seq {seq}")


class _Hashing(io.RawIOBase):
    """Hashes what is read."""

    def __init__(self, content: IO[bytes]) -> None:
        self._content = content
        self.hash = hashlib.sha256()

    def readable(self) -> bool:
        """Tell that it is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as the content goes."""
        data = self._content.read(len(buffer))
        buffer[: len(data)] = data
        self.hash.update(data)
        return len(data)


def _read_manifest(reader: IO[bytes], report: BackupReport) -> Manifest | None:
    try:
        manifest = msgspec.json.decode(reader.read(MAX_SMALL_BYTES), type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        report.add(ARCHIVE, MANIFEST, str(error))
        return None
    if manifest.format != FORMAT:
        report.add(ARCHIVE, MANIFEST, f"format {manifest.format}, expected {FORMAT}")
        return None
    return manifest


def _read_position(
    name: str, reader: IO[bytes], report: BackupReport
) -> dict[int, int]:
    try:
        position = msgspec.json.decode(reader.read(MAX_SMALL_BYTES), type=Position)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        report.add(LOG, name, str(error))
        return {}
    return {partition: one.seq for partition, one in position.partitions.items()}


def _read_lines(
    name: str, reader: IO[bytes], coverage: LogCoverage, report: BackupReport
) -> None:
    """Have a log file's lines judged, compressed or not."""
    plain = reader
    if name.endswith(COMPRESSED_SUFFIX):
        plain = cast("IO[bytes]", gzip.GzipFile(fileobj=reader, mode="rb"))
    try:
        while line := plain.readline(MAX_LINE_BYTES):
            coverage.add(line)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        report.add(LOG, name, f"no gzip file, or not all of it: {error}")


def _judge_manifest(
    path: Path, found: dict[str, Member | None], report: BackupReport
) -> None:
    """Compare what is there with what the manifest says was put there."""
    manifest = report.manifest
    if manifest is None:
        report.add(ARCHIVE, path.name, f"it holds no {MANIFEST} that can be read")
        return
    log = Path(manifest.audit_log)
    if place_of(manifest.audit_log.removeprefix("/")) is None or not log.is_absolute():
        report.add(ARCHIVE, MANIFEST, f"no path: {manifest.audit_log[:128]!r}")
        return
    folder = member_folder(log)
    said = {f"{folder}/{one.name}": one for one in manifest.files}
    if found.get(folder) is None:
        found.pop(folder, None)
    if found.get(f"{folder}/{MANIFEST}") is not None:
        found.pop(f"{folder}/{MANIFEST}")
    for name in sorted(said.keys() | found.keys()):
        one, other = said.get(name), found.get(name)
        if one is None or not _belongs(one.name, log.name):
            report.add(ARCHIVE, repr(name[:128]), _FOREIGN)
        elif other is None:
            report.add(ARCHIVE, name, "it is missing")
        elif one != other:
            report.add(ARCHIVE, name, "it is not what the manifest says")


def _belongs(name: str, log: str) -> bool:
    return name == log + POSITION_SUFFIX or is_log_name(name, log)


def _judge_configuration(path: Path, report: BackupReport) -> None:
    manifest = report.manifest
    if manifest is None or manifest.configuration is None:
        report.notes.append("the archive names no copy of the configuration")
        return
    name = manifest.configuration
    copy = path.parent / name
    if not is_configuration_name(name) or not copy.is_dir():
        report.add(CONFIGURATION, repr(name[:128]), "it is not beside the archive")
        return
    for one in (copy, *sorted(copy.rglob("*"))):
        if one.lstat().st_mode & stat.S_IRWXO:
            report.add(CONFIGURATION, str(one), "others have rights to it")
    try:
        said = sum_file(copy).read_text(encoding="utf-8")
    except FileNotFoundError:
        report.notes.append(f"{sum_file(copy).name} is missing")
    else:
        if said != sums_of(copy, name):
            report.add(CONFIGURATION, name, f"not the files of {sum_file(copy).name}")
    file = copy / (manifest.configuration_file or "")
    if file.is_file() and file.parent == copy:
        for problem in read_environment_file(file).problems:
            report.add(CONFIGURATION, name, problem)
    else:
        report.add(CONFIGURATION, name, "the configuration file is missing")
