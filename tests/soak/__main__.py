"""Random faults under load for as long as it is told; `make soak`.

Begins a deployment of its own on one or three embedded brokers, keeps it under load,
breaks it, lets it recover, and counts what the topics hold (tests/history). Exit code
0 if every counter is zero and `audit verify` agrees, else 1.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import socket
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.machine import facts as machine_facts
from stream_executor.embedded import EmbeddedCluster, EmbeddedKafka
from tests.deployment import deployment
from tests.faults.proxy import FaultProxy
from tests.history import FAULTS as COUNTERS
from tests.history import read_history
from tests.history.counting import SUCCEEDED
from tests.history.judge import Judge
from tests.soak import liveness, mix, report
from tests.soak.faults import (
    FAULTS,
    TOLERATED,
    Arena,
    mount_small,
    strike_for_ever,
    unmount,
)
from tests.soak.load import Load

if TYPE_CHECKING:
    from tests.history import History

PARTITIONS = 8
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), Path("faketime"))
RECOVERY_S = 300.0
_STILL_S = 5.0
_FAKE = {
    "LD_PRELOAD": str(FAKETIME), "FAKETIME_CACHE_DURATION": "1",
    "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_TIMESTAMP_FILE": "",
}  # fmt: skip


class Ended(NamedTuple):
    """When the load began (wall clock, ms), its seconds, and verify's exit code."""

    began_ms: float
    loaded_s: float
    verified: int


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--minutes", type=float, default=5.0, help="under faults")
    parser.add_argument("--requests", type=int, default=1 << 62, help="then stop")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--brokers", type=int, choices=(1, 3), default=1)
    parser.add_argument("--every", type=float, default=5.0, help="s between faults")
    parser.add_argument("--faults", default=",".join(FAULTS), help="names, by comma")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    return parser.parse_args()


def possible(names: list[str], brokers: int, *, disks: bool) -> list[str]:
    """Leave out what cannot be done here, and say so."""
    missing = {
        "clock": "libfaketime is not installed (make system-parts)",
        "proxy": "the proxy stands before one broker",
        "disk-full": "no file system can be mounted here",
    }
    can = {"clock": FAKETIME.exists(), "proxy": brokers == 1, "disk-full": disks}
    for name in names:
        if name not in FAULTS:
            sys.exit(f"no fault {name}; there are {', '.join(FAULTS)}")
        if not can.get(name, True):
            print(f"without {name}: {missing[name]}", flush=True)
    return [name for name in names if can.get(name, True)]


def faked_clock(folder: Path, clock: Path) -> tuple[Path, dict[str, str]]:
    """Give a command and settings with which executors take their clock from a file.

    Workers get a short list of variables from their supervisor; this one hands on
    libfaketime's too. (Under a JVM it spins: a broker does not start in a minute.)
    """
    clock.write_text("+0s\n")
    command = folder / "wasm-executor-faked"
    command.write_text(
        f"#!{sys.executable}\n"
        "from stream_executor.services import supervised\n"
        "from stream_executor.cli.main import main\n"
        f"supervised.INHERITED = (*supervised.INHERITED, *{list(_FAKE)})\n"
        "main()\n"
    )
    command.chmod(0o755)
    return command, {**_FAKE, "FAKETIME_TIMESTAMP_FILE": str(clock)}


def begun_broker(
    given: argparse.Namespace, folder: Path, port: int
) -> EmbeddedKafka | EmbeddedCluster:
    """Start what the soak runs on."""
    if given.brokers == 1:
        return EmbeddedKafka(
            folder / "kafka", proxied_port=port, throughput=True,
            jvm_arguments=("-Xmx1g",),
        ).start()  # fmt: skip
    return EmbeddedCluster(given.brokers).start()


async def soak(given: argparse.Namespace, folder: Path) -> int:
    """Do it; give the exit code."""
    disks = [folder / f"disk-{slot}" for slot in range(2)]
    mounted = "disk-full" in given.faults and all(map(mount_small, disks))
    broker = None
    try:
        names = possible(given.faults.split(","), given.brokers, disks=mounted)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            broker = begun_broker(given, folder, listener.getsockname()[1])
            async with AsyncExitStack() as stack:
                arena = await _arena(given, folder, broker, stack, listener, names)
                if "clock" in names:
                    arena.clock = folder / "clock"
                    arena.command, faked = faked_clock(folder, arena.clock)
                    arena.settings = [dict(faked) for _ in arena.settings]
                if mounted:
                    arena.disks = disks
                    for slot, disk in enumerate(disks):
                        arena.settings[slot]["WASM_EXECUTOR_STATE_DIR"] = str(disk)
                if arena.proxy is not None:
                    through = arena.proxy.address
                    arena.settings[1]["KAFKA_BOOTSTRAP_SERVERS"] = through
                return await _run(given, arena, names)
    finally:
        if broker is not None:
            broker.stop()
        for disk in disks:
            unmount(disk)


async def _arena(
    given: argparse.Namespace,
    folder: Path,
    broker: EmbeddedKafka | EmbeddedCluster,
    stack: AsyncExitStack,
    listener: socket.socket,
    names: list[str],
) -> Arena:
    made = await stack.enter_async_context(
        deployment(broker.bootstrap, folder, PARTITIONS)
    )
    arena = Arena(made, broker, random.Random(given.seed))  # noqa: S311 - no secret
    arena.settings = [{}, {}]
    if "proxy" in names and isinstance(broker, EmbeddedKafka):
        arena.proxy = await stack.enter_async_context(
            FaultProxy(listener, broker.proxy_target)
        )
    return arena


