"""WASI preview 1 without an engine: the same process over a plain array of bytes."""

from __future__ import annotations

import inspect
import struct

import pytest

from stream_executor.model.job import WasiInput
from stream_executor.sandbox.wasi import (
    CALL_FUEL,
    MAX_DESCRIPTORS,
    MAX_TRANSFER_BYTES,
    MAX_VECTORS,
    ROOT_FD,
    WasiProcess,
    answer,
)
from stream_executor.sandbox.wasi_files import FileTree
from stream_executor.sandbox.wasi_types import (
    CALLS,
    CONSTANT,
    Errno,
    GuestExit,
    OutOfFuel,
    WasiError,
)
from tests.integration.sandbox import guests

SIZE = 1 << 16
FILES = (("/w/a.txt", b"hello"), ("/w/sub/b.txt", b"bb"), ("/c", b""))


class PlainMemory:
    """Guest memory in an array; counts fuel."""

    def __init__(self, fuel: int = 10**9) -> None:
        self.data = bytearray(SIZE)
        self.fuel = fuel

    def read(self, at: int, length: int) -> bytes:
        if at + length > SIZE:
            raise WasiError(Errno.FAULT)
        return bytes(self.data[at : at + length])

    def write(self, at: int, data: bytes) -> None:
        if at + len(data) > SIZE:
            raise WasiError(Errno.FAULT)
        self.data[at : at + len(data)] = data

    def charge(self, units: int) -> None:
        self.fuel -= units
        if self.fuel < 0:
            raise OutOfFuel

    def u32(self, at: int) -> int:
        return int.from_bytes(self.data[at : at + 4], "little")

    def u64(self, at: int) -> int:
        return int.from_bytes(self.data[at : at + 8], "little")


class Guest:
    """A process with its memory; ``call`` places strings and buffers by itself."""

    def __init__(
        self,
        stdin: bytes = b"",
        wasi: WasiInput | None = None,
        output_bytes: int = 100,
        fuel: int = 10**9,
    ) -> None:
        given = wasi or WasiInput((), (), FILES)
        job = guests.command(b"", stdin, output_bytes=output_bytes, wasi=given)
        self.memory = PlainMemory(fuel)
        self.process = WasiProcess(job, self.memory)

    def call(self, name: str, *arguments: int) -> int:
        return answer(self.process, name, arguments)

    def path(self, text: str) -> tuple[int, int]:
        encoded = text.encode()
        self.memory.write(40_000, encoded)
        return 40_000, len(encoded)

    def open(self, text: str, flags: int = 0, rights: int = 0x2000026) -> int:
        """Give the errno, or minus the descriptor."""
        at, length = self.path(text)
        errno = self.call("path_open", ROOT_FD, 0, at, length, flags, rights, 0, 0, 64)
        return errno or -self.memory.u32(64)

    def write(self, fd: int, data: bytes) -> int:
        self.memory.write(1024, data)
        self.memory.write(0, struct.pack("<II", 1024, len(data)))
        return self.call("fd_write", fd, 0, 1, 8)

    def read(self, fd: int, length: int) -> bytes:
        self.memory.write(0, struct.pack("<II", 1024, length))
        assert self.call("fd_read", fd, 0, 1, 8) == Errno.SUCCESS
        return self.memory.read(1024, self.memory.u32(8))


def test_every_function_of_preview_1_has_a_method_of_its_arity_or_a_constant() -> None:
    assert len(CALLS) == 46
    for name, params in CALLS.items():
        if name not in CONSTANT:
            method = getattr(WasiProcess, name)
            assert len(inspect.signature(method).parameters) == len(params) + 1


def test_arguments_and_environment_are_zero_ended() -> None:
    guest = Guest(wasi=WasiInput(("qjs", "é"), (("A", "1"),), ()))
    assert guest.call("args_sizes_get", 0, 4) == 0
    assert (guest.memory.u32(0), guest.memory.u32(4)) == (2, 7)
    assert guest.call("args_get", 0, 100) == 0
    assert guest.memory.read(100, 7) == b"qjs\0\xc3\xa9\0"
    assert (guest.memory.u32(0), guest.memory.u32(4)) == (100, 104)
    assert guest.call("environ_get", 0, 100) == 0
    assert guest.memory.read(100, 4) == b"A=1\0"


def test_a_command_without_arguments_still_has_a_name() -> None:
    guest = Guest(wasi=WasiInput((), (), ()))
    guest.call("args_sizes_get", 0, 4)
    assert (guest.memory.u32(0), guest.memory.u32(4)) == (1, len("module") + 1)


def test_every_call_costs_fuel_and_bytes_cost_more() -> None:
    guest = Guest()
    before = guest.memory.fuel
    guest.call("sched_yield")
    assert before - guest.memory.fuel == CALL_FUEL
    before = guest.memory.fuel
    guest.write(1, b"x" * 50)
    assert before - guest.memory.fuel == CALL_FUEL + 1 + 50


