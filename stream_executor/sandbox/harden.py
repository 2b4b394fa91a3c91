"""Take a process's permissions away, by hand, before it sees a guest.

What is applied, in this order: death with the parent, resource limits, another user
(when root), no new privileges, Landlock with zero rules (no file, no TCP port, no
abstract socket, no signal to others), and a seccomp allow-list (everything else
EPERM, clone3 ENOSYS so that the C library falls back to clone, foreign calling
conventions kill). Threads made later inherit all of it; there must be none before,
because Landlock and seccomp bind the calling thread only.

One call passes by every filter on kernels from 6.18 on: uprobe(), which outside of a
trampoline that the kernel made for a debugger answers ENXIO and does nothing.

Nothing here raises for a kernel that lacks a mechanism: the result says what was
applied, and ``require_hardening`` turns a gap into a refusal to start.

Not here: what the processes do (``child``, ``compile_child``).

Source: Linux prctl(2), landlock(7), seccomp(2), setrlimit(2); syscall numbers from
the kernel's x86-64 and asm-generic (aarch64) tables.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import resource
import signal
import struct
import threading
from typing import TYPE_CHECKING, NamedTuple

from stream_executor.model.errors import ConfigError
from stream_executor.sandbox.protocol import HARDENING, ChildConfig

if TYPE_CHECKING:
    from collections.abc import Callable

NOBODY = 65534
MAX_OPEN_FILES = 64
MIN_STACK_BYTES = 8 * 1024 * 1024  # guest stack, host calls above it, and room

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2

# Landlock: every right that an ABI version knows, handled and never granted.
_LANDLOCK_FS_BITS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # bits of access_fs by ABI
_LANDLOCK_ABI_NET, _LANDLOCK_ABI_SCOPE = 4, 6
_LANDLOCK_NET, _LANDLOCK_SCOPE = 0b11, 0b11

_CLONE_VM, _CLONE_THREAD = 0x100, 0x10000
_X32_BIT = 0x40000000

# BPF: load a word of seccomp_data, compare, return.
_LOAD, _JUMP_EQUAL, _JUMP_SET, _RETURN = 0x20, 0x15, 0x45, 0x06
_AND = 0x54
_DATA_NUMBER, _DATA_ARCH, _DATA_ARG0 = 0, 4, 16
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_MAX_JUMP = 255


class _Arch(NamedTuple):
    """Of one machine: audit code, and the column of the syscall table."""

    audit: int
    column: int


_ARCHES = {"x86_64": _Arch(0xC000003E, 0), "aarch64": _Arch(0xC00000B7, 1)}

# Syscalls by purpose: (x86-64, aarch64), None where the machine has none.
_ALLOWED: dict[str, tuple[int | None, int | None]] = {
    # hot: memory of instances, locks, the socket
    "mprotect": (10, 226),
    "madvise": (28, 233),
    "futex": (202, 98),
    "recvmsg": (47, 212),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "brk": (12, 214),
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "dup": (32, 23),
    "fcntl": (72, 25),
    "poll": (7, None),
    "ppoll": (271, 73),
    # signals inside the process: the engine's traps are SIGSEGV handlers
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    # time, randomness of hash tables, ids
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "gettimeofday": (96, 169),
    "getrandom": (318, 278),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "getrusage": (98, 165),
    # threads
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "membarrier": (324, 283),
    # the end
    "exit": (60, 93),
    "exit_group": (231, 94),
}
_ARG_CHECKED = {"clone": (56, 220), "clone3": (435, 435), "tgkill": (234, 131)}
_LANDLOCK_CREATE, _LANDLOCK_RESTRICT = 444, 446  # the same on both machines


class _SockFprog(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


class _Libc:
    """The C library's entry points, bound before anything is taken away."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None, use_errno=True)
        self._prctl = self._library.prctl
        self._prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)
        self._syscall = self._library.syscall
        self._syscall.restype = ctypes.c_long

    def prctl(self, option: int, *values: int) -> bool:
        padded = (*values, 0, 0, 0, 0)[:4]
        return bool(self._prctl(option, *padded) == 0)

    def syscall(self, number: int, *values: object) -> int:
        """Give the result, or -1."""
        return int(self._syscall(ctypes.c_long(number), *values))


class _Filter:
    """A classic BPF program under construction; pure."""

    def __init__(self) -> None:
        self.code: list[tuple[int, int, int, int]] = []

    def add(self, code: int, value: int, yes: int = 0, no: int = 0) -> None:
        if max(yes, no) > _MAX_JUMP:
            raise ConfigError("a seccomp jump is too long")
        self.code.append((code, yes, no, value & 0xFFFFFFFF))

    def returns(self, value: int) -> None:
        self.add(_RETURN, value)

    def on_number(self, number: int, then: Callable[[], None]) -> None:
        """Run ``then``'s instructions (which return) if the syscall is ``number``."""
        at = len(self.code)
        self.add(_JUMP_EQUAL, number)
        then()
        self.code[at] = (_JUMP_EQUAL, 0, len(self.code) - at - 1, number)

    def packed(self) -> bytes:
        return b"".join(struct.pack("<HBBI", *line) for line in self.code)


