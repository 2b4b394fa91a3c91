"""Requests a second and latency on a real Kafka, beside the plain loop, in one run.

    python -m benchmarks.end_to_end [--count N] [--rounds N] [--seconds N] [--json FILE]

One embedded Kafka, four partitions, one machine for everything. Each trial drains the
same backlog twice: first wasm-executor (its supervisor, workers and sandbox children
as processes, warm before), then the plain loop. After each trial every request must
have exactly one result and one event. CPU is that of the processes themselves.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import msgspec

from benchmarks import machine
from benchmarks.figures import PLAIN, Figures, Trial, document, plot, tables
from benchmarks.load import Ask, Latency, Pace, backlog, steady
from benchmarks.plain_loop import Answer, Orders
from benchmarks.report import write_json
from benchmarks.workload import GUESTS, ISSUER, PARTITIONS, Signers
from stream_executor.embedded import EmbeddedKafka
from stream_executor.kafka.admin import KafkaAdmin
from stream_executor.kafka.reader import PartitionReader
from stream_executor.kafka.topics import TopicNames, desired
from stream_executor.model.audit import RequestExecuted
from stream_executor.wire.avro import CODECS, class_of
from tests.deployment import deployment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stream_executor.model.record import Record
    from tests.deployment import Executor, TestDeployment

BARE: Final = "bare transactions"
_PROGRAMS: Final = {PLAIN: "plain_loop", BARE: "bare_transactions"}
RATE: Final = 3_200.0
# Half of what one worker was asked to reach on two cores, 18,000 requests/s.
_HALF_OF_TARGET: Final = 9_000.0
RESULTS: Final = Path(__file__).with_name("results")
_WARM_UP: Final = 4_000
_WARM_BROKER_S: Final = 40.0
_POLL_S: Final = 0.1
_LIMIT_S: Final = 120.0
# The last offsets of a log that surely hold a result, a transaction's marker aside.
_TAIL: Final = 4


class _Answered(msgspec.Struct):
    """Of a result, what the count needs."""

    source: _Source
    status: str


class _Source(msgspec.Struct):
    offset: int
    count: int = 1


_read_result = msgspec.json.Decoder(_Answered).decode


class Rig:
    """One broker and one deployment with everything published."""

    def __init__(self, made: TestDeployment, kafka_pid: int) -> None:
        self.made = made
        self.signers = Signers(made.secret.encode(), made.audience)
        self.plain = TopicNames(
            **{
                name: f"plain.{made.prefix}.{name}"
                for name in TopicNames.__struct_fields__
            }
        )
        self._kafka_pid = kafka_pid
        self._number = 0
        jwks = made.folder / "jwks.json"
        jwks.write_bytes(self.signers.jwks)
        made.settings["WASM_EXECUTOR_JWKS_FILE"] = str(jwks)

    async def prepare(self) -> None:
        """Publish the modules and make the plain loop's topics."""
        for guest in GUESTS.values():
            await self.made.publish(guest.name, guest.binary)
        async with KafkaAdmin(self.made.connection) as admin:
            await admin.apply(desired(self.plain, partitions=PARTITIONS, brokers=1))

    def ask(self, workload: str) -> Ask:
        """Read ``HS256 add``."""
        algorithm, _, guest = workload.partition(" ")
        return Ask(self.signers, algorithm, GUESTS[guest])

    def tag(self) -> str:
        """Give a new beginning for request ids."""
        self._number += 1
        return f"b{self._number}"

    async def executor(self, workers: int) -> Executor:
        """Start an executor and have it answer some requests of each kind."""
        executor = self.made.start(WORKERS=str(workers))
        await executor.ready()
        for workload in ("HS256 add", "EdDSA memory"):
            await self.drain(executor, workload, _WARM_UP)
        return executor

    async def drain(
        self, executor: Executor, workload: str, count: int, name: str = ""
    ) -> tuple[Trial, dict[int, tuple[int, int]]]:
        """Let an executor drain a backlog; give its trial and the offsets."""
        made, ask = self.made, self.ask(workload)
        each = count // PARTITIONS
        async with PartitionReader(made.connection) as reader:
            topics = made.topics
            starts = await _ends(reader, topics.requests)
            results = await _ends(reader, topics.results)
            events = await _ends(reader, topics.audit)
            positions = {p: (at, at + each) for p, at in starts.items()}
            async with backlog(made, ask, self.tag(), count) as producer:
                pids = _Pids(executor.process.pid)
                before, broker = pids.cpu(), machine.cpu_s([self._kafka_pid])
                started = time.time()
                await producer.commit_transaction()
                await _answered(reader, topics.results, positions)
                after = pids.cpu()
                broker = machine.cpu_s([self._kafka_pid]) - broker
            ended = await _verify(reader, made, positions, results, events)
        total = each * PARTITIONS
        each_us = {kind: (after[kind] - before[kind]) * 1e6 / total for kind in after}
        trial = Trial(
            name, workload, total / (ended - started), sum(each_us.values()),
            broker * 1e6 / total, each_us["worker"], each_us["child"],
            max(map(machine.resident_mb, pids.of("worker")), default=None),
        )  # fmt: skip
        return trial, positions

    async def drain_plainly(
        self, workload: str, positions: dict[int, tuple[int, int]]
    ) -> Trial:
        """Let the plain loop drain the same records."""
        async with self._other(PLAIN, workload, positions) as process:
            broker = machine.cpu_s([self._kafka_pid])
            answer = await process.answer()
            broker = machine.cpu_s([self._kafka_pid]) - broker
        scale = 1e6 / answer.count
        return Trial(
            PLAIN, workload, answer.count / answer.seconds,
            answer.cpu_s * scale, broker * scale, resident_mb=answer.resident_mb,
        )  # fmt: skip

    async def wait(self, workload: str, pace: Pace) -> Latency:
        """Send at a pace to the executor; it runs."""
        made = self.made
        return _sound(
            await steady(
                made, self.ask(workload), self.tag(), pace, made.topics.results
            )
        )

    async def wait_for_other(self, program: str, workload: str, pace: Pace) -> Latency:
        """Send at a pace to another program; the executor does not run."""
        made, each = self.made, pace.each(PARTITIONS)
        async with PartitionReader(made.connection) as reader:
            ends = await _ends(reader, made.topics.requests)
        positions = {p: (end, end + each) for p, end in ends.items()}
        async with self._other(program, workload, positions) as process:
            seen = await steady(
                made, self.ask(workload), self.tag(), pace, self.plain.results
            )
            await process.answer()
        return _sound(seen)

    @asynccontextmanager
    async def _other(
        self, program: str, workload: str, positions: dict[int, tuple[int, int]]
    ) -> AsyncIterator[_Other]:
        made, ask = self.made, self.ask(workload)
        hs256 = ask.algorithm == "HS256"
        key: Any = ask.signers.secret if hs256 else ask.signers.key.jwk
        orders = Orders(
            made.bootstrap, f"other-{made.prefix}", made.topics.requests,
            self.plain.results, self.plain.audit, positions, ask.algorithm, key,
            ISSUER, made.audience, {g.name: g.binary for g in GUESTS.values()},
        )  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", f"benchmarks.{_PROGRAMS[program]}",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[1],
            env={"PATH": os.environ["PATH"]},
        )  # fmt: skip
        other = _Other(process)
        try:
            await other.begin(orders)
            yield other
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


