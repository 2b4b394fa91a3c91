r"""Compiled modules in a folder: one authenticated file each, the oldest go first.

Whoever can write the folder is not believed: a file counts only if its MAC verifies
under a key that the caller holds and no child ever sees, over everything in it and
what it is for. A file appears whole or not at all (written aside, synced, renamed).
The bytes that were verified are a sealed copy, so that nobody changes them after.

    magic 8 | mac 32 | environment 32 | module 32 | kind 1 | u32 shape | u64 body |
    shape bytes | body bytes                                    (little endian)

    mac = HMAC-SHA256(key, "wasm-executor/compile-cache/v1\0" || all after the mac)

Blocking: called on a thread (``artefact_cache``). Several processes may share one
folder. Not here: what is worth keeping, counting, logging.

Source: rename(2), fsync(2); RFC 2104.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import mmap
import os
import secrets
import stat
import struct
import time
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from stream_executor.model.codes import Code
from stream_executor.sandbox.compile import Artefact, Refusal
from stream_executor.sandbox.process import seal
from stream_executor.sandbox.protocol import MAX_SHAPE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAGIC = b"wxcache1"
TAG = b"wasm-executor/compile-cache/v1\0"
HEAD = struct.Struct("<8s32s32s32sBIQ")
_MAC_END = 40
_ARTEFACT, _REFUSAL = 0, 1
REFUSED = "refused"
"""Sub-folder of modules that cannot be compiled; its mtime tells of changes."""
MAX_REFUSALS = 4096
MAX_REFUSAL_BYTES = 8 * 1024
# A module that was only refused because its host was overloaded is tried again.
REFUSAL_LIFE_S = 24 * 3600
_ABANDONED_S = 600  # a file that is still being written is younger
_TEMPORARY = ".tmp"
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_encode_refusal = msgspec.msgpack.Encoder().encode
_decode_refusal = msgspec.msgpack.Decoder(tuple[Code, str]).decode


class Damage(StrEnum):
    """Why a file is not believed."""

    FOREIGN = "foreign"  # no file of this format
    TORN = "torn"  # its length is not what it says
    SWAPPED = "swapped"  # made for another module, engine or machine
    FORGED = "forged"  # the MAC does not verify


class Environments(NamedTuple):
    """What files must have been made for (32 bytes each).

    Attributes:
        artefact: engine, its configuration, CPU, and the code that looks at modules.
        refusal: that and the limits of compiling: raising them tries again.
    """

    artefact: bytes
    refusal: bytes


class Entry(NamedTuple):
    """A file as listings show it; nothing of it is verified.

    Attributes:
        module: digest in hex.
        refused: whether it says that the module cannot be compiled.
        used_s: when it was last used (a refusal: made), seconds since 1970.
    """

    module: str
    refused: bool
    size: int
    used_s: float
    path: Path


class ArtefactFolder:
    """An open folder.

    Args:
        path: made if it is not there; nobody but us may look into it from then on.
        key: of the MAC; at least 32 bytes.
        environments: what files must be for.
        max_bytes: of all files together; least recently used go first.
        max_artefact_bytes: of one compiled module.

    Raises:
        OSError: it cannot be used.
    """

    def __init__(
        self,
        path: Path,
        key: bytes,
        environments: Environments,
        max_bytes: int,
        max_artefact_bytes: int,
    ) -> None:
        self._key, self._for = key, environments
        self._max_bytes, self._max_artefact_bytes = max_bytes, max_artefact_bytes
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        (path / REFUSED).mkdir(mode=0o700, exist_ok=True)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        self._folder = os.open(path, flags)
        try:
            os.fchmod(self._folder, 0o700)
            self._refused = os.open(REFUSED, flags, dir_fd=self._folder)
        except BaseException:
            os.close(self._folder)
            raise

    def close(self) -> None:
        """Let the folder go."""
        os.close(self._folder)
        os.close(self._refused)

    # -- reading ----------------------------------------------------------------------

    def read_artefact(self, s256: bytes) -> Artefact | Damage | None:
        """Give a module's artefact; its descriptor is the caller's.

        A file that is not believed is deleted.
        """
        name = _name(s256, self._for.artefact)
        with _opened(name, self._folder) as fd:
            if fd is None:
                return None
            found = self._read_artefact(fd, s256)
            if isinstance(found, Damage):
                _unlink(name, self._folder)
            else:
                with contextlib.suppress(OSError):
                    os.utime(fd)  # least recently used is least recently touched
            return found

    def read_refusal(self, s256: bytes) -> Refusal | Damage | None:
        """Give what is remembered of a module that cannot be compiled."""
        name = _name(s256, self._for.refusal)
        with _opened(name, self._refused) as fd:
            if fd is None:
                return None
            found: Refusal | Damage | None = None
            if time.time() - os.fstat(fd).st_mtime < REFUSAL_LIFE_S:
                found = self._read_refusal(fd, s256)
            if not isinstance(found, Refusal):
                _unlink(name, self._refused)
            return found

    def refusals(self) -> tuple[int, frozenset[bytes]]:
        """Give the remembered modules' digests, and a stamp that changes with them.

        Those that are a day old are forgotten here.
        """
        oldest = time.time() - REFUSAL_LIFE_S
        for name, facts in _files(self._refused):
            if facts.st_mtime <= oldest:
                _unlink(name, self._refused)
        stamp = self.refusals_stamp()
        names = (name.partition(".")[0] for name, _ in _files(self._refused))
        return stamp, frozenset(bytes.fromhex(n) for n in names if _is_digest(n))

    def refusals_stamp(self) -> int:
        """Give a number that changes when a refusal is added or deleted; one stat."""
        return os.fstat(self._refused).st_mtime_ns

    def _read_artefact(self, fd: int, s256: bytes) -> Artefact | Damage:
        head = self._read_head(fd, s256, _ARTEFACT)
        if isinstance(head, Damage):
            return head
        raw, shape_size, size = head
        if size > self._max_artefact_bytes or shape_size > MAX_SHAPE_BYTES:
            return Damage.FORGED  # no compile child makes one
        shape = os.read(fd, shape_size)
        copy = os.memfd_create("artefact", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            _copy(fd, copy, HEAD.size + shape_size, size)
            seal(copy)  # what is verified now stays what it is
            with mmap.mmap(copy, size, access=mmap.ACCESS_READ) as body:
                if hmac.compare_digest(raw[8:_MAC_END], self._mac(raw, shape, body)):
                    return Artefact(copy, size, shape)
        except BaseException:
            os.close(copy)
            raise
        os.close(copy)
        return Damage.FORGED

    def _read_refusal(self, fd: int, s256: bytes) -> Refusal | Damage:
        head = self._read_head(fd, s256, _REFUSAL)
        if isinstance(head, Damage):
            return head
        raw, shape_size, size = head
        if shape_size or size > MAX_REFUSAL_BYTES:
            return Damage.FORGED
        body = os.read(fd, size)
        if not hmac.compare_digest(raw[8:_MAC_END], self._mac(raw, b"", body)):
            return Damage.FORGED
        return Refusal(*_decode_refusal(body))

    def _read_head(
        self, fd: int, s256: bytes, kind: int
    ) -> tuple[bytes, int, int] | Damage:
        facts = os.fstat(fd)
        raw = os.read(fd, HEAD.size) if stat.S_ISREG(facts.st_mode) else b""
        if raw[: len(MAGIC)] != MAGIC[: len(raw)] or not raw:
            return Damage.FOREIGN
        if len(raw) < HEAD.size:
            return Damage.TORN
        _, _, environment, module, found_kind, shape_size, size = HEAD.unpack(raw)
        wanted = self._for[kind]
        if (environment, module, found_kind) != (wanted, s256, kind):
            return Damage.SWAPPED
        if not size or HEAD.size + shape_size + size != facts.st_size:
            return Damage.TORN
        return raw, shape_size, size

    def _mac(self, raw: bytes, shape: bytes, body: bytes | mmap.mmap) -> bytes:
        mac = hmac.new(self._key, TAG, "sha256")
        mac.update(raw[_MAC_END:])
        mac.update(shape)
        mac.update(body)
        return mac.digest()

    # -- writing ----------------------------------------------------------------------

    def write_artefact(self, s256: bytes, artefact: Artefact) -> None:
        """Keep an artefact; one above the folder's bound is not kept.

        Raises:
            OSError: it could not be written; nothing of it remains.
        """
        if artefact.size + len(artefact.shape) + HEAD.size > self._max_bytes:
            return
        self.make_room(artefact.size)
        with mmap.mmap(artefact.fd, artefact.size, access=mmap.ACCESS_READ) as body:
            head = self._head(_ARTEFACT, s256, artefact.shape, body)
        name = _name(s256, self._for.artefact)
        with _written(name, self._folder) as fd:
            _write(fd, head + artefact.shape)
            _copy(artefact.fd, fd, 0, artefact.size)

    def write_refusal(self, s256: bytes, refusal: Refusal) -> None:
        """Remember that a module cannot be compiled; raises like ``write_artefact``."""
        body = _encode_refusal((refusal.code, refusal.message))
        head = self._head(_REFUSAL, s256, b"", body)
        with _written(_name(s256, self._for.refusal), self._refused) as fd:
            _write(fd, head + body)

    def make_room(self, size: int = 0) -> int:
        """Delete what is least recently used until ``size`` bytes more fit.

        Files that nobody finished are deleted, too.

        Returns:
            Bytes that remain.
        """
        kept = self._bound(self._folder, self._max_bytes - size, None)
        return kept + self._bound(self._refused, self._max_bytes, MAX_REFUSALS)

    @staticmethod
    def _bound(folder: int, most_bytes: int, most_files: int | None) -> int:
        files, now = [], time.time()
        for name, facts in _files(folder):
            if name.endswith(_TEMPORARY) and now - facts.st_mtime > _ABANDONED_S:
                _unlink(name, folder)
            elif _is_digest(name.partition(".")[0]):
                files.append((facts.st_mtime, facts.st_size, name))
        files.sort()
        total, count = sum(size for _, size, _ in files), len(files)
        for _, size, name in files:
            if total <= most_bytes and (most_files is None or count <= most_files):
                break
            _unlink(name, folder)
            total, count = total - size, count - 1
        return total

    def _head(
        self, kind: int, s256: bytes, shape: bytes, body: bytes | mmap.mmap
    ) -> bytes:
        fields = (self._for[kind], s256, kind, len(shape), len(body))
        raw = HEAD.pack(MAGIC, bytes(32), *fields)
        return HEAD.pack(MAGIC, self._mac(raw, shape, body), *fields)


def entries(path: Path) -> list[Entry]:
    """List a folder's files, most recently used first; nothing is verified.

    Raises:
        OSError: it cannot be read.
    """
    found = []
    for folder, refused in ((path, False), (path / REFUSED, True)):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name, facts in _files(fd):
                module = name.partition(".")[0]
                if _is_digest(module):
                    used = (facts.st_size, facts.st_mtime, folder / name)
                    found.append(Entry(module, refused, *used))
        finally:
            os.close(fd)
    return sorted(found, key=lambda entry: -entry.used_s)


def _is_digest(text: str) -> bool:
    return len(text) == 64 and not set(text) - set("0123456789abcdef")  # noqa: PLR2004 - hex


def _name(s256: bytes, environment: bytes) -> str:
    return f"{s256.hex()}.{environment.hex()[:16]}"


def _files(folder: int) -> Iterator[tuple[str, os.stat_result]]:
    """Give a folder's regular files, but those that others delete meanwhile."""
    with os.scandir(folder) as found:
        for entry in found:
            with contextlib.suppress(FileNotFoundError):
                if entry.is_file(follow_symlinks=False):
                    yield entry.name, entry.stat(follow_symlinks=False)


