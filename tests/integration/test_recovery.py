"""Damaged lanes halt, are resumed and accounted for; poison is quarantined."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import msgspec
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete

from stream_executor.audit.chain import leaf_hash
from stream_executor.audit.segments import link_of
from stream_executor.kafka.appender import Appender
from stream_executor.model.audit import LaneReleased
from stream_executor.model.request import Call, ExecutionRequest, ModuleName
from stream_executor.model.scalars import ValueType, pack_value
from stream_executor.wire.avro import encode
from stream_executor.wire.requests import encode_json
from stream_executor.wire.results import decode_result
from stream_executor.wire.results import encode_json as encode_result
from tests.deployment import ADD, Executor, TestDeployment, deployment

if TYPE_CHECKING:
    from pathlib import Path

SPIN = '(module (func (export "spin") (loop (br 0))))'
SOUND, REMOVED, TORN, TAIL, TIMES = range(5)


def sum_of(number: int) -> bytes:
    """A request that adds."""
    args = pack_value(ValueType.I32, number) * 2
    return encode_json(
        ExecutionRequest(f"r-{number}", ModuleName("add", "1"), Call("add", args))
    )


async def lanes(executor: Executor) -> dict[int, dict[str, object]]:
    """Give the lanes as `/status` shows them."""
    code, text = await asyncio.to_thread(executor.http, "/status")
    workers = json.loads(text)["service"]["workers"] if code == 200 else []
    return {one["partition"]: one for w in workers for one in w["lanes"]}


async def states(executor: Executor, wanted: dict[int, str]) -> None:
    """Wait until lanes are in these states; fail with what they are in instead."""
    found: dict[int, object] = {}
    try:
        async with asyncio.timeout(60):
            while found != wanted:
                found = {p: one["state"] for p, one in (await lanes(executor)).items()}
                await asyncio.sleep(0.1)
    except TimeoutError as error:
        raise AssertionError(f"{found}, not {wanted}") from error


async def damage(made: TestDeployment) -> None:
    """Harm four of five lanes, each in its own way."""
    async with Appender(made.connection) as appender:
        for number in range(2):
            for partition in (REMOVED, TAIL):
                await made.ask(appender, partition, sum_of(number))
        audit = await made.records(made.topics.audit, TORN)
        last = audit[-1].value or b""
        leaf = LaneReleased(link_of(last)[0] + 1, leaf_hash(last), 1, 1, "drain")
        await appender.append(made.topics.audit, TORN, encode(leaf))
        answered = (await made.records(made.topics.results, TAIL))[-1].value or b""
        ahead = msgspec.structs.replace(decode_result(answered), offset=1, seq=1000)
        await appender.append(made.topics.results, TAIL, encode_result(ahead))
        await made.configure(
            made.topics.requests, "message.timestamp.type", "CreateTime"
        )
        await made.ask(appender, TIMES, sum_of(1))
        await made.configure(
            made.topics.requests, "message.timestamp.type", "LogAppendTime"
        )
        await made.ask(appender, TIMES, sum_of(2))
    admin = AIOKafkaAdminClient(bootstrap_servers=made.bootstrap)
    await admin.start()
    try:
        where = TopicPartition(made.topics.requests, REMOVED)
        await admin.delete_records({where: RecordsToDelete(before_offset=2)})
    finally:
        await admin.close()


@pytest.mark.timeout(240)
async def test_damaged_lanes_halt_and_go_on_by_the_operators_order(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    async with deployment(kafka_bootstrap, tmp_path, 5) as made:
        await made.publish("add@1", ADD)
        first = made.start(WASM_EXECUTOR_INSTANCE_ID="one")
        await first.ready()
        async with Appender(made.connection) as appender:
            for partition in range(5):
                await made.ask(appender, partition, sum_of(0))
        for partition in range(5):
            await made.result(partition, 0)
        first.kill()
        await damage(made)

        second = made.start(WASM_EXECUTOR_INSTANCE_ID="one")
        await second.ready()
        halted = dict.fromkeys((REMOVED, TORN, TAIL, TIMES), "halted")
        await states(second, {SOUND: "running"} | halted)
        for partition in halted:
            reason = (await lanes(second))[partition]["reason"]
            assert f"wasm-executor lane resume {partition}" in str(reason)

        code, out, err = await made.command("audit", "doctor", "--json")
        found = {one["partition"]: one for one in map(json.loads, out.splitlines())}
        assert code == 1, err
        assert {p: one["damage"] for p, one in found.items()} == {
            SOUND: None,
            REMOVED: "requests_removed",
            TORN: "torn_transaction",
            TAIL: "audit_tail_lost",
            TIMES: "foreign_time",
        }
        key = tmp_path / "keys" / "operator.pem"
        for partition in halted:
            code, _, err = await made.command(
                "lane", "resume", str(partition), "--key", str(key)
            )
            assert code == 0, err
        await states(second, dict.fromkeys(range(5), "running"))

        async with Appender(made.connection) as appender:
            for partition in range(5):
                offset = await made.ask(appender, partition, sum_of(5))
                result = await made.result(partition, offset)
                assert result.status == "SUCCEEDED"
        assert (await made.result(TIMES, 1)).code == "invalid_request"
        assert await second.stop() == 0
        code, out, err = await made.command("audit", "verify", "--json")
        assert code == 0, out + err
        lost = {p["partition"]: p["lost"] for p in json.loads(out)["partitions"]}
        one = [{"start": 1, "end": 2}]
        assert lost == {SOUND: [], REMOVED: one, TORN: [], TAIL: one, TIMES: []}
        code, _, err = await made.command("audit", "doctor")
        assert code == 0, err


async def answered_or_busy(made: TestDeployment, executor: Executor) -> bool:
    """Wait until there is an answer (True), or a request in flight (False)."""
    async with asyncio.timeout(60):
        while not await made.records(made.topics.results, 0):
            one = (await lanes(executor)).get(0)
            if one is not None and one["in_flight"]:
                return False
            await asyncio.sleep(0.1)
    return True


@pytest.mark.timeout(240)
@pytest.mark.threat("T-22")
async def test_a_request_over_which_workers_die_is_quarantined(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    async with deployment(kafka_bootstrap, tmp_path, 1) as made:
        await made.publish("add@1", ADD)
        await made.publish("spin@1", SPIN)
        marked = ExecutionRequest("r-spin", ModuleName("spin", "1"), Call("spin", b""))
        async with Appender(made.connection) as appender:
            await made.ask(appender, 0, encode_json(marked))
            await made.ask(appender, 0, sum_of(1))
        for life in range(12):
            executor = made.start(
                WASM_EXECUTOR_INSTANCE_ID="one",
                TIMEOUT_SECONDS="30",
                MAX_FUEL="1000000000000",
                HARD_MAX_FUEL="1000000000000",
            )
            await executor.ready()
            if await answered_or_busy(made, executor):
                break
            executor.kill()
            assert life < 11, "never quarantined"
        result = await made.result(0, 0)
        assert (result.status, result.code) == ("QUARANTINED", "quarantined")
        assert (await made.result(0, 1)).status == "SUCCEEDED"
        code, out, err = await made.command("request", "show", "r-spin")
        assert "attempt 3" in out, out + err
        assert await made.executors[-1].stop() == 0
        code, out, err = await made.command("audit", "verify")
        assert code == 0, out + err