def test_a_call_that_cannot_be_paid_does_nothing() -> None:
    guest = Guest(fuel=CALL_FUEL + 10)
    with pytest.raises(OutOfFuel):
        guest.write(1, b"x" * 50)
    assert guest.process.stdout == b""


def test_output_shares_one_cap_and_the_guest_goes_on() -> None:
    guest = Guest(output_bytes=10)
    assert guest.write(1, b"123456") == 0
    assert guest.write(2, b"abcdef") == 0
    assert guest.memory.u32(8) == 6
    process = guest.process
    assert bytes(process.stdout + process.stderr) == b"123456abcd"
    assert (process.stdout_truncated, process.stderr_truncated) == (False, True)


@pytest.mark.parametrize("fd", [0, ROOT_FD, 9])
def test_only_the_output_streams_are_written(fd: int) -> None:
    assert Guest().write(fd, b"x") == Errno.BADF


def test_standard_input_ends() -> None:
    guest = Guest(stdin=b"abcde")
    assert [guest.read(0, 3) for _ in range(3)] == [b"abc", b"de", b""]


def test_vectors_are_capped_and_checked() -> None:
    guest = Guest()
    assert guest.call("fd_write", 1, 0, MAX_VECTORS + 1, 8) == Errno.INVAL
    assert guest.call("fd_write", 1, SIZE - 4, 1, 8) == Errno.FAULT
    guest.memory.write(0, struct.pack("<II", 2**32 - 1, 2**32 - 1))
    assert guest.call("fd_write", 1, 0, 1, 8) == Errno.FAULT
    assert guest.call("random_get", 0, MAX_TRANSFER_BYTES + 1) == Errno.INVAL


def test_clocks_advance_by_rule() -> None:
    guest = Guest()
    for clock, expected in ((0, guests.NOW_MS * 10**6 + 1000), (1, 2000), (3, 3000)):
        assert guest.call("clock_time_get", clock, 0, 0) == 0
        assert guest.memory.u64(0) == expected
    assert guest.call("clock_time_get", 4, 0, 0) == Errno.INVAL
    assert guest.call("clock_res_get", 1, 0) == 0
    assert guest.memory.u64(0) == 1000


def test_randomness_is_one_stream_however_it_is_read() -> None:
    whole, parts = Guest(), Guest()
    whole.call("random_get", 0, 300)
    for at, length in ((0, 1), (1, 99), (100, 0), (100, 200)):
        parts.call("random_get", at, length)
    assert whole.memory.data == parts.memory.data


def subscription(user: int, tag: int, what: int, timeout: int, flags: int = 0) -> bytes:
    return struct.pack("<QB7xI4xQQH6x", user, tag, what, timeout, 0, flags)


def test_a_sleep_is_over_at_once_and_moves_the_clock() -> None:
    guest = Guest()
    guest.memory.write(
        0, subscription(7, 0, 1, 5 * 10**9) + subscription(8, 0, 1, 3 * 10**9)
    )
    assert guest.call("poll_oneoff", 0, 200, 2, 400) == 0
    assert (guest.memory.u32(400), guest.memory.u64(200)) == (1, 8)
    guest.call("clock_time_get", 1, 0, 0)
    assert guest.memory.u64(0) == 3 * 10**9 + 1000


def test_an_absolute_time_in_the_past_rings_now() -> None:
    guest = Guest()
    guest.memory.write(0, subscription(1, 0, 0, 5, flags=1))
    assert guest.call("poll_oneoff", 0, 200, 1, 400) == 0
    guest.call("clock_time_get", 1, 0, 0)
    assert guest.memory.u64(0) == 1000


def test_streams_are_always_ready_and_bad_descriptors_say_so() -> None:
    guest = Guest(stdin=b"abc")
    guest.memory.write(0, subscription(1, 1, 0, 0) + subscription(2, 2, 99, 0))
    assert guest.call("poll_oneoff", 0, 200, 2, 400) == 0
    assert guest.memory.u32(400) == 2
    assert struct.unpack_from("<QHB5xQ", guest.memory.data, 200) == (1, 0, 1, 3)
    assert struct.unpack_from("<QH", guest.memory.data, 232) == (2, Errno.BADF)


@pytest.mark.parametrize("count", [0, MAX_VECTORS + 1])
def test_polling_nothing_or_too_much_is_invalid(count: int) -> None:
    assert Guest().call("poll_oneoff", 0, 0, count, 0) == Errno.INVAL


def test_the_exit_code_is_kept() -> None:
    guest = Guest()
    with pytest.raises(GuestExit):
        guest.call("proc_exit", 255)
    assert guest.process.exit_code == 255


