"""Hostile modules through the whole service: one deployment takes all of them.

What each attack does to a sandbox is proven beside the pool (``sandbox/test_hostile``);
here, that it reaches the requester and the audit as one stable code, and that worker
and supervisor neither grow nor fall.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import pytest

from stream_executor.kafka.appender import Appender
from stream_executor.kafka.reader import PartitionReader
from stream_executor.model.audit import LaneAcquired
from stream_executor.model.job import InvocationKind
from stream_executor.model.request import (
    Bytes,
    Call,
    ExecutionRequest,
    InlineModule,
    ModuleName,
    RequestedLimits,
    Wasi,
)
from stream_executor.model.scalars import ValueType, pack_value
from stream_executor.sandbox.protocol import HARDENING
from stream_executor.wire.avro import CODECS, class_of
from stream_executor.wire.requests import encode_avro
from tests.deployment import ADD, TestDeployment, deployment
from tests.history import History, read_history
from tests.integration.sandbox.hostile import RUNNING, Attack, refused

if TYPE_CHECKING:
    from stream_executor.model.request import Invocation

MIB = 2**20
HONEST = 10  # requests, before the attacks and after them
SLOWER = 5  # at most, and normally not at all
MAX_INLINE_BYTES = 640 * 1024
# Ends that depend on the deployment's own caps, or modules too long to travel inline.
_ELSEWHERE = {"output_above_the_cap", "a_module_above_the_size"}
ATTACKS = {
    name: attack
    for name, attack in (RUNNING | refused()).items()
    if name not in _ELSEWHERE and len(attack.binary) <= MAX_INLINE_BYTES
}


def request(name: str, attack: Attack) -> bytes:
    """Give the request that carries an attack inline."""
    invocation: Invocation
    if attack.kind == InvocationKind.CALL:
        invocation = Call(attack.function, attack.payload)
    elif attack.kind == InvocationKind.BYTES:
        invocation = Bytes(attack.payload)
    else:
        given = attack.wasi
        files = given.files if given else ()
        args = given.args if given else ()
        invocation = Wasi(args=args, stdin=attack.payload, files=files)
    limits = attack.limits
    asked = RequestedLimits(limits.fuel_units, limits.memory_bytes, limits.deadline_ms)
    module = InlineModule(attack.binary)
    return encode_avro(ExecutionRequest(name, module, invocation, limits=asked))


def add(number: int) -> bytes:
    """Give an honest request."""
    call = Call("add", pack_value(ValueType.I32, number) * 2)
    return encode_avro(ExecutionRequest("add", ModuleName("add", "1"), call))


async def append(made: TestDeployment, values: list[bytes]) -> list[int]:
    """Sign and append requests; give their offsets."""
    topic, signer = made.topics.requests, made.signer()
    offsets = []
    async with Appender(made.connection) as appender:
        for value in values:
            token = signer.sign(topic, 0, value, now_s=int(time.time()))
            header = [("authorization", b"Bearer " + token)]
            stored = await appender.append(topic, 0, value, header)
            offsets.append(stored.offset)
    return offsets


def resident(root: int) -> dict[int, int]:
    """Give what a supervisor and its workers have resident, without the sandbox."""
    found = {root: _status(root, "VmRSS") * 1024}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        pid = int(stat.parent.name)
        if _status(pid, "PPid") == root:
            found[pid] = _status(pid, "VmRSS") * 1024
    return found


def _status(pid: int, field: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(field)), 0)


async def acquired(made: TestDeployment) -> LaneAcquired:
    """Give the first leaf of the lane's term."""
    topic = made.topics.audit
    async with PartitionReader(made.connection) as reader:
        end = await reader.end_offset(topic, 0)
        async for records in reader.read(topic, 0, 0, end):
            for record in records:
                value = record.value or b""
                if class_of(value) is LaneAcquired:
                    found: LaneAcquired = CODECS[LaneAcquired].decode(value)
                    return found
    raise AssertionError("the audit log holds no lane.acquired")


async def answered(made: TestDeployment, offset: int) -> History:
    """Wait until this offset has its result."""
    async with asyncio.timeout(150):
        while (0, offset) not in (history := await read_history(made)).results:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    return history


@pytest.mark.timeout(240)
@pytest.mark.threat("T-17")
@pytest.mark.threat("T-18")
async def test_hostile_modules_end_in_their_codes_and_the_service_goes_on(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    async with deployment(kafka_bootstrap, tmp_path, 1) as made:
        await made.publish("add@1", ADD)
        executor = made.start(
            MAX_FUEL=str(10**15), HARD_MAX_FUEL=str(10**15), TIMEOUT_SECONDS="5",
            WASM_EXECUTOR_CHILDREN="2", REQUIRE_HARDENING="true",
            WASM_EXECUTOR_COMPILE_MEMORY_BYTES=str(384 * MIB),
        )  # fmt: skip
        await executor.ready()
        undisturbed = await append(made, [add(1)] * HONEST)
        await answered(made, undisturbed[-1])
        before = await asyncio.to_thread(resident, executor.process.pid)

        values = [request(name, attack) for name, attack in ATTACKS.items()]
        offsets = await append(made, [*values, add(2)])
        history = await answered(made, offsets[-1])

        found = {
            name: history.results[0, offset].code
            for name, offset in zip(ATTACKS, offsets, strict=False)
        }
        assert found == {name: attack.code for name, attack in ATTACKS.items()}
        assert history.results[0, offsets[-1]].status == "SUCCEEDED"
        afterwards = await append(made, [add(3)] * HONEST)
        await answered(made, afterwards[-1])
        waited = await made.latencies_ms(0)
        normal, now = [
            median(waited[offset] for offset in some)
            for some in (undisturbed, afterwards)
        ]
        assert now < SLOWER * normal
        after = await asyncio.to_thread(resident, executor.process.pid)
        assert after.keys() == before.keys(), "a worker was lost"
        for pid, size in before.items():
            assert after[pid] - size < 128 * MIB
        assert sorted((await acquired(made)).hardening) == sorted(HARDENING)
        assert await executor.stop() == 0
