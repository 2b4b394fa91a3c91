"""Damaged lanes halt, are resumed and accounted for; poison is quarantined."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stream_executor.audit.chain import leaf_hash
from stream_executor.audit.key_files import secret_at
from stream_executor.audit.segments import link_of
from stream_executor.audit.signing import certify, public_bytes, signed
from stream_executor.kafka.admin import KafkaAdmin
from stream_executor.kafka.appender import Appender
from stream_executor.kafka.topics import desired
from stream_executor.model.audit import Genesis, LaneReleased, Seal
from stream_executor.model.request import Call, ExecutionRequest, ModuleName
from stream_executor.model.scalars import ValueType, pack_value
from stream_executor.wire.avro import CODECS, encode
from stream_executor.wire.requests import encode_json
from stream_executor.wire.results import decode_result
from stream_executor.wire.results import encode_json as encode_result
from tests.deployment import ADD, Executor, TestDeployment, deployment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SPIN = '(module (func (export "spin") (loop (br 0))))'
(SOUND, REMOVED, TORN, TAIL, TIMES, BROKEN, STRAY, GONE, MOVED, TWICE) = range(10)
# What the doctor must say of each lane, one after the other where it takes two orders.
DAMAGES = {
    REMOVED: ["requests_removed"],
    TORN: ["torn_transaction"],
    TAIL: ["audit_tail_lost"],
    TIMES: ["foreign_time"],
    BROKEN: ["chain_broken"],
    STRAY: ["other_log"],
    GONE: ["no_genesis"],
    MOVED: ["other_cluster"],
    TWICE: ["torn_transaction", "requests_removed"],
}
# No order helps these: the log must come back, or another one begin.
HOPELESS = {GONE: "init --previous-log 7=", MOVED: "set KAFKA_BOOTSTRAP_SERVERS"}
# What `audit verify` must report afterwards, and nothing else.
FOUND = {GONE: {"genesis_missing", "result_unexpected"}, MOVED: {"genesis_mismatch"}}
LOST = {lane: [{"start": 1, "end": 2}] for lane in (REMOVED, TAIL, TWICE)}
SKIPPED = {TORN: 1, BROKEN: 1, STRAY: 5, TWICE: 1}
# What a reader who knows of no order must count.
COUNTED = {
    "doubled": "STRAY holds another lane's events too",
    "reordered": "STRAY: the same",
    "altered": "STRAY: those events name other results",
    "terms_reused": "STRAY: they are of another owner",
    "chain_breaks": "TORN, TWICE, BROKEN and STRAY hold leaves that were skipped",
    "torn": "BROKEN and STRAY hold seals that were skipped",
    "phantom": "REMOVED and TWICE: a request was removed after its answer",
    "unaudited": "TAIL, GONE and MOVED have lost the event of a result",
    "unattested": "REMOVED, TWICE and TAIL were ordered to pass over an offset",
}
ANEW = {
    "doubled": "offset 0 of the new requests topic is another request",
    "reordered": "the same",
    "lost": "a request was not answered before its lane's log was gone",
    "unaudited": "the events of the first audit topic are gone",
    "unattested": "the same",
}


def sum_of(number: int) -> bytes:
    """A request that adds."""
    args = pack_value(ValueType.I32, number) * 2
    return encode_json(
        ExecutionRequest(f"r-{number}", ModuleName("add", "1"), Call("add", args))
    )


async def lanes(executor: Executor) -> dict[int, dict[str, Any]]:
    """Give the lanes as `/status` shows them."""
    code, text = await asyncio.to_thread(executor.http, "/status")
    workers = json.loads(text)["service"]["workers"] if code == 200 else []
    return {one["partition"]: one for w in workers for one in w["lanes"]}


async def states(executor: Executor, wanted: dict[int, str]) -> None:
    """Wait until lanes are in these states; fail with what they are in instead."""
    found: dict[int, dict[str, Any]] = {}
    try:
        async with asyncio.timeout(60):
            while {p: one["state"] for p, one in found.items()} != wanted:
                found = await lanes(executor)
                await asyncio.sleep(0.1)
    except TimeoutError as error:
        raise AssertionError(f"{found}, not {wanted}") from error


async def results(made: TestDeployment, partition: int, count: int) -> None:
    """Wait until a lane has written so many results."""
    async with asyncio.timeout(60):
        while len(await made.records(made.topics.results, partition)) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


class Harm:
    """What somebody with too many rights does to a deployment's topics."""

    def __init__(
        self, made: TestDeployment, appender: Appender, admin: AIOKafkaAdminClient
    ) -> None:
        self.made = made
        self.appender = appender
        self.admin = admin

    async def ask(self, partition: int, number: int = 1) -> int:
        """A request that nobody answers yet; give its offset."""
        return await self.made.ask(self.appender, partition, sum_of(number))

    async def write(self, partition: int, *values: bytes) -> None:
        """Append to the audit log."""
        for value in values:
            await self.appender.append(self.made.topics.audit, partition, value)

    async def leaves(self, partition: int) -> list[bytes]:
        """Give the audit log."""
        records = await self.made.records(self.made.topics.audit, partition)
        return [record.value or b"" for record in records]

    async def remove(self, topic: str, partition: int, before: int) -> None:
        """Remove a partition's beginning."""
        where = {TopicPartition(topic, partition): RecordsToDelete(before)}
        await self.admin.delete_records(where)

    async def tear(self, partition: int) -> None:
        """A leaf that continues the chain, and no seal."""
        last = (await self.leaves(partition))[-1]
        leaf = LaneReleased(link_of(last)[0] + 1, leaf_hash(last), 1, 1, "drain")
        await self.write(partition, encode(leaf))

    async def fork(self, partition: int) -> None:
        """A seal under the fleet key that follows no leaf of this log."""
        key = Ed25519PrivateKey.generate()
        by = certify(public_bytes(key), self.made.keys.fleet, 1)
        seal = CODECS[Seal].decode((await self.leaves(partition))[-1])
        forged = msgspec.structs.replace(
            seal, seq=seal.seq + 7, prev=leaf_hash(b"no leaf"),
            process_key=by.process_key, fleet_key=by.fleet_key,
            certified_ms=by.certified_ms, certificate=by.certificate,
        )  # fmt: skip
        await self.write(partition, signed(forged, key))

    async def run_ahead(self, partition: int) -> None:
        """A result that cites an event which the audit log does not hold."""
        await self.ask(partition)
        topic = self.made.topics.results
        answered = (await self.made.records(topic, partition))[-1].value or b""
        ahead = msgspec.structs.replace(decode_result(answered), offset=1, seq=1000)
        await self.appender.append(topic, partition, encode_result(ahead))

    async def date(self, partition: int) -> None:
        """A request with its producer's time among others."""
        topic, setting = self.made.topics.requests, "message.timestamp.type"
        await self.made.configure(topic, setting, "CreateTime")
        await self.ask(partition)
        await self.made.configure(topic, setting, "LogAppendTime")
        await self.ask(partition, 2)

    async def delete_log(self, partition: int) -> None:
        """An audit log is gone."""
        await self.remove(self.made.topics.audit, partition, -1)

    async def move(self, partition: int) -> None:
        """An audit log is what another cluster's was at its beginning."""
        genesis = CODECS[Genesis].decode((await self.leaves(partition))[0])
        there = msgspec.structs.replace(genesis, cluster_id="another-cluster")
        await self.delete_log(partition)
        await self.write(partition, signed(there, self.made.keys.operator))

    async def make_anew(self, topic: str) -> None:
        """Delete a topic and create it again as it must be."""
        made = self.made
        await self.admin.delete_topics([topic])
        async with KafkaAdmin(made.connection) as admin, asyncio.timeout(30):
            while (await admin.describe([topic]))[topic] is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            brokers = (await admin.cluster()).brokers
            await admin.apply(
                desired(made.topics, partitions=made.partitions, brokers=brokers)
            )


