"""A real sandbox child in which native test code runs in the place of guests.

Started by the pool like any other: same exec, same descriptors, same lock-down, same
engine and threads. A WASI job's standard input names an attempt; its output is how
the kernel answered. Only what runs instead of a guest is replaced.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import stat
import threading
from typing import TYPE_CHECKING

from stream_executor.model.job import Report
from stream_executor.sandbox import child, harden
from stream_executor.sandbox.config import SandboxConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream_executor.sandbox import protocol

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long
_PATH = ctypes.create_string_buffer(b"/etc/hostname")
_PIECE = ctypes.create_string_buffer(b"\0" * 256)
_VECTOR = (ctypes.c_uint64 * 2)(ctypes.addressof(_PIECE), 8)
_CWD = -100
_LAST_SYSCALL = 600
_SIGCHLD = 17
_UPROBE = 336


def raw(number: int, *arguments: object) -> str:
    """Make one system call; give the error's name, or what it gave."""
    ctypes.set_errno(0)
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    given = _LIBC.syscall(ctypes.c_long(number), *wide)
    if given == -1:
        return errno.errorcode[ctypes.get_errno()]
    if number in {56, 57, 58} and given == 0:
        os._exit(0)  # the child that must not have come to be
    return "done"


def memory_of(process: int) -> str:
    """Read eight bytes of a process, at an address that is valid in this one."""
    where = ctypes.addressof(_VECTOR)
    return raw(310, process, where, 1, where, 1, 0)


def in_a_new_thread(what: Callable[[], str]) -> str:
    """Run an attempt in a thread that is started now."""
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(what()))
    thread.start()
    thread.join()
    return answers[0]


def kind_of(fd: int) -> str:
    """Name what a descriptor is, "" for none; the C library's own fstat is denied."""
    found = ctypes.create_string_buffer(144)
    if raw(5, fd, ctypes.addressof(found)) != "done":
        return ""
    mode = int.from_bytes(found.raw[24:28], "little")  # st_mode of x86-64
    return {
        stat.S_IFCHR: "device", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket",
        stat.S_IFREG: "page",
    }[stat.S_IFMT(mode)]  # fmt: skip


def open_descriptors() -> str:
    """Name the kinds of everything that is open."""
    return " ".join(sorted(filter(None, map(kind_of, range(1024)))))


def page_fd() -> int:
    """Give the descriptor of the page shared with the parent."""
    return next(fd for fd in range(3, 64) if kind_of(fd) == "page")


def as_many_descriptors_as_go() -> str:
    """Duplicate the socket until the kernel refuses; give how it did."""
    made = []
    try:
        while True:
            made.append(os.dup(0))
    except OSError as error:
        within = "within" if len(made) < harden.MAX_OPEN_FILES else "beyond"
        return f"{errno.errorcode[error.errno or 0]} {within} the limit"
    finally:
        for fd in made:
            os.close(fd)


def every_other_call() -> str:
    """Make every system call that is not allowed; list the unexpected answers."""
    allowed = {numbers[0] for numbers in harden._ALLOWED.values()}
    answers = {n: raw(n, 0, 0, 0, 0, 0, 0) for n in range(_LAST_SYSCALL)
               if n not in allowed}  # fmt: skip
    del answers[435]  # clone3: has a claim of its own
    # Kernels from 6.18 on pass uprobe() by every filter; outside of the trampoline
    # that the kernel made for a debugger it does nothing.
    expected = {n: ("ENXIO" if n == _UPROBE else "EPERM") for n in answers}
    return repr({n: a for n, a in answers.items() if a not in ("EPERM", expected[n])})


def private_memory(size: int) -> str:
    """Ask for private memory, never touched."""
    try:
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


