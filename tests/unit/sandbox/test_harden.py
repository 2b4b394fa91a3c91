"""The seccomp program, run on paper: what it answers to which call."""

from __future__ import annotations

import errno
import struct

import pytest

from stream_executor.sandbox.harden import build_filter

ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, ENOSYS = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
PID = 4242
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def answer(machine: str, number: int, arg0: int = 0, arch: int | None = None) -> int:
    """Interpret the program on one system call."""
    program = build_filter(machine, PID)
    assert program is not None
    lines = list(struct.iter_unpack("<HBBI", program))
    data = struct.pack("<IIQ6Q", number, arch or ARCH[machine], 0, arg0, *[0] * 5)
    accumulator = at = 0
    while True:
        code, yes, no, value = lines[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif code == 0x54:
            accumulator &= value
        elif code == 0x15:
            at += yes if accumulator == value else no
        elif code == 0x45:
            at += yes if accumulator & value else no
        else:
            assert code == 0x06
            return int(value)


@pytest.mark.parametrize(
    ("machine", "number", "arg0", "expected"),
    [
        ("x86_64", 9, 0, ALLOW),  # mmap
        ("x86_64", 231, 0, ALLOW),  # exit_group
        ("x86_64", 2, 0, EPERM),  # open
        ("x86_64", 257, 0, EPERM),  # openat
        ("x86_64", 41, 0, EPERM),  # socket
        ("x86_64", 59, 0, EPERM),  # execve
        ("x86_64", 57, 0, EPERM),  # fork
        ("x86_64", 56, 0x3D0F00, ALLOW),  # clone: a thread
        ("x86_64", 56, 0x1200011, EPERM),  # clone: a process
        ("x86_64", 56, 0x4111, EPERM),  # clone: vfork shares memory, is no thread
        ("x86_64", 435, 0, ENOSYS),  # clone3
        ("x86_64", 234, PID, ALLOW),  # tgkill of itself
        ("x86_64", 234, 1, EPERM),
        ("x86_64", 0x40000000 | 9, 0, KILL),  # x32
        ("aarch64", 222, 0, ALLOW),  # mmap
        ("aarch64", 56, 0, EPERM),  # openat
        ("aarch64", 220, 0x3D0F00, ALLOW),  # clone: a thread
        ("aarch64", 435, 0, ENOSYS),
    ],
)
def test_a_call_gets_its_answer(
    machine: str, number: int, arg0: int, expected: int
) -> None:
    assert answer(machine, number, arg0) == expected


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_another_calling_convention_kills(machine: str) -> None:
    assert answer(machine, 9, arch=0x40000003) == KILL


def test_unknown_machines_have_no_program() -> None:
    assert build_filter("riscv64", PID) is None