@asynccontextmanager
async def harming(made: TestDeployment) -> AsyncIterator[Harm]:
    """Connect as somebody with too many rights."""
    admin = AIOKafkaAdminClient(bootstrap_servers=made.bootstrap)
    await admin.start()
    try:
        async with Appender(made.connection) as appender:
            yield Harm(made, appender, admin)
    finally:
        await admin.close()


async def answer_one_each(made: TestDeployment) -> None:
    """Let an executor answer one request of each lane, then kill it."""
    await made.publish("add@1", ADD)
    executor = made.start(WASM_EXECUTOR_INSTANCE_ID="one")
    await executor.ready()
    async with Appender(made.connection) as appender:
        for partition in range(made.partitions):
            await made.ask(appender, partition, sum_of(0))
    for partition in range(made.partitions):
        await made.result(partition, 0)
    executor.kill()


async def harm_each_lane(made: TestDeployment) -> None:
    """Harm nine of ten lanes, each in its own way."""
    requests = made.topics.requests
    async with harming(made) as harm:
        for partition in (REMOVED, TWICE):
            await harm.ask(partition)
            await harm.ask(partition)
            await harm.remove(requests, partition, 2)
        await harm.tear(TORN)
        await harm.tear(TWICE)
        await harm.run_ahead(TAIL)
        await harm.date(TIMES)
        await harm.fork(BROKEN)
        await harm.write(STRAY, *await harm.leaves(SOUND))
        await harm.ask(GONE)
        await harm.delete_log(GONE)
        await harm.move(MOVED)