DATA_BYTES = SandboxConfig().child_data_bytes
PATH = ctypes.addressof(_PATH)
PARENT = os.getppid()
DENIED: dict[str, Callable[[], str]] = {
    "open a file": lambda: raw(2, PATH, 0, 0),
    "open a file by openat": lambda: raw(257, _CWD, PATH, 0, 0),
    "open a file by openat2": lambda: raw(437, _CWD, PATH, 0, 0),
    "create a file": lambda: raw(257, _CWD, PATH, 0o101, 0o600),
    "look at a file": lambda: raw(262, _CWD, PATH, ctypes.addressof(_PIECE), 0),
    "delete a file": lambda: raw(87, PATH),
    "open an internet socket": lambda: raw(41, 2, 1, 0),
    "open a local socket": lambda: raw(41, 1, 1, 0),
    "open a netlink socket": lambda: raw(41, 16, 3, 0),
    "make a socket pair": lambda: raw(53, 1, 1, 0, ctypes.addressof(_PIECE)),
    "read the parent's memory": lambda: memory_of(PARENT),
    "read any process's memory": lambda: memory_of(os.getpid()),
    "trace the parent": lambda: raw(101, 16, PARENT, 0, 0),
    "take the parent's descriptor": lambda: raw(438, 3, 0, 0),
    "name the parent by descriptor": lambda: raw(434, PARENT, 0),
    "signal the parent": lambda: raw(62, PARENT, 0),
    "signal the parent's thread": lambda: raw(234, PARENT, PARENT, 0),
    "fork": lambda: raw(57),
    "vfork by clone": lambda: raw(56, _SIGCHLD, 0, 0, 0, 0),
    "run a program": lambda: raw(59, PATH, 0, 0),
    "become root": lambda: raw(105, 0),
    "raise a limit": lambda: raw(302, 0, 7, ctypes.addressof(_VECTOR), 0),
    "load a kernel program": lambda: raw(321, 0, 0, 0),
    "use io_uring": lambda: raw(425, 1, ctypes.addressof(_PIECE)),
    "watch page faults": lambda: raw(323, 0),
    "make an anonymous file": lambda: raw(319, PATH, 0),
    "shrink the parent's page": lambda: raw(77, page_fd(), 0),
    "open a file from a new thread": lambda: in_a_new_thread(
        lambda: raw(257, _CWD, PATH, 0, 0)
    ),
    "open a socket from a new thread": lambda: in_a_new_thread(
        lambda: raw(41, 2, 1, 0)
    ),
}
"""Attempts whose only right answer is EPERM."""

ANSWERED: dict[str, tuple[Callable[[], str], str]] = {
    "clone3": (lambda: raw(435, 0, 0), "ENOSYS"),
    "environment": (lambda: " ".join(sorted(set(os.environ) - {"LC_CTYPE"})), ""),
    # The page twice: Python's mmap keeps a duplicate of its own.
    "descriptors": (open_descriptors, "device device page page pipe socket"),
    "descriptors without end": (as_many_descriptors_as_go, "EMFILE within the limit"),
    "every other system call": (every_other_call, "{}"),
    "memory within the limit": (lambda: private_memory(DATA_BYTES // 4), "done"),
    "memory beyond the limit": (lambda: private_memory(DATA_BYTES), "ENOMEM"),
    "write into the page's file": (
        lambda: raw(1, page_fd(), ctypes.addressof(_PIECE), 8), "EFBIG",
    ),
}  # fmt: skip
"""Attempts with another right answer."""


def attempt(name: str) -> str:
    """Make one attempt."""
    return DENIED[name]() if name in DENIED else ANSWERED[name][0]()


def run_batch(
    batch: protocol.Batch,
    runs: object,
    outbox: child.Outbox,
    started: ctypes.c_uint64,
    stop: object,
) -> None:
    """Make the attempts that a batch names."""
    outbox.begin(batch.number)
    for number, job in enumerate(batch.jobs, batch.number):
        started.value = number
        answer = attempt(job.payload.decode()).encode()
        outbox.reports.append(Report(output=answer, exit_code=0))
    outbox.flush(done=True)


child.run_batch = run_batch
main = child.main
