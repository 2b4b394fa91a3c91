"""The guardian, with small programs of a shell in the broker's place."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from stream_executor.embedded import guardian

if TYPE_CHECKING:
    from pathlib import Path

BUDGET_S = 20


def start(
    folder: Path | str, script: str, *, parent: int | None = None
) -> subprocess.Popen[bytes]:
    """Run a guardian whose command is a shell script; it says its process id first."""
    return subprocess.Popen(
        [
            *(sys.executable, "-I", "-S", guardian.__file__),
            *(str(parent or os.getpid()), str(folder), "/bin/sh", "-c", script),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def pid_of_command(guard: subprocess.Popen[bytes]) -> int:
    assert guard.stdout is not None
    return int(guard.stdout.readline())


def await_end(pid: int) -> None:
    """Return when the process has ended; it need not be a child of ours."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([handle], [], [], BUDGET_S)[0], f"{pid} still runs"
    finally:
        os.close(handle)


def test_an_orderly_stop_lets_the_command_finish(tmp_path: Path) -> None:
    script = f"trap 'touch {tmp_path}/closed; exit 3' TERM; echo up >&2; read forever"
    guard = start("", f"mkfifo {tmp_path}/f; {script} <> {tmp_path}/f")
    assert guard.stderr is not None
    guard.stderr.readline()  # the trap is set

    guard.communicate(b"20\n", BUDGET_S)

    assert guard.returncode == 3
    assert (tmp_path / "closed").exists()


def test_a_command_that_does_not_stop_in_time_is_killed() -> None:
    guard = start("", "trap '' TERM; echo up >&2; sleep 600 & wait; wait")
    assert guard.stderr is not None
    guard.stderr.readline()

    guard.communicate(b"0.05\n", BUDGET_S)

    assert guard.returncode == 128 + signal.SIGKILL


def test_when_the_parent_is_gone_all_ends_and_the_folder_too(tmp_path: Path) -> None:
    """Standard input ends when the parent does, whatever killed it."""
    folder = tmp_path / "data"
    folder.mkdir()
    with start(folder, "sleep 600 & echo $! >&2; wait") as guard:
        command = pid_of_command(guard)
        assert guard.stderr is not None
        grandchild = int(guard.stderr.readline())

        assert guard.stdin is not None
        guard.stdin.close()

        assert guard.wait(BUDGET_S) == 128 + signal.SIGKILL
        await_end(command)
        await_end(grandchild)
        assert not folder.exists()


def test_a_guardian_of_somebody_elses_child_ends_at_once() -> None:
    """The parent died, but a child that it forked keeps standard input open."""
    nobody = 1 << 22  # above the largest process id
    with start("", "sleep 600", parent=nobody) as guard:
        command = pid_of_command(guard)

        assert guard.wait(BUDGET_S) == 128 + signal.SIGKILL
        await_end(command)


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_killed_guardian_takes_the_command_along() -> None:
    with start("", "exec sleep 600") as guard:
        command = pid_of_command(guard)

        guard.kill()

        await_end(command)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_to_the_guardian_change_nothing(number: signal.Signals) -> None:
    """A service manager signals every process; the parent decides when to stop."""
    guard = start("", "trap 'exit 5' TERM; echo up >&2; sleep 600 & wait")
    command = pid_of_command(guard)
    assert guard.stderr is not None
    guard.stderr.readline()

    guard.send_signal(number)

    assert os.getpgid(command) == command
    guard.communicate(b"20\n", BUDGET_S)
    assert guard.returncode == 5


def test_a_command_that_ends_by_itself_ends_the_guardian(tmp_path: Path) -> None:
    with start(tmp_path / "none", "exit 7") as guard:
        assert guard.wait(BUDGET_S) == 7
