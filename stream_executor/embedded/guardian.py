"""Keep a broker as long as the process that asked for it. Standard library only.

A program of its own, run as ``python guardian.py PARENT_PID FOLDER COMMAND…`` between
the user's process and Java, with Kafka's log as its standard error:

1. it starts COMMAND, whose output goes to the log, and prints its process id;
2. it waits until COMMAND has ended, or standard input has, or the parent is no longer
   PARENT_PID: the user's process died, however. A line on standard input asks for an
   orderly stop and says how many seconds that may take;
3. it ends COMMAND, and what that started, removes FOLDER (unless it is empty text), and
   exits with COMMAND's code, or 128 + the signal that ended it.

Why not let Java die with its parent (PR_SET_PDEATHSIG) directly: that fires when the
*thread* that forked ends, and a broker may well be started from a worker thread. This
process has one thread, so for Java against the guardian's own death it is right.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import select
import shutil
import signal
import subprocess
import sys
import time

_LOOK_S = 1.0  # a child that the parent forked may keep our standard input open
_PR_SET_PDEATHSIG = 1


def main(parent: int, folder: str, command: list[str]) -> int:
    """Run the three steps of the module's docstring; return the exit code."""
    # The parent decides when to stop, so these do nothing, and Java's end wakes us up.
    # (Handlers: an ignored signal would be ignored by Java too, which inherits that.)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    signalled, wake_up = os.pipe()
    os.set_blocking(wake_up, False)
    signal.set_wakeup_fd(wake_up)
    libc = ctypes.CDLL(None)
    guardian = os.getpid()

    def die_with_guardian() -> None:
        if hasattr(libc, "prctl"):
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guardian:
            os._exit(1)

    java = subprocess.Popen(  # 1
        command,
        stdin=subprocess.DEVNULL,
        stdout=2,
        preexec_fn=die_with_guardian,  # noqa: PLW1509 - one thread
        process_group=0,
    )
    os.write(1, b"%d\n" % java.pid)
    _wait(parent, java, signalled)  # 2
    with contextlib.suppress(ProcessLookupError):  # 3
        os.killpg(java.pid, signal.SIGKILL)
    code = java.wait()
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
    return code if code >= 0 else 128 - code


def _wait(parent: int, java: subprocess.Popen[bytes], signalled: int) -> None:
    """Return when Java has ended or has no more time to."""
    watched, deadline = [signalled, 0], math.inf
    while os.getppid() == parent and time.monotonic() < deadline:
        look_s = min(_LOOK_S, deadline - time.monotonic())
        readable, _, _ = select.select(watched, [], [], max(0.0, look_s))
        if signalled in readable:
            os.read(signalled, 64)
            if java.poll() is not None:
                return
        if 0 in readable:
            order = os.read(0, 32)
            if not order:
                return
            java.terminate()
            watched, deadline = [signalled], time.monotonic() + float(order)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