async def diagnosed(made: TestDeployment) -> dict[int, dict[str, Any]]:
    """Give what `audit doctor` says, by lane; its exit code must agree."""
    code, out, err = await made.command("audit", "doctor", "--json")
    found = {one["partition"]: one for one in map(json.loads, out.splitlines())}
    assert code == any(one["damage"] for one in found.values()), err
    return found


async def verified(made: TestDeployment) -> dict[int, dict[str, Any]]:
    """Give what `audit verify` reports, by lane; its exit code must agree."""
    code, out, err = await made.command("audit", "verify", "--json")
    parts = {one["partition"]: one for one in json.loads(out)["partitions"]}
    assert code == any(one["findings"] for one in parts.values()), out + err
    return parts


async def resume(made: TestDeployment, partition: int) -> tuple[int, str]:
    """Order what the doctor proposes; give the exit code and what is said."""
    key = made.folder / "keys" / "operator.pem"
    code, _, err = await made.command(
        "lane", "resume", str(partition), "--key", str(key)
    )
    return code, err


async def shown_to_everybody(made: TestDeployment, executor: Executor) -> None:
    """`/ready`, `/status` and `lane list` show which lanes halted, and what to do."""
    found = await diagnosed(made)
    assert {p: one["damage"] for p, one in found.items()} == {SOUND: None} | {
        lane: damages[0] for lane, damages in DAMAGES.items()
    }
    code, text = await asyncio.to_thread(executor.http, "/ready")
    disabled = {one["partition"]: one for one in json.loads(text)["disabled_lanes"]}
    assert code == 200
    address = f"http://127.0.0.1:{executor.port}"
    code, out, err = await made.command("lane", "list", "--json", "--http", address)
    assert code == 0, err
    listed = {one["partition"]: one for one in map(json.loads, out.splitlines())}
    assert set(disabled) == set(DAMAGES)
    assert set(listed) == {SOUND, *DAMAGES}
    of_status = await lanes(executor)
    for partition in set(DAMAGES) - {TIMES}:  # a lane sees a time only when it comes
        for shown in (disabled, listed, of_status):
            assert found[partition]["finding"] in shown[partition]["reason"]
            assert found[partition]["remedy"] in shown[partition]["reason"]
    assert "`wasm-executor lane resume 4`" in of_status[TIMES]["reason"]


