"""Every kind of record ends in its terminal state, and the lane goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from stream_executor.kafka.appender import Appender
from stream_executor.model.request import Bytes, Call, ExecutionRequest, ModuleName
from stream_executor.model.scalars import ValueType, pack_value
from stream_executor.wire.requests import encode_avro, encode_json
from tests.deployment import ADD, Executor, TestDeployment, deployment
from tests.history import History, read_history

SPIN = '(module (func (export "spin") (loop (br 0))))'
# Gives back as many bytes as its input says, in tens of thousands.
LARGE = """(module (memory (export "memory") 10)
  (func (export "alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "run") (param i32 i32) (result i64)
    (i64.extend_i32_u (i32.const 400000))))"""


async def append(
    made: TestDeployment,
    value: bytes | None,
    *,
    token: bytes | None = None,
    key: bytes | None = None,
) -> int:
    """Append one record to partition 0; sign it unless a token is given."""
    topic = made.topics.requests
    if token is None:
        now_s = int(time.time())
        token = made.signer().sign(topic, 0, value or b"", now_s=now_s)
    async with Appender(made.connection) as appender:
        header = [("authorization", b"Bearer " + token)] if token else []
        return (await appender.append(topic, 0, value or b"", header, key=key)).offset


def call(function: str, module: str = "add@1", *, number: int = 1) -> ExecutionRequest:
    """A call with two arguments, or none for `spin`."""
    args = b"" if function == "spin" else pack_value(ValueType.I32, number) * 2
    return ExecutionRequest(
        f"r-{number}", ModuleName(*module.split("@")), Call(function, args)
    )


async def settled(made: TestDeployment, offset: int) -> History:
    """Wait until this offset of partition 0 is answered."""
    async with asyncio.timeout(60):
        while (0, offset) not in (history := await read_history(made)).results:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    return history


def outcome(history: History, offset: int) -> tuple[str, str | None]:
    """Give (status, code) of an offset of partition 0."""
    result = history.results[0, offset]
    return result.status, result.code


@pytest.mark.timeout(120)
async def test_each_kind_of_record_has_its_end(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    """Malformed, oversized, empty, keyless, unknown, expired: one answer each."""
    async with deployment(kafka_bootstrap, tmp_path, 1) as made:
        await made.publish("add@1", ADD)
        await made.publish("large@1", LARGE)
        executor = made.start(MAX_RESULT_BYTES="100000")
        await executor.ready()
        good = encode_json(call("add"))
        past = ExecutionRequest(
            "r-past", ModuleName("add", "1"), Call("add", b""), not_after_ms=1
        )
        large = ExecutionRequest("r-l", ModuleName("large", "1"), Bytes(b"x"))
        expected = {
            await append(made, good): ("SUCCEEDED", None),
            await append(made, b"not avro, not json"): ("REJECTED", "invalid_request"),
            await append(made, good, token=b"x" * 9_000): (
                "REJECTED",
                "auth_malformed",
            ),
            await append(made, good, token=b"x" * 900_000): (
                "REJECTED",
                "invalid_request",
            ),
            await append(made, b"", token=b""): ("REJECTED", "auth_missing"),
            await append(made, None): ("REJECTED", "invalid_request"),
            await append(made, good, key=b"any key"): ("SUCCEEDED", None),
            await append(made, encode_avro(call("add"))): ("SUCCEEDED", None),
            await append(made, encode_json(call("none"))): (
                "FAILED",
                "function_not_found",
            ),
            await append(made, encode_json(call("add", "no@1"))): (
                "REJECTED",
                "module_not_found",
            ),
            await append(made, encode_json(past)): ("EXPIRED", "not_after_passed"),
            await append(made, encode_json(large)): ("FAILED", "output_limit"),
            await append(made, good): ("SUCCEEDED", None),
        }

        history = await settled(made, max(expected))

        assert {o: outcome(history, o) for o in expected} == expected
        assert await executor.stop() == 0


@pytest.mark.timeout(120)
async def test_a_hanging_module_is_stopped_and_a_killed_child_costs_its_job_only(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    """A guest that never ends is `timeout`; a child's death is its job's problem."""
    async with deployment(kafka_bootstrap, tmp_path, 1) as made:
        await made.publish("add@1", ADD)
        await made.publish("spin@1", SPIN)
        executor = made.start(
            MAX_FUEL="1000000000000000", HARD_MAX_FUEL="1000000000000000",
            TIMEOUT_SECONDS="5",
        )  # fmt: skip
        await executor.ready()
        hanging = await append(made, encode_json(call("spin", "spin@1")))
        after = await append(made, encode_json(call("add", number=5)))
        history = await settled(made, after)

        assert outcome(history, hanging) == ("FAILED", "timeout")
        assert outcome(history, after) == ("SUCCEEDED", None)

        doomed = await append(made, encode_json(call("spin", "spin@1", number=2)))
        await _kill_whoever_runs_it(executor, twice=True)
        after = await append(made, encode_json(call("add", number=6)))
        history = await settled(made, after)

        assert outcome(history, doomed) == ("FAILED", "sandbox_crashed")
        assert outcome(history, after) == ("SUCCEEDED", None)
        assert await executor.stop() == 0


@pytest.mark.timeout(120)
async def test_a_result_too_large_for_its_topic_becomes_output_limit(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    """Someone lowered max.message.bytes: the lane answers, it does not try for ever."""
    async with deployment(kafka_bootstrap, tmp_path, 1) as made:
        await made.publish("add@1", ADD)
        await made.publish("large@1", LARGE)
        executor = made.start()
        await executor.ready()
        await made.configure(made.topics.results, "max.message.bytes", "60000")
        large = ExecutionRequest("r-l", ModuleName("large", "1"), Bytes(b"x"))
        offset = await append(made, encode_json(large))
        after = await append(made, encode_json(call("add")))
        history = await settled(made, after)

        assert outcome(history, offset) == ("FAILED", "output_limit")
        assert outcome(history, after) == ("SUCCEEDED", None)
        assert await executor.stop() == 0


async def _kill_whoever_runs_it(executor: Executor, *, twice: bool) -> None:
    """SIGKILL the sandbox child that burns CPU; once more when it is tried again."""
    for _ in range(2 if twice else 1):
        async with asyncio.timeout(20):
            pid = await asyncio.to_thread(_busy_child, executor)
            while pid is None:
                pid = await asyncio.to_thread(_busy_child, executor)
        os.kill(pid, signal.SIGKILL)


def _busy_child(executor: Executor) -> int | None:
    """Find the sandbox child that uses a whole CPU for a tenth of a second."""
    # The supervisor's children are workers; theirs are the sandbox's.
    workers = _children(executor.process.pid)
    children = [pid for worker in workers for pid in _children(worker)]
    before = {pid: _cpu(pid) for pid in children}
    time.sleep(0.15)
    busy = {pid: _cpu(pid) - before[pid] for pid in children if _cpu(pid) >= 0}
    return next((pid for pid, ticks in busy.items() if ticks >= 5), None)


def _children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


def _cpu(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return -1
    return int(fields[11]) + int(fields[12])
