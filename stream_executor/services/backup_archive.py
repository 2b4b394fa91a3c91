"""What a backup consists of: names, manifest, and how an archive's members are read.

    wasm-audit-YYYYMMDD.tar.gz            audit.log, its rotated files, its position,
                                          and the manifest as the last member
    wasm-audit-YYYYMMDD.tar.gz.sha256     for `sha256sum -c`
    wasm-executor-config-YYYYMMDD/        the folder of the configuration file
    wasm-executor-config-YYYYMMDD.sha256  for `sha256sum -c`

Names of members are relative to ``/``, so that `tar -xzf ARCHIVE -C /` puts every file
where it was. Source: the operations manual, "Backup and Recovery"; ADR 0027.
"""

from __future__ import annotations

import gzip
import re
import tarfile
import zlib
from datetime import date
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, cast

import msgspec

from stream_executor.model.errors import MalformedError

if TYPE_CHECKING:
    from collections.abc import Iterator

MANIFEST = "backup-manifest.json"
SUM_SUFFIX = ".sha256"
FORMAT = 1
_DAY = r"(\d{4})(\d\d)(\d\d)"
_ARCHIVE = re.compile(rf"wasm-audit-{_DAY}\.tar\.gz")
_CONFIGURATION = re.compile(rf"wasm-executor-config-{_DAY}")
# Manifest, position, and what tar puts in front of a member: kilobytes.
MAX_SMALL_BYTES = 16 * 1024 * 1024
# One a day for seven years, and more; tar remembers every one.
MAX_MEMBERS = 50_000
_CHUNK_BYTES = 1024 * 1024


class Member(msgspec.Struct, frozen=True):
    """A file of the archive; its name is the last part of the member's."""

    name: str
    size_bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was backed up.

    Attributes:
        format: of this manifest.
        release: what made the backup.
        made: when, RFC 3339.
        audit_log: ``AUDIT_LOG_PATH`` at that time.
        configuration: name of the configuration's copy beside the archive; None
            without one.
        configuration_file: name of the configuration file in that copy.
        log_ids: audit partition → log, as far as the position names them.
        files: all members but the manifest.
    """

    format: int
    release: str
    made: str
    audit_log: str
    configuration: str | None
    configuration_file: str | None
    log_ids: dict[int, str]
    files: list[Member]


def archive_name(day: date) -> str:
    """Give the name of a day's archive."""
    return f"wasm-audit-{day:%Y%m%d}.tar.gz"


def configuration_name(day: date) -> str:
    """Give the name of a day's copy of the configuration."""
    return f"wasm-executor-config-{day:%Y%m%d}"


def sum_file(path: Path) -> Path:
    """Give the file with the checksum, or checksums, of an archive or a copy."""
    return path.with_name(path.name + SUM_SUFFIX)


def archives(folder: Path) -> dict[date, Path]:
    """Give the archives of a folder by the day in their names, the oldest first."""
    return _dated(folder, _ARCHIVE)


def configurations(folder: Path) -> dict[date, Path]:
    """Give the copies of the configuration by day, the oldest first."""
    return _dated(folder, _CONFIGURATION)


def is_configuration_name(name: str) -> bool:
    """Tell whether a copy of the configuration has such a name."""
    return _CONFIGURATION.fullmatch(name) is not None


def _dated(folder: Path, pattern: re.Pattern[str]) -> dict[date, Path]:
    found: dict[date, Path] = {}
    for path in folder.iterdir():
        matched = pattern.fullmatch(path.name)
        if matched is None:
            continue
        try:
            day = date(*map(int, matched.groups()))
        except ValueError:  # 20261399
            continue
        found[day] = path
    return dict(sorted(found.items()))


def member_folder(audit_log: Path) -> str:
    """Give the folder of a log as members name it: relative to ``/``."""
    return str(audit_log.parent.relative_to("/"))


def members(file: IO[bytes]) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """Give an archive's members in order, each with what reads its content.

    Nothing is written anywhere, names are given as they are, and memory is bounded
    whatever the archive says. When the last member has been given, all of the file has
    been read and gzip's own checksum compared.

    Args:
        file: the archive, at its beginning.

    Yields:
        The header, and the content of a regular file; None for anything else. A
        content is to be read before the next member is asked for.

    Raises:
        MalformedError: this is no gzip file with a tar in it, or not all of one; also
            from reading a content.
    """
    unpacked = _Unpacked(file)
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", unpacked), mode="r|") as tar:
            for _ in range(MAX_MEMBERS):
                if (info := tar.next()) is None:
                    break
                if info.type != tarfile.REGTYPE or info.issparse():
                    yield info, None
                    continue
                content = cast("IO[bytes]", tar.extractfile(info))
                unpacked.expect(info.size)
                yield info, content
                while content.read(_CHUNK_BYTES):
                    pass
                unpacked.expect(None)
            else:
                raise MalformedError(f"more than {MAX_MEMBERS} members")
            stream = cast("IO[bytes]", tar.fileobj)
            while data := stream.read(_CHUNK_BYTES):
                if data.strip(b"\0"):
                    raise MalformedError("data behind the last member")
    except (tarfile.TarError, ValueError, ArithmeticError, RecursionError) as error:
        raise MalformedError(f"no tar: {error}") from error


class _Unpacked:
    """The bytes that tar reads: whole within a member, few between members."""

    def __init__(self, file: IO[bytes]) -> None:
        self._unpacked = gzip.GzipFile(fileobj=file, mode="rb")
        self.expect(None)

    def expect(self, content_bytes: int | None) -> None:
        """Say what comes: a content of so many bytes, or else a header or the end."""
        self._within = content_bytes is not None
        self._left = MAX_SMALL_BYTES + (content_bytes or 0)

    def read(self, size: int) -> bytes:
        """Give the next bytes."""
        try:
            data = self._unpacked.read(size)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise MalformedError(f"no gzip file, or not all of it: {error}") from error
        self._left -= len(data)
        if self._left < 0:
            raise MalformedError("a header is too long, or what follows the members")
        if self._within and not data:
            raise MalformedError("it ends within a member")
        return data


def place_of(name: str) -> tuple[str, str] | None:
    """Split a member's name into folder and file; None for one that leads elsewhere."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or str(path) != name.removesuffix("/"):
        return None
    return str(path.parent), path.name
