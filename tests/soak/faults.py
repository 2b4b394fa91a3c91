"""Random faults, each from its beginning to its end; one seed, one sequence of them."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from stream_executor.embedded import EmbeddedCluster
from tests.deployment import ADD, COMMAND
from tests.faults.proxy import Api, Do, FaultProxy

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

    from stream_executor.embedded import EmbeddedKafka
    from tests.deployment import Executor, TestDeployment

# A soak takes most of the machine, and runs beside other work.
READY_S = 300.0
# Longer than the session timeout, so that somebody else takes the lanes.
_LONG_STOP_S = 14.0
_SHORT_STOP_S = 4.0
# Within what tokens and workers allow: further apart, lanes would halt (T-08).
CLOCK_STEPS_S = (45, -45)
DISK_BYTES = 4 << 20
# What a fault of the sandbox may make of the request that it strikes.
TOLERATED = frozenset({"timeout", "sandbox_crashed", "quarantined", "internal"})


@dataclass
class Arena:
    """What there is to break.

    ``clock`` is the file that libfaketime reads the workers' clock from; ``disks`` are
    small file systems under executors' state.
    """

    made: TestDeployment
    broker: EmbeddedKafka | EmbeddedCluster
    chance: random.Random
    proxy: FaultProxy | None = None
    clock: Path | None = None
    command: Path = COMMAND
    disks: list[Path] = field(default_factory=list)
    settings: list[dict[str, str]] = field(default_factory=list)
    live: list[Executor] = field(default_factory=list)
    struck: list[tuple[float, float, str]] = field(default_factory=list)
    versions: int = 1

    def start(self, slot: int) -> Executor:
        """Start an executor in a slot, with the slot's name and settings."""
        executor = self.made.start(
            self.command,
            WASM_EXECUTOR_INSTANCE_ID=f"{self.made.prefix}-{slot}",
            **self.settings[slot],
        )
        if slot < len(self.live):
            self.live[slot] = executor
        else:
            self.live.append(executor)
        return executor

    def workers(self) -> list[int]:
        """Process ids of all workers: the supervisors' children."""
        return [pid for e in self.live for pid in children_of(e.process.pid)]

    def sandboxes(self) -> list[int]:
        """Process ids of all sandbox children: the workers' children."""
        return [pid for worker in self.workers() for pid in children_of(worker)]

    def brokers(self) -> list[EmbeddedKafka]:
        """All nodes."""
        broker = self.broker
        return broker.nodes if isinstance(broker, EmbeddedCluster) else [broker]


def children_of(parent: int) -> list[int]:
    """Give the process ids of a process's children."""
    try:
        text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    except OSError:
        return []
    return [int(pid) for pid in text.split()]


async def _stopped(pid: int, seconds: float) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            os.kill(pid, signal.SIGCONT)


async def worker_kill(arena: Arena) -> None:
    """SIGKILL a worker; its supervisor starts another."""
    with suppress(ProcessLookupError):
        os.kill(arena.chance.choice(arena.workers()), signal.SIGKILL)


async def worker_stop(arena: Arena) -> None:
    """SIGSTOP a worker until others have its lanes, then let it go on."""
    await _stopped(arena.chance.choice(arena.workers()), _LONG_STOP_S)


async def child_kill(arena: Arena) -> None:
    """SIGKILL a sandbox child in the middle of its batch."""
    with suppress(ProcessLookupError):
        os.kill(arena.chance.choice(arena.sandboxes()), signal.SIGKILL)


async def child_stop(arena: Arena) -> None:
    """SIGSTOP a sandbox child for a while."""
    await _stopped(arena.chance.choice(arena.sandboxes()), _SHORT_STOP_S)


async def executor_kill(arena: Arena) -> None:
    """SIGKILL a supervisor, workers and all; start another under its name."""
    slot = arena.chance.randrange(len(arena.live))
    await asyncio.to_thread(arena.live[slot].kill)
    await arena.start(slot).ready(READY_S)