class _Other:
    """The process of a program that ours is measured beside."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._orders, self._answer = process.stdin, process.stdout

    async def begin(self, orders: Orders) -> None:
        """Return once it polls."""
        async with asyncio.timeout(_LIMIT_S):
            self._orders.write(msgspec.json.encode(orders) + b"\n")
            assert await self._answer.readline() == b"ready\n"
            self._orders.write(b"\n")

    async def answer(self) -> Answer:
        """Wait until it has answered everything."""
        async with asyncio.timeout(_LIMIT_S):
            answer = msgspec.json.decode(await self._answer.readline(), type=Answer)
        assert not answer.failed, f"{answer.failed} requests were refused"
        return answer


def _sound(seen: Latency) -> Latency:
    assert not seen.missing, f"{seen.missing} requests without a result"
    assert not seen.failed, f"{seen.failed} requests failed"
    return seen


class _Pids:
    """An executor's processes by what they are."""

    def __init__(self, supervisor: int) -> None:
        self._supervisor = supervisor
        self._kinds: dict[int, str] = {}
        for pid in machine.tree(supervisor):
            name = machine.title(pid)
            kind = "worker" if "worker" in name else "child"
            self._kinds[pid] = "supervisor" if pid == supervisor else kind

    def of(self, kind: str) -> list[int]:
        return [pid for pid, its in self._kinds.items() if its == kind]

    def cpu(self) -> dict[str, float]:
        kinds = ("supervisor", "worker", "child")
        return {kind: machine.cpu_s(self.of(kind)) for kind in kinds}


async def _ends(reader: PartitionReader, topic: str) -> dict[int, int]:
    return {p: await reader.end_offset(topic, p) for p in range(PARTITIONS)}


async def _answered(
    reader: PartitionReader, topic: str, positions: dict[int, tuple[int, int]]
) -> None:
    """Return when the last request of each partition has its result."""
    waiting = set(positions)
    async with asyncio.timeout(_LIMIT_S):
        while waiting:
            await asyncio.sleep(_POLL_S)
            for partition in sorted(waiting):
                end = await reader.end_offset(topic, partition)
                tail = _all(reader, topic, partition, max(0, end - _TAIL), end)
                last = [_read_result(r.value or b"").source async for r in tail]
                if last and (
                    last[-1].offset + last[-1].count >= positions[partition][1]
                ):
                    waiting.discard(partition)


