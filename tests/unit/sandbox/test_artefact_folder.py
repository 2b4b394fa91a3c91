"""The compile cache's files: what was written is found, nothing else is believed.

Each test of an attack is named after it and says what the attacker may do: everything
with the folder's files, nothing with the key.
"""

from __future__ import annotations

import fcntl
import os
import time
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream_executor.model.codes import Code
from stream_executor.sandbox import artefact_folder
from stream_executor.sandbox.artefact_folder import (
    HEAD,
    REFUSED,
    ArtefactFolder,
    Damage,
    Environments,
    entries,
)
from stream_executor.sandbox.compile import Artefact, Refusal
from stream_executor.sandbox.process import sealed_memfd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = bytes(range(32))
HERE = Environments(sha256(b"here").digest(), sha256(b"here, limits").digest())
ELSEWHERE = Environments(sha256(b"there").digest(), sha256(b"there, limits").digest())
A, B, C = (sha256(name).digest() for name in (b"a", b"b", b"c"))
SHAPE = b"what it imports and exports"
CODE = b"\x7fELF native code " * 64
TOO_MUCH = Refusal(Code.COMPILE_LIMIT, "compiling took more than is allowed")


def opened(
    path: Path, key: bytes = KEY, environments: Environments = HERE, most: int = 1 << 20
) -> ArtefactFolder:
    """A folder with a small bound."""
    return ArtefactFolder(path, key, environments, most, 1 << 20)


def write(folder: ArtefactFolder, s256: bytes, code: bytes = CODE) -> None:
    """Keep a compiled module."""
    fd = sealed_memfd("test", code)
    try:
        folder.write_artefact(s256, Artefact(fd, len(code), SHAPE))
    finally:
        os.close(fd)


def read(folder: ArtefactFolder, s256: bytes) -> bytes | Damage | None:
    """Give the native code that would be run."""
    found = folder.read_artefact(s256)
    if not isinstance(found, Artefact):
        return found
    try:
        assert found.shape == SHAPE
        return os.pread(found.fd, found.size + 1, 0)
    finally:
        os.close(found.fd)