async def rebalance(arena: Arena) -> None:
    """Drain an executor and start it again: the group moves its lanes, twice."""
    slot = arena.chance.randrange(len(arena.live))
    await arena.live[slot].stop()
    await arena.start(slot).ready(READY_S)


async def broker_kill(arena: Arena) -> None:
    """SIGKILL a broker and start it on what it had written."""
    node = arena.chance.choice(arena.brokers())
    os.kill(node.pid, signal.SIGKILL)
    await asyncio.to_thread(node.stop)
    await asyncio.sleep(1)
    await asyncio.to_thread(node.start)


async def broker_stop(arena: Arena) -> None:
    """SIGSTOP a broker for a while."""
    await _stopped(arena.chance.choice(arena.brokers()).pid, _SHORT_STOP_S)


async def broker_restart(arena: Arena) -> None:
    """Stop a broker in good order and start it again, under load."""
    node = arena.chance.choice(arena.brokers())
    await asyncio.to_thread(node.stop)
    await asyncio.to_thread(node.start)


async def proxy_fault(arena: Arena) -> None:
    """Cut, hold or delay what the executors behind the proxy and the broker say."""
    proxy = arena.proxy
    assert proxy is not None
    if arena.chance.random() < 0.2:
        proxy.cut_all()
        return
    do = arena.chance.choice(
        [Do.CUT_BEFORE, Do.CUT_AFTER, Do.DELIVER_LATE, Do.HOLD_RESPONSE, Do.FREEZE]
    )
    api = arena.chance.choice([Api.END_TXN, Api.PRODUCE, Api.ADD_PARTITIONS, Api.FETCH])
    proxy.rule(do, api, times=2)
    await asyncio.sleep(_SHORT_STOP_S)
    proxy.clear()


async def clock_step(arena: Arena) -> None:
    """Step the workers' clock; later step it back."""
    assert arena.clock is not None
    arena.clock.write_text(f"{arena.chance.choice(CLOCK_STEPS_S):+d}s\n")
    await asyncio.sleep(_SHORT_STOP_S)
    arena.clock.write_text("+0s\n")


async def disk_full(arena: Arena) -> None:
    """Fill the file system under an executor's state: compile cache, slots."""
    filler = arena.chance.choice(arena.disks) / "filler"
    with suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(bytes(1 << 16))
            file.flush()
    await asyncio.sleep(_SHORT_STOP_S)
    filler.unlink(missing_ok=True)


async def control(arena: Arena) -> None:
    """Publish another version, and so change the context of every lane."""
    arena.versions += 1
    await arena.made.publish(f"add@{arena.versions}", ADD)


FAULTS: dict[str, Callable[[Arena], Awaitable[None]]] = {
    "worker-kill": worker_kill, "worker-stop": worker_stop, "child-kill": child_kill,
    "child-stop": child_stop, "executor-kill": executor_kill, "rebalance": rebalance,
    "broker-kill": broker_kill, "broker-stop": broker_stop,
    "broker-restart": broker_restart, "proxy": proxy_fault, "clock": clock_step,
    "disk-full": disk_full, "control": control,
}  # fmt: skip


async def strike_for_ever(
    arena: Arena, names: list[str], started: float, every_s: float
) -> None:
    """Let one fault after the other happen, each once before any happens again."""
    counts: Counter[str] = Counter()
    while True:
        for name in arena.chance.sample(names, len(names)):
            await asyncio.sleep(arena.chance.uniform(0.5, 1.5) * every_s)
            begun = time.monotonic() - started
            await FAULTS[name](arena)
            counts[name] += 1
            arena.struck.append((begun, time.monotonic() - started, name))
            print(f"{begun:7.1f} s  {name}", flush=True)


def mount_small(folder: Path) -> bool:
    """Mount a file system of a few MiB; False where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = shutil.which("mount")
    if mount is None:
        return False
    size = f"size={DISK_BYTES}"
    command = [mount, "-t", "tmpfs", "-o", size, "tmpfs", str(folder)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def unmount(folder: Path) -> None:
    """Take it away again, whoever still has files there."""
    command = [shutil.which("umount") or "umount", "-l", str(folder)]
    subprocess.run(command, check=False, capture_output=True)