@pytest.mark.timeout(240)
async def test_damaged_lanes_halt_and_go_on_by_the_operators_order(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    async with deployment(kafka_bootstrap, tmp_path, 10, damaged=COUNTED) as made:
        await answer_one_each(made)
        await harm_each_lane(made)

        second = made.start(WASM_EXECUTOR_INSTANCE_ID="one")
        await second.ready()
        await states(second, {SOUND: "running"} | dict.fromkeys(DAMAGES, "halted"))
        await shown_to_everybody(made, second)

        for partition, remedy in HOPELESS.items():
            code, err = await resume(made, partition)
            assert code == 4, err
            assert remedy in err
        for partition, damages in DAMAGES.items():
            for _ in damages if partition not in HOPELESS else ():
                code, err = await resume(made, partition)
                assert code == 0, err
        running = dict.fromkeys({SOUND, *DAMAGES} - set(HOPELESS), "running")
        await states(second, running | dict.fromkeys(HOPELESS, "halted"))

        async with Appender(made.connection) as appender:
            for partition in running:
                offset = await made.ask(appender, partition, sum_of(5))
                result = await made.result(partition, offset)
                assert result.status == "SUCCEEDED"
        assert (await made.result(TIMES, 1)).code == "invalid_request"
        assert await second.stop() == 0
        parts = await verified(made)
        for partition, part in parts.items():
            codes = {finding["code"] for finding in part["findings"]}
            assert codes == FOUND.get(partition, set()), part["findings"]
            assert part["lost"] == LOST.get(partition, []), partition
            assert part["foreign_count"] == SKIPPED.get(partition, 0), partition
            assert part["torn"] == []
        found = await diagnosed(made)
        assert {p for p, one in found.items() if one["damage"]} == set(HOPELESS)


@pytest.mark.timeout(240)
async def test_a_changed_secret_and_topics_made_anew(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    async with (
        deployment(kafka_bootstrap, tmp_path, 2, damaged=ANEW) as made,
        harming(made) as harm,
    ):
        await answer_one_each(made)

        # Another secret: nothing is lost, and no order can help.
        right = made.settings
        changed = tmp_path / "another-secret"
        secret_at(changed)
        made.settings = right | {"WASM_EXECUTOR_DEPLOYMENT_SECRET_FILE": str(changed)}
        executor = made.start(WASM_EXECUTOR_INSTANCE_ID="one")
        await states(executor, {0: "halted", 1: "halted"})
        assert "deployment secret back" in (await lanes(executor))[0]["reason"]
        assert (await diagnosed(made))[0]["damage"] == "secret_changed"
        assert (await resume(made, 0))[0] == 4
        executor.kill()
        made.settings = right
        assert {one["damage"] for one in (await diagnosed(made)).values()} == {None}

        # Another requests topic of that name.
        await harm.make_anew(made.topics.requests)
        for partition in range(2):
            await harm.ask(partition, 3)
        executor = made.start(WASM_EXECUTOR_INSTANCE_ID="one")
        await states(executor, {0: "halted", 1: "halted"})
        for partition in range(2):
            assert (await diagnosed(made))[partition]["damage"] == "requests_replaced"
            code, err = await resume(made, partition)
            assert code == 0, err
        await states(executor, {0: "running", 1: "running"})
        for partition in range(2):
            await results(made, partition, 2)
        assert await executor.stop() == 0
        for part in (await verified(made)).values():
            assert (part["findings"], part["lost"], part["foreign"]) == ([], [], [])

        # Another audit topic of that name: every lane's log is gone, and with it
        # what was asked and not answered.
        await harm.ask(0, 4)
        await harm.make_anew(made.topics.audit)
        found = await diagnosed(made)
        assert {one["damage"] for one in found.values()} == {"no_genesis"}
        previous = [one["remedy"].split("`")[1].split()[-2:] for one in found.values()]
        code, _, err = await made.command(
            "init", "--keys", str(tmp_path / "keys"), "--name", made.prefix,
            *previous[0], *previous[1],
        )  # fmt: skip
        assert code == 0, err
        executor = made.start(WASM_EXECUTOR_INSTANCE_ID="one")
        await states(executor, {0: "running", 1: "running"})
        offset = await harm.ask(0, 5)
        assert (await made.result(0, offset)).status == "SUCCEEDED"
        assert await executor.stop() == 0
        for partition, part in (await verified(made)).items():
            assert (part["findings"], part["foreign"]) == ([], [])
            assert previous[partition][1] == f"{partition}={part['previous']}"
            assert part["lost"] == [[{"start": 1, "end": 2}], []][partition]


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
        code, out, err = await made.command("explain", "quarantined")
        assert (code, "Workers died" in out) == (0, True), out + err
        for remedy in ("request show", "invoke", "module revoke", "submit anew"):
            assert remedy in out
        assert await made.executors[-1].stop() == 0
        code, out, err = await made.command("audit", "verify")
        assert code == 0, out + err