def file_of(path: Path, s256: bytes) -> Path:
    """The one file about a module."""
    (found,) = path.glob(f"**/{s256.hex()}.*")
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the folder is."""
    return tmp_path / "state" / "compile-cache"


@pytest.fixture
def folder(path: Path) -> Iterator[ArtefactFolder]:
    """An open folder that holds A."""
    made = opened(path)
    write(made, A)
    yield made
    made.close()


def test_what_was_written_is_found_after_a_restart(
    path: Path, folder: ArtefactFolder
) -> None:
    folder.write_refusal(B, TOO_MUCH)
    again = opened(path)
    assert read(again, A) == CODE
    assert again.read_refusal(B) == TOO_MUCH
    assert (read(again, B), again.read_refusal(A)) == (None, None)
    again.close()


def test_nobody_else_may_look_into_it(path: Path, folder: ArtefactFolder) -> None:
    folder.write_refusal(B, TOO_MUCH)
    modes = {p: p.stat().st_mode & 0o777 for p in (path, *path.rglob("*"))}
    assert set(modes.values()) == {0o700, 0o600}
    assert {p for p, mode in modes.items() if mode == 0o700} == {path, path / REFUSED}


def test_what_was_verified_is_a_sealed_copy(path: Path, folder: ArtefactFolder) -> None:
    """Rewriting the file behind a verified artefact changes nothing in it."""
    found = folder.read_artefact(A)
    assert isinstance(found, Artefact)
    content = bytearray(file_of(path, A).read_bytes())
    content[-1] ^= 1
    file_of(path, A).write_bytes(content)
    assert os.pread(found.fd, found.size, 0) == CODE
    seals = fcntl.fcntl(found.fd, fcntl.F_GET_SEALS)
    assert seals & fcntl.F_SEAL_WRITE
    assert seals & fcntl.F_SEAL_SEAL
    os.close(found.fd)


@pytest.mark.threat("T-26")
def test_any_flipped_bit_is_noticed_and_the_file_deleted(
    path: Path, folder: ArtefactFolder
) -> None:
    genuine = file_of(path, A).read_bytes()
    name = file_of(path, A)
    places = [*range(HEAD.size + len(SHAPE)), len(genuine) // 2, len(genuine) - 1]
    for at in places:
        altered = bytearray(genuine)
        altered[at] ^= 0x10
        name.write_bytes(altered)
        assert isinstance(read(folder, A), Damage), at
        assert not name.exists()
    name.write_bytes(genuine)
    assert read(folder, A) == CODE


@pytest.mark.threat("T-26")
@pytest.mark.parametrize("size", [0, 1, 7, 8, 40, HEAD.size - 1, HEAD.size, -1])
def test_a_torn_file_is_noticed(path: Path, folder: ArtefactFolder, size: int) -> None:
    name = file_of(path, A)
    name.write_bytes(name.read_bytes()[:size])
    assert isinstance(read(folder, A), Damage)
    assert not name.exists()


@pytest.mark.threat("T-26")
def test_a_file_with_something_behind_it_is_noticed(
    path: Path, folder: ArtefactFolder
) -> None:
    with file_of(path, A).open("ab") as file:
        file.write(b"x")
    assert read(folder, A) is Damage.TORN


@pytest.mark.threat("T-26")
def test_native_code_of_an_attackers_own_is_not_run(path: Path) -> None:
    """Well-formed in everything, but without the key."""
    attacker = opened(path, key=bytes(32))
    write(attacker, A, b"evil")
    attacker.write_refusal(B, TOO_MUCH)
    folder = opened(path)
    assert read(folder, A) is Damage.FORGED
    assert folder.read_refusal(B) is Damage.FORGED
    assert (read(folder, A), folder.read_refusal(B)) == (None, None)


@pytest.mark.threat("T-26")
def test_one_modules_artefact_under_anothers_name_is_not_run(
    path: Path, folder: ArtefactFolder
) -> None:
    """Swapping files would run what one tenant compiled as what another asked for."""
    name = file_of(path, A)
    name.rename(name.with_name(name.name.replace(A.hex(), B.hex())))
    assert read(folder, B) is Damage.SWAPPED
    assert (read(folder, A), read(folder, B)) == (None, None)


@pytest.mark.threat("T-26")
def test_an_artefact_of_another_engine_or_machine_is_not_run(
    path: Path, folder: ArtefactFolder
) -> None:
    other = opened(path, environments=ELSEWHERE)
    assert read(other, A) is None
    name = file_of(path, A)
    here, there = HERE.artefact.hex()[:16], ELSEWHERE.artefact.hex()[:16]
    name.rename(name.with_name(name.name.replace(here, there)))
    assert read(other, A) is Damage.SWAPPED


@pytest.mark.threat("T-26")
def test_a_refusal_is_no_artefact_and_an_artefact_no_refusal(
    path: Path, folder: ArtefactFolder
) -> None:
    folder.write_refusal(A, TOO_MUCH)
    artefact, refusal = sorted(path.glob(f"**/{A.hex()}.*"), key=lambda p: len(p.parts))
    kept = artefact.read_bytes()
    artefact.write_bytes(refusal.read_bytes())
    refusal.write_bytes(kept)
    assert read(folder, A) is Damage.SWAPPED
    assert folder.read_refusal(A) is Damage.SWAPPED


@pytest.mark.threat("T-26")
def test_a_link_a_pipe_and_a_folder_in_a_files_place_are_not_read(
    path: Path, folder: ArtefactFolder, tmp_path: Path
) -> None:
    name = file_of(path, A)
    moved = name.rename(tmp_path / "elsewhere")
    name.symlink_to(moved)
    assert read(folder, A) is None
    assert moved.exists()
    os.mkfifo(name)
    assert read(folder, A) is Damage.FOREIGN
    name.mkdir()
    assert read(folder, A) is Damage.FOREIGN


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200))
def test_no_bytes_are_believed_or_break_it(
    path: Path, folder: ArtefactFolder, content: bytes
) -> None:
    write(folder, A)
    file_of(path, A).write_bytes(content)
    assert isinstance(read(folder, A), Damage)
    folder.write_refusal(A, TOO_MUCH)
    (path / REFUSED / file_of(path, A).name).write_bytes(
        artefact_folder.MAGIC + content
    )
    assert not isinstance(folder.read_refusal(A), Refusal)


def test_a_crash_while_writing_leaves_nothing_that_is_found(
    path: Path, folder: ArtefactFolder
) -> None:
    """The process ends before its file has its name; the rest is cleared away later."""
    pid = os.fork()
    if pid == 0:
        os.fsync = lambda _fd: os._exit(9)  # type: ignore[assignment]
        write(folder, B)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 9
    assert read(folder, B) is None
    (left,) = path.glob(".*.tmp")
    folder.make_room()
    assert left.exists(), "it might still be written by a live process"
    os.utime(left, (0, 0))
    folder.make_room()
    assert not left.exists()
    write(folder, B)
    assert read(folder, B) == CODE


def test_a_full_disk_leaves_nothing(
    path: Path, folder: ArtefactFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "sendfile", full)
    with pytest.raises(OSError, match="No space"):
        write(folder, B)
    monkeypatch.undo()
    assert list(path.glob("*.tmp")) == []
    assert (read(folder, B), read(folder, A)) == (None, CODE)


def test_it_is_bounded_and_the_least_recently_used_goes_first(path: Path) -> None:
    folder = opened(path, most=3 * (len(CODE) + 200))
    for age, s256 in ((30, A), (20, B), (10, C)):
        write(folder, s256)
        then = time.time() - age
        os.utime(file_of(path, s256), (then, then))
    assert read(folder, A) == CODE  # used again, although it is the oldest
    fourth = sha256(b"d").digest()
    write(folder, fourth)
    assert [read(folder, s) is not None for s in (A, B, C, fourth)] == [
        True, False, True, True,
    ]  # fmt: skip
    assert folder.make_room() <= 3 * (len(CODE) + 200)
    write(folder, B, bytes(5 * len(CODE)))  # larger than the folder may be
    assert read(folder, B) is None
    assert read(folder, A) == CODE


def test_a_bomb_is_remembered_until_told_otherwise_or_a_day_later(
    path: Path, folder: ArtefactFolder
) -> None:
    folder.write_refusal(B, TOO_MUCH)
    name = file_of(path, B)
    then = time.time() - artefact_folder.REFUSAL_LIFE_S + 60
    os.utime(name, (then, then))
    assert folder.read_refusal(B) == TOO_MUCH
    os.utime(name, (then - 120, then - 120))
    assert folder.read_refusal(B) is None
    assert not name.exists()
    folder.write_refusal(B, TOO_MUCH)
    stamp, known = folder.refusals()
    assert known == {B}
    os.utime(file_of(path, B), (then - 120, then - 120))
    assert folder.refusals()[1] == frozenset()
    assert folder.refusals_stamp() != stamp
    assert folder.read_refusal(B) is None


def test_raised_limits_try_a_bomb_again(path: Path, folder: ArtefactFolder) -> None:
    folder.write_refusal(B, TOO_MUCH)
    raised = opened(path, environments=HERE._replace(refusal=ELSEWHERE.refusal))
    assert raised.read_refusal(B) is None
    assert read(raised, A) == CODE


def test_remembered_bombs_are_bounded_by_number(
    path: Path, folder: ArtefactFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artefact_folder, "MAX_REFUSALS", 3)
    bombs = [sha256(bytes([n])).digest() for n in range(5)]
    for age, bomb in enumerate(reversed(bombs)):
        folder.write_refusal(bomb, TOO_MUCH)
        then = time.time() - age
        os.utime(file_of(path, bomb), (then, then))
    folder.make_room()
    assert folder.refusals()[1] == set(bombs[-3:])
    assert read(folder, A) == CODE


def test_a_listing_names_what_there_is(path: Path, folder: ArtefactFolder) -> None:
    folder.write_refusal(B, TOO_MUCH)
    (path / "a stranger's file").write_bytes(b"x")
    found = {(entry.module, entry.refused) for entry in entries(path)}
    assert found == {(A.hex(), False), (B.hex(), True)}
