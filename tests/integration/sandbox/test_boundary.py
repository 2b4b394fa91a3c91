"""What native code inside a real sandbox child can reach: asked there, of the kernel.

A guest that has taken over its process could do what this code tries. The same
attempts in a process without a lock-down are the control: they must not all fail.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from stream_executor.sandbox import pool as pool_file
from stream_executor.sandbox import process as process_file
from stream_executor.sandbox.config import SandboxConfig
from stream_executor.sandbox.local import LocalSandbox
from tests.integration.sandbox import guests, prisoner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86-64"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prison() -> AsyncIterator[LocalSandbox]:
    """A hardened sandbox whose children run native test code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WASM_EXECUTOR_CANARY", "secret")
        patch.setattr(pool_file, "ENTRY", "tests.integration.sandbox.prisoner")
        packages = (*process_file._PACKAGES, "tests")
        patch.setattr(process_file, "_PACKAGES", packages)
        config = SandboxConfig(children=1, require_hardening=True)
        async with LocalSandbox(config) as sandbox:
            sandbox.add(guests.wasm(guests.ADD))
            yield sandbox


async def answer(prison: LocalSandbox, name: str) -> str:
    """Have one attempt made inside a child."""
    (report,) = await prison.run([guests.command(guests.ADD, name.encode())])
    assert report.code is None, report.message
    return report.output.decode()


def in_proc(pid: int, folder: str) -> list[Path]:
    """List what the kernel says of a process."""
    return list(Path(f"/proc/{pid}/{folder}").iterdir())


@pytest.mark.parametrize("name", prisoner.DENIED)
@pytest.mark.threat("T-16")
async def test_native_code_in_a_child_may_not(prison: LocalSandbox, name: str) -> None:
    assert await answer(prison, name) == "EPERM"


@pytest.mark.parametrize("name", prisoner.ANSWERED)
@pytest.mark.threat("T-16")
async def test_native_code_in_a_child_finds(prison: LocalSandbox, name: str) -> None:
    assert await answer(prison, name) == prisoner.ANSWERED[name][1]


async def test_every_thread_of_every_child_is_filtered(prison: LocalSandbox) -> None:
    """Seccomp binds threads: the ticker, made after the lock-down, is bound too."""
    for child in prison.pool._children:
        tasks = in_proc(child.process.pid, "task")
        assert len(tasks) == 2
        for task in tasks:
            status = (task / "status").read_text()
            assert "Seccomp:\t2" in status
            assert "NoNewPrivs:\t1" in status
            assert "CapEff:\t0000000000000000" in status


CONTROL = """
import json, os, sys
from tests.integration.sandbox import prisoner
names = json.loads(sys.argv[1])
sys.stdout.write(json.dumps({name: prisoner.attempt(name) for name in names}))
sys.stdout.flush()
os._exit(0)
"""
HARMLESS = [
    "open a file", "open a file by openat", "look at a file", "signal the parent",
    "open an internet socket", "open a local socket", "make a socket pair", "fork",
    "make an anonymous file", "open a file from a new thread",
    "open a socket from a new thread", "read any process's memory",
]  # fmt: skip


def inside(code: str, *arguments: str) -> dict[str, str]:
    """Run code in a fresh process; give what it prints."""
    roots = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        env={"PYTHONPATH": roots},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


async def test_the_same_attempts_succeed_where_nothing_is_locked() -> None:
    """Without this control an attempt that always fails would prove nothing."""
    found = inside(CONTROL, json.dumps(HARMLESS))
    assert {name for name, how in found.items() if how != "done"} == set()


LANDLOCK_ALONE = """
import ctypes, errno, json, os, socket, sys, threading
from stream_executor.sandbox import harden
from stream_executor.sandbox.protocol import ChildConfig

listener = socket.create_server(("127.0.0.1", 0))
abstract = socket.socket(socket.AF_UNIX)
port = listener.getsockname()[1]
harden._seccomp = lambda *_: False  # what Landlock does must be seen without seccomp
applied = harden.lock_down(
    ChildConfig(1 << 20, 1 << 30, os.getppid(), None, None, False))

def attempt(what):
    try:
        what()
        return "done"
    except OSError as error:
        return errno.errorcode[error.errno]

def connect():
    with socket.socket() as to:
        to.connect(("127.0.0.1", port))

def elsewhere(what):
    answers = []
    thread = threading.Thread(target=lambda: answers.append(attempt(what)))
    thread.start()
    thread.join()
    return answers[0]

read = lambda: os.close(os.open("/etc/hostname", os.O_RDONLY))
found = {
    "landlock": str("landlock" in applied and "seccomp" not in applied),
    "read": attempt(read),
    "list": attempt(lambda: os.listdir("/")),
    "read in a new thread": elsewhere(read),
    "connect": attempt(connect),
    "connect in a new thread": elsewhere(connect),
    "signal": attempt(lambda: os.kill(os.getppid(), 0)),
}
sys.stdout.write(json.dumps(found))
sys.stdout.flush()
os._exit(0)
"""


async def test_landlock_alone_already_denies_files_ports_and_signals() -> None:
    found = inside(LANDLOCK_ALONE)
    version = prisoner._LIBC.syscall(444, None, 0, 1)
    denied = {"read": "EACCES", "list": "EACCES", "read in a new thread": "EACCES"}
    if version >= 4:
        denied |= {"connect": "EACCES", "connect in a new thread": "EACCES"}
    if version >= 6:
        denied |= {"signal": "EPERM"}
    assert found.pop("landlock") == "True"
    assert {name: found[name] for name in denied} == denied


async def test_the_page_cannot_shrink_under_the_parent_even_without_seccomp(
    prison: LocalSandbox,
) -> None:
    """A mapped file that is cut short ends whoever reads it: the page is sealed."""
    for child in prison.pool._children:
        fds = in_proc(child.process.pid, "fd")
        page = next(fd for fd in fds if str(fd.readlink()).startswith("/memfd:page"))
        with page.open("r+b") as opened, pytest.raises(PermissionError):
            os.ftruncate(opened.fileno(), 0)