def build_filter(machine: str, own_pid: int) -> bytes | None:
    """Give the seccomp program of a machine, None if we have no table for it.

    Args:
        machine: ``platform.machine()``.
        own_pid: the only process that may be signalled (an abort signals itself).
    """
    arch = _ARCHES.get(machine)
    if arch is None:
        return None
    program = _Filter()
    deny = _ERRNO | errno.EPERM
    program.add(_LOAD, _DATA_ARCH)
    program.add(_JUMP_EQUAL, arch.audit, 1, 0)
    program.returns(_KILL)
    program.add(_LOAD, _DATA_NUMBER)
    if machine == "x86_64":
        program.add(_JUMP_SET, _X32_BIT, 0, 1)
        program.returns(_KILL)

    def clone() -> None:
        # Threads only: a process would need neither flag.
        flags = _CLONE_VM | _CLONE_THREAD
        program.add(_LOAD, _DATA_ARG0)
        program.add(_AND, flags)
        program.add(_JUMP_EQUAL, flags, 0, 1)
        program.returns(_ALLOW)
        program.returns(deny)

    def tgkill() -> None:
        program.add(_LOAD, _DATA_ARG0)
        program.add(_JUMP_EQUAL, own_pid, 0, 1)
        program.returns(_ALLOW)
        program.returns(deny)

    for numbers in _ALLOWED.values():
        number = numbers[arch.column]
        if number is not None:
            program.on_number(number, lambda: program.returns(_ALLOW))
    program.on_number(_ARG_CHECKED["clone"][arch.column], clone)
    program.on_number(_ARG_CHECKED["tgkill"][arch.column], tgkill)
    program.on_number(
        _ARG_CHECKED["clone3"][arch.column],
        lambda: program.returns(_ERRNO | errno.ENOSYS),
    )
    program.returns(deny)
    return program.packed()


def lock_down(config: ChildConfig) -> list[str]:
    """Apply everything this kernel offers; give the sorted words for it.

    Call it once, from the only thread, after every import and ``dlopen``. Descriptors
    are the parent's affair: it passes on none but a socket and a page.

    Args:
        config: limits, user, and whether a gap is fatal.

    Raises:
        ConfigError: other threads run, the user cannot be dropped, or something of
            ``HARDENING`` is missing while ``config.require_hardening``.
    """
    if threading.active_count() != 1 or _native_threads() > 1:
        raise ConfigError("lock-down must come before the first thread")
    libc, pid = _Libc(), os.getpid()
    program = build_filter(platform.machine(), pid)
    applied = {"rlimits", "user"}
    if _die_with(libc, config.parent_pid):
        applied.add("pdeathsig")
    _limit(config)
    _drop_user(config, libc)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1):
        applied.add("no-new-privs")
        if _landlock(libc):
            applied.add("landlock")
        if program is not None and _seccomp(libc, program):
            applied.add("seccomp")
    missing = sorted(set(HARDENING) - applied)
    if missing and config.require_hardening:
        raise ConfigError(f"this system cannot apply {', '.join(missing)}")
    return sorted(applied)


def _native_threads() -> int:
    with contextlib.suppress(OSError):
        return len(os.listdir("/proc/self/task"))  # noqa: PTH208 - no Path needed
    return 1


def _die_with(libc: _Libc, parent_pid: int) -> bool:
    done = libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before the call
        os._exit(0)
    return done


def _limit(config: ChildConfig) -> None:
    """Set resource limits; RLIMIT_AS cannot be one: the engine reserves 4 GiB."""
    limits = {
        resource.RLIMIT_DATA: config.data_bytes,
        resource.RLIMIT_NOFILE: MAX_OPEN_FILES,
        resource.RLIMIT_FSIZE: config.file_bytes,
        resource.RLIMIT_CORE: 0,
    }
    if config.cpu_s is not None:
        limits[resource.RLIMIT_CPU] = config.cpu_s
    for kind, value in limits.items():
        _, hard = resource.getrlimit(kind)
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (bound, bound))
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    if soft != resource.RLIM_INFINITY and soft < MIN_STACK_BYTES:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_STACK, (MIN_STACK_BYTES, hard))


def _drop_user(config: ChildConfig, libc: _Libc) -> None:
    """Become the configured user, or nobody, when root; a failure is fatal."""
    if os.geteuid() != 0:
        if config.uid is not None and config.uid != os.geteuid():
            raise ConfigError("only root can run the sandbox as another user")
    else:
        uid = NOBODY if config.uid is None else config.uid
        gid = NOBODY if config.gid is None else config.gid
        try:
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
        except OSError as error:
            raise ConfigError(f"cannot become user {uid}:{gid}") from error
        if os.geteuid() == 0:
            raise ConfigError("the sandbox must not run as root")
        # Changing the user clears it.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(_PR_SET_DUMPABLE, 0)


def _landlock(libc: _Libc) -> bool:
    none = ctypes.c_void_p(None)
    version = libc.syscall(_LANDLOCK_CREATE, none, ctypes.c_size_t(0), ctypes.c_uint(1))
    if version < 1:
        return False
    fields = [(1 << _LANDLOCK_FS_BITS[min(version, max(_LANDLOCK_FS_BITS))]) - 1]
    if version >= _LANDLOCK_ABI_NET:
        fields.append(_LANDLOCK_NET)
    if version >= _LANDLOCK_ABI_SCOPE:
        fields.append(_LANDLOCK_SCOPE)
    attributes = ctypes.create_string_buffer(struct.pack(f"<{len(fields)}Q", *fields))
    ruleset = libc.syscall(
        _LANDLOCK_CREATE,
        ctypes.byref(attributes),
        ctypes.c_size_t(8 * len(fields)),
        ctypes.c_uint(0),
    )
    if ruleset < 0:
        return False
    try:
        done = libc.syscall(_LANDLOCK_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint(0))
    finally:
        os.close(ruleset)
    return done == 0


def _seccomp(libc: _Libc, program: bytes) -> bool:
    code = ctypes.create_string_buffer(program, len(program))
    wrapped = _SockFprog(len(program) // 8, ctypes.addressof(code))
    return libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(wrapped))