@contextlib.contextmanager
def _opened(name: str, folder: int) -> Iterator[int | None]:
    """Open a file to read; None if there is none. A link is deleted, not followed."""
    try:
        fd = os.open(name, _OPEN, dir_fd=folder)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP):
            raise
        if error.errno == errno.ELOOP:
            _unlink(name, folder)
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _written(name: str, folder: int) -> Iterator[int]:
    """Give a file to fill; at the end it has this name, whole and on the disk."""
    temporary = f".{secrets.token_hex(8)}{_TEMPORARY}"
    fd = os.open(temporary, _CREATE, 0o600, dir_fd=folder)
    try:
        try:
            yield fd
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        _unlink(temporary, folder)
        raise
    os.fsync(folder)


def _write(fd: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def _copy(source: int, target: int, start: int, size: int) -> None:
    """Append ``size`` bytes of a file to another.

    Raises:
        OSError: the source is shorter than that.
    """
    at, end = start, start + size
    while at < end:
        copied = os.sendfile(target, source, at, end - at)
        if not copied:
            raise OSError(f"a file ended at {at} of {end} bytes")
        at += copied


def _unlink(name: str, folder: int) -> None:
    with contextlib.suppress(OSError):  # somebody else did, or it is no file
        os.unlink(name, dir_fd=folder)
