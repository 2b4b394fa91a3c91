"""What a locked-down process can no longer do, asked from inside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from stream_executor.sandbox import protocol
from stream_executor.sandbox.config import SandboxConfig
from stream_executor.sandbox.local import LocalSandbox
from stream_executor.services.diagnosis import _sandbox_report

REACHES = """
import ctypes, errno, json, os, resource, signal, socket, sys, threading
from stream_executor.sandbox import child  # everything that a child imports
from stream_executor.sandbox.harden import lock_down
from stream_executor.sandbox.protocol import ChildConfig

applied = lock_down(ChildConfig(
    max_stack_bytes=1 << 20, data_bytes=1 << 30, parent_pid=os.getppid(), uid=None,
    gid=None, require_hardening=True, cpu_s=None, file_bytes=0))
libc = ctypes.CDLL(None, use_errno=True)

def attempt(what):
    try:
        return repr(what())
    except BaseException as error:
        return type(error).__name__ + ":" + errno.errorcode.get(
            getattr(error, "errno", None) or 0, "")

def raw(number, *arguments):
    ctypes.set_errno(0)
    if libc.syscall(ctypes.c_long(number), *arguments) < 0:
        raise OSError(ctypes.get_errno(), "")
    return "done"

def thread():
    done = []
    one = threading.Thread(target=done.append, args=(1,))
    one.start(); one.join()
    return done

out = {
    "applied": applied,
    "open": attempt(lambda: open("/etc/passwd").read(1)),
    "write": attempt(lambda: open("/tmp/escape", "w")),
    "listdir": attempt(lambda: os.listdir("/")),
    "stat": attempt(lambda: os.stat("/etc/passwd")),
    "proc": attempt(lambda: open("/proc/self/environ").read()),
    "inet": attempt(lambda: socket.socket(socket.AF_INET)),
    "unix": attempt(lambda: socket.socket(socket.AF_UNIX)),
    "fork": attempt(os.fork),
    "exec": attempt(lambda: os.execv("/bin/true", ["true"])),
    "kill": attempt(lambda: os.kill(os.getppid(), 0)),
    "ptrace": attempt(lambda: raw(101, 0, 0, 0, 0)),
    "mount": attempt(lambda: raw(165, None, None, None, 0, None)),
    "memfd": attempt(lambda: os.memfd_create("x")),
    "setuid": attempt(lambda: os.setuid(0)),
    "clone3": attempt(lambda: raw(435, None, 0)),
    "prlimit": attempt(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9))),
    "pipe": attempt(os.pipe),
    "thread": attempt(thread),
    "memory": attempt(lambda: len(bytearray(2 << 30))),
}
sys.stdout.write(json.dumps(out))
sys.stdout.flush()
os._exit(0)
"""


def inside(code: str) -> dict[str, object]:
    """Run code in a fresh process without environment; give what it prints."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", textwrap.dedent(code)],
        env={},
        capture_output=True,
        timeout=30,
        check=True,
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86-64")
@pytest.mark.threat("T-16")
def test_a_locked_down_process_reaches_nothing() -> None:
    found = inside(REACHES)
    assert found.pop("applied") == sorted(protocol.HARDENING)
    assert found.pop("thread") == "[1]"
    assert found.pop("memory") == "MemoryError:"
    assert found.pop("clone3") == "OSError:ENOSYS"
    assert found.pop("prlimit") == "ValueError:"  # how Python tells this EPERM
    denied = {name: value for name, value in found.items() if "EPERM" not in str(value)}
    assert denied == {}
    assert not Path("/tmp/escape").exists()  # noqa: S108 - the place it tried


def test_foreign_calling_conventions_end_the_process() -> None:
    """A 32-bit system call through int 0x80 has other numbers: the filter kills."""
    if os.uname().machine != "x86_64":
        pytest.skip("x86-64 only")
    code = """
    import ctypes, mmap, os
    from stream_executor.sandbox.harden import lock_down
    from stream_executor.sandbox.protocol import ChildConfig
    page = mmap.mmap(-1, 4096, prot=7)
    page.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid); int 0x80
    run = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(
        ctypes.c_char.from_buffer(page)))
    lock_down(ChildConfig(1 << 20, 1 << 30, os.getppid(), None, None, True))
    run()
    os._exit(0)
    """
    done = subprocess.run(
        [sys.executable, "-I", "-c", textwrap.dedent(code)],
        env={},
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == -31, done.stderr  # SIGSYS


def test_lock_down_refuses_to_come_after_a_thread() -> None:
    code = """
    import json, os, sys, threading
    from stream_executor.model.errors import ConfigError
    from stream_executor.sandbox.harden import lock_down
    from stream_executor.sandbox.protocol import ChildConfig
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    try:
        lock_down(ChildConfig(1 << 20, 1 << 30, os.getppid(), None, None, False))
    except ConfigError as error:
        sys.stdout.write(json.dumps({"error": str(error)}))
    sys.stdout.flush()
    os._exit(0)
    """
    assert inside(code) == {"error": "lock-down must come before the first thread"}


FORBIDDEN = (
    "aiokafka",
    "asyncio",
    "cryptography",
    "fastavro",
    "jwt",
    "orjson",
    "pydantic",
    "ssl",
    "structlog",
    "wasmtime",
    "stream_executor.auth",
    "stream_executor.client",
    "stream_executor.kafka",
    "stream_executor.settings",
)


@pytest.mark.parametrize("entry", ["child", "compile_child"])
def test_a_child_imports_nothing_that_knows_keys_or_brokers(entry: str) -> None:
    code = f"""
    import json, sys
    import stream_executor.sandbox.{entry}
    sys.stdout.write(json.dumps({{"modules": sorted(sys.modules)}}))
    """
    modules = inside(code)["modules"]
    assert isinstance(modules, list)
    assert not set(FORBIDDEN) & set(modules)


async def test_running_children_hold_no_environment_and_few_descriptors() -> None:
    """Seen from outside, in the kernel's own words."""
    os.environ["WASM_EXECUTOR_CANARY"] = "secret"
    try:
        async with LocalSandbox(SandboxConfig(require_hardening=True)) as sandbox:
            assert sandbox.pool.hardening == tuple(sorted(protocol.HARDENING))
            spare = sandbox.pool._compiler._spare
            assert spare is not None
            processes = [child.process for child in sandbox.pool._children]
            for process in processes:
                proc = Path(f"/proc/{process.pid}")
                assert b"secret" not in (proc / "environ").read_bytes()
                targets = [str(fd.readlink()) for fd in (proc / "fd").iterdir()]
                kinds = sorted(target.split(":")[0] for target in targets)
                assert kinds.count("socket") == 1
                assert all(
                    target.startswith(("socket", "pipe", "/dev/null", "/memfd:page"))
                    for target in targets
                ), targets
                status = (proc / "status").read_text()
                assert "NoNewPrivs:\t1" in status
                assert "Seccomp:\t2" in status
                if os.getuid() == 0:
                    assert "Uid:\t65534\t65534\t65534\t65534" in status
                    assert "Groups:\t \n" in status
    finally:
        del os.environ["WASM_EXECUTOR_CANARY"]


def test_doctor_tells_what_this_kernel_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mechanism that no child reports must show as missing."""
    applied, missing = _sandbox_report()
    assert (sorted(applied), missing) == (sorted(protocol.HARDENING), [])
    monkeypatch.setattr(protocol, "HARDENING", (*protocol.HARDENING, "quantum"))
    assert _sandbox_report()[1] == ["quantum"]