async def _run(given: argparse.Namespace, arena: Arena, names: list[str]) -> int:
    made = arena.made
    await mix.prepare(made)
    await asyncio.gather(*[arena.start(slot).ready() for slot in range(2)])
    began_ms, started = time.time() * 1000, time.monotonic()
    load = Load(made, given.seed)
    watch = asyncio.create_task(load.watch(started))
    strikes = asyncio.create_task(strike_for_ever(arena, names, started, given.every))
    filling = asyncio.create_task(
        load.fill(given.requests, started + given.minutes * 60)
    )
    # A fault that fails is a fault of the soak, and ends it.
    await asyncio.wait({filling, strikes, watch}, return_when=asyncio.FIRST_COMPLETED)
    for task in (strikes, watch):
        if task.done():
            task.result()
    await filling
    loaded_s = time.monotonic() - started
    strikes.cancel()
    await asyncio.wait({strikes})
    _calm(arena)
    print(f"{load.sent:,} requests sent; recovering", flush=True)
    history = await _settled(arena, load)
    watch.cancel()
    await asyncio.wait({watch})
    code, out, err = await made.command("audit", "verify")
    _publish(given, arena, load, history, Ended(began_ms, loaded_s, code))
    if code:
        print(out, err)
    if not history.replays or not history.attested:
        print("nothing was replayed, or nothing aborted: too short to prove anything")
        return 1
    return 1 if history.faults or history.open or code else 0


def _calm(arena: Arena) -> None:
    """End whatever a fault that was cut short left behind."""
    if arena.proxy is not None:
        arena.proxy.clear()
    if arena.clock is not None and arena.clock.exists():
        arena.clock.write_text("+0s\n")
    for disk in arena.disks:
        (disk / "filler").unlink(missing_ok=True)
    for node in arena.brokers():
        if not node.pid:
            node.start()
    for slot, executor in enumerate(arena.live):
        if executor.process.poll() is not None:
            arena.start(slot)


async def _settled(arena: Arena, load: Load) -> History:
    """Wait until every request is answered; give the history."""
    until = time.monotonic() + RECOVERY_S
    rules = mix.rules(arena.made)
    while True:
        await _still(load, until)
        history = await read_history(
            arena.made, partial(Judge, rules), keep=False, tolerated=TOLERATED,
            sent=load.known,
        )  # fmt: skip
        if not history.open or time.monotonic() > until:
            return history
        print(f"{history.open:,} not answered yet", flush=True)


async def _still(load: Load, until: float) -> None:
    """Wait until the lanes answer no more: reading a whole history takes minutes."""
    while time.monotonic() < until:
        before = load.samples[-1][1]
        await asyncio.sleep(_STILL_S)
        if load.samples[-1][1] == before:
            return


def _publish(
    given: argparse.Namespace,
    arena: Arena,
    load: Load,
    history: History,
    ended: Ended,
) -> None:
    samples = report.working(load.samples)
    busy = samples[-1][0]
    lanes = (arena.struck, history.lanes, ended.began_ms)
    pause = liveness.longest_pause(*lanes, until_s=ended.loaded_s)
    felt = liveness.felt(*lanes)
    lagging = {
        "requests": load.lagging[arena.made.topics.requests],
        "results": load.lagging[arena.made.topics.results],
    }
    # 3 / N bounds what was never seen in N; of what was seen it says nothing.
    unseen = f"fewer than 1 in {history.requests // 3:,}"
    bound = "see the counters" if history.faults else unseen
    figures: dict[str, object] = {
        "brokers": given.brokers,
        "seed": given.seed,
        "faults struck": len(arena.struck),
        "requests": history.requests,
        "answered": history.answered,
        "not answered": history.open,
        "touched by a fault, 95 % sure": bound,
        "owed a refusal or a failure": history.requests - history.owed[SUCCEEDED],
        "replays sent": history.replays,
        "replays refused": history.codes["auth_replayed"],
        "struck in the sandbox": history.excused,
        "transactions aborted": load.aborts,
        "attested offsets": history.attested,
        "seconds": round(busy),
        "answers a second": round(history.answered / busy),
        "longest standstill of a lane (s)": pause.seconds,
        "that was during": ", ".join(pause.during) or "no fault",
        "requests undecided for at most (s)": lagging["requests"],
        "results undecided for at most (s)": lagging["results"],
        "audit verify": "ok" if ended.verified == 0 else f"exit {ended.verified}",
    }
    document = figures | {
        "counters": {name: getattr(history, name) for name in COUNTERS},
        "kinds": dict(load.kinds),
        "owed": dict(history.owed),
        "codes": dict(history.codes),
        "felt": {name: one._asdict() for name, one in felt.items()},
        "faults": arena.struck,
        "samples": samples,
        "machine": machine_facts(),
    }
    tables = "\n\n".join(
        [
            report.figures_table(figures, history),
            report.codes_table(history),
            report.faults_table(felt),
        ]
    )
    name = f"soak-{given.brokers}-brokers" if given.brokers > 1 else "soak-1-broker"
    title = (
        f"{history.answered:,} answers on {given.brokers} broker(s), "
        f"{len(arena.struck)} faults, seed {given.seed}: "
        f"{sum(history.faults.values()) + history.open} broken promises"
    )
    plot = report.plot(title, samples, arena.struck)
    report.write(given.results, name, document, plot, tables)
    print(tables)


def main() -> int:
    """Run a soak in a folder of its own."""
    given = options()
    # aiokafka says so whenever it finds a broker away: thousands of times, here.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        return asyncio.run(soak(given, Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