async def _verify(
    reader: PartitionReader,
    made: TestDeployment,
    positions: dict[int, tuple[int, int]],
    results: dict[int, int],
    events: dict[int, int],
) -> float:
    """Count results and events; give when the last result was appended (seconds)."""
    last_ms = 0
    for partition, (start, end) in positions.items():
        wanted = list(range(start, end))
        answered, told = [], []
        topic, at = made.topics.results, results[partition]
        async for record in _all(reader, topic, partition, at):
            result = _read_result(record.value or b"")
            assert result.status == "SUCCEEDED", record.value
            if result.source.offset < start:  # asked while no executor ran
                continue
            answered.append(result.source.offset)
            last_ms = max(last_ms, record.timestamp)
        topic, at = made.topics.audit, events[partition]
        async for record in _all(reader, topic, partition, at):
            value = record.value or b""
            if class_of(value) is RequestExecuted:
                event = CODECS[RequestExecuted].decode(value)
                told += [event.offset] if event.offset >= start else []
        assert answered == wanted, f"{len(answered)} results of {len(wanted)}"
        assert told == wanted, f"{len(told)} events of {len(wanted)}"
    return last_ms / 1e3


async def _all(
    reader: PartitionReader, topic: str, partition: int, start: int, end: int = -1
) -> AsyncIterator[Record]:
    if end < 0:
        end = await reader.end_offset(topic, partition)
    async for records in reader.read(topic, partition, start, end):
        for record in records:
            yield record


# -- the run -----------------------------------------------------------------------


async def measure(rig: Rig, count: int, rounds: int, seconds: float) -> Figures:
    """Run everything, W1 (HS256, ``add``) first and ``rounds`` times."""
    pairs: list[tuple[Trial, Trial]] = []
    for workers in (1, 2):
        workloads = ["HS256 add"] * rounds
        if workers == 1:
            workloads += ["EdDSA add", "HS256 memory"]
        name = f"wasm-executor, WORKERS={workers}"
        executor = await rig.executor(workers)
        for workload in workloads:
            machine.note(f"end to end: {workload}, {workers} workers, then plain")
            trial, positions = await rig.drain(executor, workload, count, name)
            pairs.append((trial, await rig.drain_plainly(workload, positions)))
        assert await executor.stop() == 0
    half = median(ours.req_s for ours, _ in pairs[:rounds]) / 2
    return Figures(pairs, await _latencies(rig, half, rounds, seconds))


async def _latencies(
    rig: Rig, half: float, rounds: int, seconds: float
) -> list[tuple[str, Latency]]:
    """Send at steady rates, every program once a round.

    The broker is warmed first: it serves small transactions several times slower until
    its JVM has compiled them, and who is measured first would pay for that.
    """
    name = "wasm-executor, WORKERS=1"
    paces = {
        name: Pace(RATE, seconds),
        f"{name}, half of the target": Pace(_HALF_OF_TARGET, seconds),
        f"{name}, half of its throughput": Pace(half, seconds),
    }
    latencies: list[tuple[str, Latency]] = []
    for turn in range(rounds):
        executor = await rig.executor(1)
        if turn == 0:
            machine.note("end to end: warming the broker")
            await rig.wait("HS256 add", Pace(RATE, _WARM_BROKER_S))
        for named, pace in paces.items():
            machine.note(f"end to end: {named} at {pace.rate:,.0f} requests/s")
            latencies.append((named, await rig.wait("HS256 add", pace)))
        assert await executor.stop() == 0
        for program in _PROGRAMS:
            machine.note(f"end to end: {program} at {RATE:,.0f} requests/s")
            pace = Pace(RATE, seconds)
            seen = await rig.wait_for_other(program, "HS256 add", pace)
            latencies.append((program, seen))
    return latencies


async def run(count: int, rounds: int, seconds: float) -> Figures:
    """Start a broker and a deployment, measure, stop both."""
    with tempfile.TemporaryDirectory(prefix="wasm-bench-") as folder:
        kafka = await asyncio.to_thread(EmbeddedKafka(throughput=True).start)
        try:
            made = deployment(kafka.bootstrap, Path(folder), PARTITIONS)
            async with made as begun:
                rig = Rig(begun, kafka.pid)
                await rig.prepare()
                return await measure(rig, count, rounds, seconds)
        finally:
            await asyncio.to_thread(kafka.stop)


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--json", type=Path, help="also write the plot beside it")
    given = parser.parse_args()
    figures = asyncio.run(run(given.count, given.rounds, given.seconds))
    print(tables(figures))
    if given.json:
        write_json(given.json, document(figures, given.count))
        given.json.with_suffix(".svg").write_text(plot(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