def test_files_are_read_from_the_preopened_root() -> None:
    guest = Guest()
    assert guest.call("fd_prestat_get", ROOT_FD, 0) == 0
    assert (guest.memory.u32(0), guest.memory.u32(4)) == (0, 1)
    assert guest.call("fd_prestat_dir_name", ROOT_FD, 0, 1) == 0
    assert guest.memory.read(0, 1) == b"/"
    assert guest.call("fd_prestat_get", 4, 0) == Errno.BADF
    fd = -guest.open("w/../w/a.txt")
    assert guest.read(fd, 100) == b"hello"
    assert guest.call("fd_seek", fd, 2**64 - 2, 2, 0) == 0
    assert guest.read(fd, 100) == b"lo"
    assert guest.call("fd_tell", fd, 0) == 0
    assert guest.memory.u64(0) == 5
    assert guest.call("fd_close", fd) == 0
    assert guest.call("fd_tell", fd, 0) == Errno.BADF


@pytest.mark.parametrize(
    ("path", "flags", "rights", "errno"),
    [
        ("../etc/passwd", 0, 2, Errno.PERM),
        ("w/../../etc", 0, 2, Errno.PERM),
        ("/w/a.txt", 0, 2, Errno.PERM),
        ("missing", 0, 2, Errno.NOENT),
        ("", 0, 2, Errno.NOENT),
        ("w/a.txt/x", 0, 2, Errno.NOTDIR),
        ("w/a.txt", 2, 2, Errno.NOTDIR),
        ("w/a.txt", 0, 1 << 6, Errno.ROFS),
        ("w/a.txt", 8, 2, Errno.ROFS),
        ("w", 0, 1 << 6, Errno.ISDIR),
        ("x" * 5000, 0, 2, Errno.NAMETOOLONG),
    ],
)
def test_a_path_that_may_not_be_opened(
    path: str, flags: int, rights: int, errno: Errno
) -> None:
    assert Guest().open(path, flags, rights) == errno


def test_descriptors_are_bounded() -> None:
    guest = Guest()
    results = [guest.open("w/a.txt") for _ in range(MAX_DESCRIPTORS)]
    assert results.count(Errno.MFILE) == 4
    assert results[0] == -(ROOT_FD + 1)


def test_a_directory_lists_its_names_in_order_from_a_cookie() -> None:
    guest = Guest()
    fd = -guest.open("w", 2)
    assert guest.call("fd_readdir", fd, 2000, 1000, 0, 0) == 0
    names, at, end = [], 2000, 2000 + guest.memory.u32(0)
    while at < end:
        _, _, length, kind = struct.unpack_from("<QQIB", guest.memory.data, at)
        names.append((guest.memory.read(at + 24, length), kind))
        at += 24 + length
    assert names == [(b".", 3), (b"..", 3), (b"a.txt", 4), (b"sub", 3)]
    assert guest.call("fd_readdir", fd, 2000, 10, 3, 0) == 0
    assert guest.memory.u32(0) == 10
    assert guest.call("fd_readdir", fd, 2000, 10, 2**63, 0) == 0
    assert guest.memory.u32(0) == 0
    assert guest.call("fd_readdir", 0, 0, 0, 0, 0) == Errno.NOTDIR


def test_stat_tells_kind_and_size() -> None:
    guest = Guest()
    at, length = guest.path("w/sub/b.txt")
    assert guest.call("path_filestat_get", ROOT_FD, 0, at, length, 0) == 0
    stat = struct.unpack_from("<QQB7xQQ", guest.memory.data, 0)
    assert (stat[2], stat[4]) == (4, 2)
    assert guest.call("fd_filestat_get", 0, 0) == 0
    assert guest.call("fd_fdstat_get", 1, 0) == 0
    assert guest.memory.data[0] == 0  # no terminal: nobody turns interactive


@pytest.mark.parametrize("name", sorted(CONSTANT))
def test_what_is_not_offered_gives_an_errno_without_looking(name: str) -> None:
    arguments = (2**32 - 1,) * len(CALLS[name])
    expected = CONSTANT[name]
    assert Guest().call(name, *arguments) == expected


def test_no_call_with_wild_arguments_raises_anything_else() -> None:
    for name, params in CALLS.items():
        for value in (0, 1, 3, 2**31, 2**32 - 1):
            wide = 2**64 - 1 if value == 2**32 - 1 else value
            arguments = [wide if p == "I" else value for p in params]
            try:
                errno = Guest().call(name, *arguments)
            except GuestExit:
                continue
            assert 0 <= errno < 77


@pytest.mark.parametrize(
    "files",
    [
        (("a", b""),),
        (("/", b""),),
        (("/a/../b", b""),),
        (("/a//b", b""),),
        (("/a\0", b""),),
        (("/a", b""), ("/a", b"")),
        (("/a", b""), ("/a/b", b"")),
        (("/a/b", b""), ("/a", b"")),
    ],
)
def test_files_that_contradict_themselves_are_refused(
    files: tuple[tuple[str, bytes], ...],
) -> None:
    with pytest.raises(ValueError, match="a file's path"):
        FileTree(files)
