"""A WASI preview 1 process in memory: deterministic, metered, nothing behind it.

Arguments, environment, standard streams, read-only files and exit code of one job.
Clocks stand at the job's time and advance by rule: a microsecond a reading, and the
whole duration of a sleep, which is instant. Randomness is a stream derived from the
job's seed. Whatever would touch the outside gives an error number. So the same job
gives the same bytes and the same fuel on every machine.

Every call costs fuel: a fixed amount, one a byte moved, one a vector, subscription
or entry of a listed directory. Counts and bytes of one call are capped before memory
is touched. Pure:
memory and fuel are handed in (``GuestMemory``), which is also how it is tested.

Not here: the native glue (``wasi_host``).

Source: WASI preview 1 witx; names, layouts and numbers as there.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import TYPE_CHECKING

from stream_executor.model.job import WasiInput
from stream_executor.sandbox.wasi_files import FileTree, Node
from stream_executor.sandbox.wasi_types import (
    CONSTANT,
    Errno,
    FileType,
    GuestExit,
    GuestMemory,
    WasiError,
)

if TYPE_CHECKING:
    from stream_executor.model.job import Job
    from stream_executor.sandbox.wasi_files import Path

CALL_FUEL = 100  # about what a host call costs us in guest instructions
MAX_VECTORS = 1024
MAX_TRANSFER_BYTES = 1024 * 1024
MAX_DESCRIPTORS = 64
CLOCK_STEP_NS = 1000
ROOT_FD = 3

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_REALTIME, _CLOCKS = 0, 4
_SET, _CUR, _END = 0, 1, 2
_TAG_CLOCK, _ABSOLUTE = 0, 1
_OPEN_CREATE, _OPEN_DIRECTORY, _OPEN_EXCLUSIVE, _OPEN_TRUNCATE = 1, 2, 4, 8
_U64 = 2**64 - 1

_RIGHT_READ, _RIGHT_SEEK, _RIGHT_TELL, _RIGHT_WRITE = 1 << 1, 1 << 2, 1 << 5, 1 << 6
_RIGHT_ADVISE, _RIGHT_OPEN, _RIGHT_READDIR = 1 << 7, 1 << 13, 1 << 14
_RIGHT_PATH_STAT, _RIGHT_STAT, _RIGHT_POLL = 1 << 18, 1 << 21, 1 << 27
_STREAM_RIGHTS = _RIGHT_STAT | _RIGHT_POLL
_FILE_RIGHTS = _STREAM_RIGHTS | _RIGHT_READ | _RIGHT_SEEK | _RIGHT_TELL | _RIGHT_ADVISE
_DIRECTORY_RIGHTS = (
    _RIGHT_STAT | _RIGHT_OPEN | _RIGHT_READDIR | _RIGHT_PATH_STAT | _RIGHT_ADVISE
)

_U32_AT, _U64_AT = struct.Struct("<I"), struct.Struct("<Q")
_VECTOR = struct.Struct("<II")
_FDSTAT = struct.Struct("<BxH4xQQ")
_FILESTAT = struct.Struct("<QQB7xQQQQQ")
_DIRENT = struct.Struct("<QQIB3x")
_PRESTAT = struct.Struct("<B3xI")
_SUBSCRIPTION = struct.Struct("<QB7xI4xQQH6x")
_EVENT = struct.Struct("<QHB5xQH6x")
_NO_INPUT = WasiInput((), (), ())


class _Descriptor:
    """An open descriptor: a stream, a file with a position, or a directory."""

    __slots__ = ("inode", "kind", "path", "position", "rights", "source")

    def __init__(self, kind: FileType, rights: int, source: bytes = b"") -> None:
        self.kind, self.rights, self.source = kind, rights, source
        self.position = 0
        self.path: Path = ()
        self.inode = 0


class WasiProcess:
    """One guest's process; its methods are the host functions by their names.

    Args:
        job: a WASI job.
        memory: the guest's memory and fuel.
        bundle: the module's own files, if it has any; the job's stand beside them.

    Attributes:
        stdout, stderr: what was kept of the output, together at most
            ``job.output_bytes``; what comes after is dropped, the guest goes on.
        stdout_truncated, stderr_truncated: whether that happened.
        exit_code: set by ``proc_exit``.

    Raises:
        ValueError: the job's files contradict each other.
    """

    def __init__(
        self, job: Job, memory: GuestMemory, bundle: FileTree | None = None
    ) -> None:
        given = job.wasi or _NO_INPUT
        self._memory = memory
        self._tree = FileTree(given.files, bundle)
        self._args = [a.encode() + b"\0" for a in given.args or ("module",)]
        self._env = [f"{name}={value}\0".encode() for name, value in given.env]
        self._start_ns, self._elapsed_ns = job.now_ms * 1_000_000, 0
        self._seed, self._blocks, self._random = job.seed, 0, b""
        self._room = job.output_bytes
        self.stdout, self.stderr = bytearray(), bytearray()
        self.stdout_truncated = self.stderr_truncated = False
        self.exit_code: int | None = None
        root = _Descriptor(FileType.DIRECTORY, _DIRECTORY_RIGHTS)
        root.inode = 1
        unknown, write = FileType.UNKNOWN, _STREAM_RIGHTS | _RIGHT_WRITE
        self._fds: dict[int, _Descriptor] = {
            _STDIN: _Descriptor(unknown, _STREAM_RIGHTS | _RIGHT_READ, job.payload),
            _STDOUT: _Descriptor(unknown, write),
            _STDERR: _Descriptor(unknown, write),
            ROOT_FD: root,
        }

    # -- arguments, environment -----------------------------------------------------

    def args_get(self, pointers: int, text: int) -> int:
        return self._strings(self._args, pointers, text)

    def args_sizes_get(self, count: int, size: int) -> int:
        return self._sizes(self._args, count, size)

    def environ_get(self, pointers: int, text: int) -> int:
        return self._strings(self._env, pointers, text)

    def environ_sizes_get(self, count: int, size: int) -> int:
        return self._sizes(self._env, count, size)

    def _strings(self, values: list[bytes], pointers: int, text: int) -> int:
        joined = b"".join(values)
        self._memory.charge(len(joined) + len(values))
        addresses, at = bytearray(), text
        for value in values:
            addresses += _U32_AT.pack(at & 0xFFFFFFFF)
            at += len(value)
        self._memory.write(pointers, bytes(addresses))
        self._memory.write(text, joined)
        return Errno.SUCCESS

    def _sizes(self, values: list[bytes], count: int, size: int) -> int:
        self._memory.write(count, _U32_AT.pack(len(values)))
        self._memory.write(size, _U32_AT.pack(sum(map(len, values))))
        return Errno.SUCCESS

    # -- time, chance, the end ------------------------------------------------------

    def clock_res_get(self, clock: int, at: int) -> int:
        if clock >= _CLOCKS:
            return Errno.INVAL
        self._memory.write(at, _U64_AT.pack(CLOCK_STEP_NS))
        return Errno.SUCCESS

    def clock_time_get(self, clock: int, precision: int, at: int) -> int:
        del precision
        if clock >= _CLOCKS:
            return Errno.INVAL
        self._elapsed_ns += CLOCK_STEP_NS
        self._memory.write(at, _U64_AT.pack(self._now(clock)))
        return Errno.SUCCESS

    def _now(self, clock: int) -> int:
        start = self._start_ns if clock == _REALTIME else 0
        return min(start + self._elapsed_ns, _U64)

    def random_get(self, at: int, length: int) -> int:
        if length > MAX_TRANSFER_BYTES:
            return Errno.INVAL
        self._memory.charge(length)
        parts = [self._random]
        have = len(self._random)
        while have < length:
            counter = self._blocks.to_bytes(8, "little")
            block = blake2b(counter, key=self._seed, person=b"wx-random").digest()
            self._blocks += 1
            parts.append(block)
            have += len(block)
        stream = b"".join(parts)
        self._random = stream[length:]
        self._memory.write(at, stream[:length])
        return Errno.SUCCESS

    def proc_exit(self, code: int) -> int:
        self.exit_code = code
        raise GuestExit

    def poll_oneoff(
        self, subscriptions: int, events: int, count: int, done: int
    ) -> int:
        """Answer at once: ready descriptors, else the clock that would ring first."""
        if not 0 < count <= MAX_VECTORS:
            return Errno.INVAL
        self._memory.charge(count)
        raw = self._memory.read(subscriptions, count * _SUBSCRIPTION.size)
        ready: list[bytes] = []
        ringing: list[tuple[int, bytes]] = []
        for user, tag, what, timeout, _, flags in _SUBSCRIPTION.iter_unpack(raw):
            if tag == _TAG_CLOCK:
                if what >= _CLOCKS:
                    ready.append(_EVENT.pack(user, Errno.INVAL, tag, 0, 0))
                    continue
                now = self._now(what)
                wait = max(timeout - now, 0) if flags & _ABSOLUTE else timeout
                event = _EVENT.pack(user, Errno.SUCCESS, tag, 0, 0)
                ringing.append((wait, event))
            else:
                ready.append(self._ready(user, tag, what))
        if not ready and ringing:
            first = min(wait for wait, _ in ringing)
            self._elapsed_ns = min(self._elapsed_ns + first, _U64)
            ready = [event for wait, event in ringing if wait == first]
        self._memory.write(events, b"".join(ready))
        self._memory.write(done, _U32_AT.pack(len(ready)))
        return Errno.SUCCESS

    def _ready(self, user: int, tag: int, fd: int) -> bytes:
        descriptor = self._fds.get(fd)
        if descriptor is None:
            return _EVENT.pack(user, Errno.BADF, tag & 0xFF, 0, 0)
        left = max(len(descriptor.source) - descriptor.position, 0)
        return _EVENT.pack(user, Errno.SUCCESS, tag & 0xFF, left, 0)

    # -- descriptors ----------------------------------------------------------------

    def _descriptor(self, fd: int) -> _Descriptor:
        try:
            return self._fds[fd]
        except KeyError:
            raise WasiError(Errno.BADF) from None

    def fd_close(self, fd: int) -> int:
        self._descriptor(fd)
        del self._fds[fd]
        return Errno.SUCCESS

    def fd_renumber(self, fd: int, to: int) -> int:
        descriptor = self._descriptor(fd)
        self._descriptor(to)
        del self._fds[fd]
        self._fds[to] = descriptor
        return Errno.SUCCESS

    def fd_advise(self, fd: int, offset: int, length: int, advice: int) -> int:
        del offset, length, advice
        self._descriptor(fd)
        return Errno.SUCCESS

    def fd_datasync(self, fd: int) -> int:
        self._descriptor(fd)
        return Errno.SUCCESS

    def fd_sync(self, fd: int) -> int:
        self._descriptor(fd)
        return Errno.SUCCESS

    def fd_fdstat_get(self, fd: int, at: int) -> int:
        descriptor = self._descriptor(fd)
        inherited = _FILE_RIGHTS | _DIRECTORY_RIGHTS
        if descriptor.kind != FileType.DIRECTORY:
            inherited = 0
        stat = _FDSTAT.pack(descriptor.kind, 0, descriptor.rights, inherited)
        self._memory.write(at, stat)
        return Errno.SUCCESS

    def fd_fdstat_set_flags(self, fd: int, flags: int) -> int:
        del flags  # appending and blocking mean nothing here
        self._descriptor(fd)
        return Errno.SUCCESS

    def fd_fdstat_set_rights(self, fd: int, base: int, inheriting: int) -> int:
        del inheriting
        descriptor = self._descriptor(fd)
        if base & ~descriptor.rights:
            return Errno.PERM
        descriptor.rights = base
        return Errno.SUCCESS

    def fd_filestat_get(self, fd: int, at: int) -> int:
        descriptor = self._descriptor(fd)
        size = len(descriptor.source) if descriptor.kind == FileType.REGULAR else 0
        self._memory.write(at, self._filestat(descriptor.kind, descriptor.inode, size))
        return Errno.SUCCESS

    def _filestat(self, kind: FileType, inode: int, size: int) -> bytes:
        time = self._start_ns & _U64
        return _FILESTAT.pack(1, inode, kind, 1, size, time, time, time)

    def fd_prestat_get(self, fd: int, at: int) -> int:
        if fd != ROOT_FD or fd not in self._fds:
            return Errno.BADF
        self._memory.write(at, _PRESTAT.pack(0, 1))
        return Errno.SUCCESS

    def fd_prestat_dir_name(self, fd: int, at: int, length: int) -> int:
        if fd != ROOT_FD or fd not in self._fds:
            return Errno.BADF
        if length < 1:
            return Errno.NAMETOOLONG
        self._memory.write(at, b"/")
        return Errno.SUCCESS

    # -- reading and writing --------------------------------------------------------

    def _vectors(self, at: int, count: int) -> list[tuple[int, int]]:
        """Read I/O vectors, cut to the most that one call moves."""
        if count > MAX_VECTORS:
            raise WasiError(Errno.INVAL)
        self._memory.charge(count)
        raw = self._memory.read(at, count * _VECTOR.size)
        room, vectors = MAX_TRANSFER_BYTES, []
        for place, length in _VECTOR.iter_unpack(raw):
            part = min(length, room)
            if part:
                vectors.append((place, part))
                room -= part
        return vectors

    def fd_write(self, fd: int, vectors: int, count: int, written: int) -> int:
        descriptor = self._descriptor(fd)
        if not descriptor.rights & _RIGHT_WRITE or fd not in (_STDOUT, _STDERR):
            return Errno.BADF
        total = 0
        for place, length in self._vectors(vectors, count):
            self._memory.charge(length)
            self._keep(fd, self._memory.read(place, length))
            total += length
        self._memory.write(written, _U32_AT.pack(total))
        return Errno.SUCCESS

    def _keep(self, fd: int, data: bytes) -> None:
        kept = data[: self._room]
        self._room -= len(kept)
        cut = len(kept) < len(data)
        if fd == _STDOUT:
            self.stdout += kept
            self.stdout_truncated |= cut
        else:
            self.stderr += kept
            self.stderr_truncated |= cut

    def fd_read(self, fd: int, vectors: int, count: int, read: int) -> int:
        descriptor = self._descriptor(fd)
        total = self._read(descriptor, descriptor.position, vectors, count)
        descriptor.position += total
        self._memory.write(read, _U32_AT.pack(total))
        return Errno.SUCCESS

    def fd_pread(self, fd: int, vectors: int, count: int, at: int, read: int) -> int:
        descriptor = self._descriptor(fd)
        if descriptor.kind == FileType.UNKNOWN:
            return Errno.SPIPE
        total = self._read(descriptor, at, vectors, count)
        self._memory.write(read, _U32_AT.pack(total))
        return Errno.SUCCESS

    def _read(self, descriptor: _Descriptor, at: int, vectors: int, count: int) -> int:
        if descriptor.kind == FileType.DIRECTORY:
            raise WasiError(Errno.ISDIR)
        if not descriptor.rights & _RIGHT_READ:
            raise WasiError(Errno.BADF)
        total = 0
        for place, length in self._vectors(vectors, count):
            part = descriptor.source[at + total : at + total + length]
            self._memory.charge(len(part))
            self._memory.write(place, part)
            total += len(part)
            if len(part) < length:
                break
        return total

    def fd_seek(self, fd: int, delta: int, whence: int, at: int) -> int:
        descriptor = self._descriptor(fd)
        if descriptor.kind != FileType.REGULAR:
            return Errno.SPIPE
        bases = {_SET: 0, _CUR: descriptor.position, _END: len(descriptor.source)}
        if whence not in bases:
            return Errno.INVAL
        signed = delta - 2**64 if delta >= 2**63 else delta
        position = bases[whence] + signed
        if not 0 <= position < 2**63:
            return Errno.INVAL
        descriptor.position = position
        self._memory.write(at, _U64_AT.pack(position))
        return Errno.SUCCESS

    def fd_tell(self, fd: int, at: int) -> int:
        return self.fd_seek(fd, 0, _CUR, at)

    # -- files ----------------------------------------------------------------------

    def _find(self, fd: int, at: int, length: int) -> tuple[Path, Node]:
        descriptor = self._descriptor(fd)
        if descriptor.kind != FileType.DIRECTORY:
            raise WasiError(Errno.NOTDIR)
        if length > MAX_TRANSFER_BYTES:
            raise WasiError(Errno.NAMETOOLONG)
        self._memory.charge(length)
        return self._tree.resolve(descriptor.path, self._memory.read(at, length))

    def path_open(
        self,
        fd: int,
        follow: int,
        path: int,
        length: int,
        flags: int,
        rights: int,
        inheriting: int,
        mode: int,
        opened: int,
    ) -> int:
        del follow, inheriting, mode
        found, node = self._find(fd, path, length)
        if flags & (_OPEN_TRUNCATE | _OPEN_EXCLUSIVE) or rights & _RIGHT_WRITE:
            return Errno.ISDIR if node.data is None else Errno.ROFS
        if node.data is None:
            kind, most = FileType.DIRECTORY, _DIRECTORY_RIGHTS
        elif flags & _OPEN_DIRECTORY:
            return Errno.NOTDIR
        else:
            kind, most = FileType.REGULAR, _FILE_RIGHTS
        number = self._free()
        descriptor = _Descriptor(kind, rights & most, node.data or b"")
        if kind == FileType.DIRECTORY:
            descriptor.rights = most
        descriptor.path, descriptor.inode = found, node.inode
        self._memory.write(opened, _U32_AT.pack(number))
        self._fds[number] = descriptor
        return Errno.SUCCESS

    def _free(self) -> int:
        """Give the lowest free descriptor number."""
        if len(self._fds) >= MAX_DESCRIPTORS:
            raise WasiError(Errno.MFILE)
        return next(n for n in range(MAX_DESCRIPTORS) if n not in self._fds)

    def path_filestat_get(
        self, fd: int, follow: int, path: int, length: int, at: int
    ) -> int:
        del follow
        _, node = self._find(fd, path, length)
        kind = FileType.DIRECTORY if node.data is None else FileType.REGULAR
        size = len(node.data or b"")
        self._memory.write(at, self._filestat(kind, node.inode, size))
        return Errno.SUCCESS

    def fd_readdir(self, fd: int, at: int, length: int, cookie: int, used: int) -> int:
        descriptor = self._descriptor(fd)
        if descriptor.kind != FileType.DIRECTORY:
            return Errno.NOTDIR
        length = min(length, MAX_TRANSFER_BYTES)
        packed = bytearray()
        entries = self._tree.entries(descriptor.path)
        self._memory.charge(len(entries))
        for index in range(cookie, len(entries)):
            if len(packed) >= length:
                break
            name, node = entries[index]
            encoded = name.encode()
            kind = FileType.DIRECTORY if node.data is None else FileType.REGULAR
            packed += _DIRENT.pack(index + 1, node.inode, len(encoded), kind)
            packed += encoded
        kept = bytes(packed[:length])  # the last one may be cut: the guest asks again
        self._memory.charge(len(kept))
        self._memory.write(at, kept)
        self._memory.write(used, _U32_AT.pack(len(kept)))
        return Errno.SUCCESS


def answer(process: WasiProcess, name: str, arguments: tuple[int, ...]) -> int:
    """Make one host call; give its errno. What it costs is charged first.

    Raises:
        OutOfFuel: it costs more than is left. GuestExit: it was ``proc_exit``.
    """
    process._memory.charge(CALL_FUEL)  # noqa: SLF001 - its other half
    constant = CONSTANT.get(name)
    if constant is not None:
        return constant
    try:
        method = getattr(process, name)
        return int(method(*arguments))
    except WasiError as error:
        return error.errno
