"""The registry on real Kafka: published, granted, run, and revoked on two executors."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
import wasmtime

from stream_executor.kafka.appender import Appender
from stream_executor.model.audit import RequestExecuted, RequestRefused
from stream_executor.model.control import ModuleRevoked
from stream_executor.model.request import Call, ExecutionRequest, ModuleName
from stream_executor.model.scalars import ValueType, pack_value
from stream_executor.wire.avro import CODECS, class_of
from stream_executor.wire.requests import encode_json
from tests.deployment import ADD, Executor, TestDeployment, deployment
from tests.history import History, read_history

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(180),
]

GRACE_MS = 1_000
"""Revocation acts on the whole fleet within this."""

# 60 MB of data, 1,100 pages of memory and 21 million units of fuel: each of them above
# the default ceiling.
LARGE = f"""(module (memory 1100)
  (func (export "last") (result i32) (local $n i32)
    (loop $again
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get $n) (i32.const 3000000))))
    (i32.load8_u (i32.const 59999999)))
  (data (i32.const 0) "{"a" * 59_999_999}b"))"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(
    kafka_bootstrap: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[TestDeployment]:
    """Two partitions, two executors with one lane each."""
    folder = tmp_path_factory.mktemp("registry")
    async with deployment(kafka_bootstrap, folder, 2) as two:
        two.settings["HARD_MAX_MODULE_BYTES"] = "62914560"  # as large as records may be
        await two.publish("add@1", ADD)
        executors = [two.start(), two.start()]
        for executor in executors:
            await executor.ready()
        async with asyncio.timeout(60):
            while not all('"running"' in e.http("/status")[1] for e in executors):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        yield two


def adder(number: int) -> bytes:
    """Give a module that adds, with bytes of its own: revocation is by digest."""
    return bytes(
        wasmtime.wat2wasm(
            ADD.replace("(func", f"(global i32 (i32.const {number})) (func", 1)
        )
    )


def request(module: str, function: str, args: bytes = b"") -> bytes:
    """A request's value."""
    name = ModuleName(*module.split("@"))
    return encode_json(ExecutionRequest("r", name, Call(function, args)))


async def answered(made: TestDeployment, places: set[tuple[int, int]]) -> History:
    """Wait until every place has its result."""
    async with asyncio.timeout(90):
        while not places <= (history := await read_history(made)).results.keys():  # noqa: ASYNC110
            await asyncio.sleep(0.3)
    return history


async def administrator(made: TestDeployment, *arguments: str) -> tuple[int, str, str]:
    """Run `wasm-executor module ...` with the Administrator's key."""
    key = str(made.folder / "keys" / "administrator.pem")
    return await made.command("module", *arguments, "--key", key)


async def test_a_large_module_runs_with_its_grant_and_not_without(
    made: TestDeployment,
) -> None:
    """Size, fuel and memory above the ceilings, each refused before it was granted."""
    file = made.folder / "large.wasm"
    file.write_bytes(wasmtime.wat2wasm(LARGE))
    publish = ("publish", str(file), "--name", "large@1")
    sized = ("--grant-size",)
    more = ("--grant-size", "--grant-memory", "83886080", "--grant-fuel", "100000000")
    async with Appender(made.connection) as appender:
        expected = {}
        for grant, end in (
            ((), ("REJECTED", "module_too_large")),
            (sized, ("FAILED", "memory_limit")),
            (more, ("SUCCEEDED", None)),
        ):
            code, _, err = await administrator(made, *publish, *grant)
            assert code == 0, err
            for partition in (0, 1):
                offset = await made.ask(appender, partition, request("large@1", "last"))
                expected[partition, offset] = end
            history = await answered(made, set(expected))
            outcomes = {p: (r.status, r.code) for p, r in history.results.items()}
            assert {place: outcomes[place] for place in expected} == expected
    code, out, _ = await made.command("module", "show", "large@1", "--json")
    assert code == 0
    assert '"grant":{"fuel_units":100000000,"memory_bytes":83886080}' in out


async def test_a_grant_above_the_hard_maximum_is_not_published(
    made: TestDeployment,
) -> None:
    file = made.folder / "small.wasm"
    file.write_bytes(adder(2))
    for option, amount in (
        ("--grant-fuel", "1000000001"), ("--grant-memory", "536870913"),
        ("--grant-deadline", "61"),
    ):  # fmt: skip
        code, _, err = await administrator(
            made, "publish", str(file), "--name", "small@1", option, amount
        )
        assert (code, "above the hard maximum" in err) == (2, True), err
    code, _, err = await made.command("module", "show", "small@1")
    assert (code, "never published" in err) == (2, True)


@pytest.mark.threat("T-24")
async def test_revocation_stops_new_executions_on_the_whole_fleet_within_a_second(
    made: TestDeployment,
) -> None:
    """Judged by the broker's clock alone: appended later than that, never executed."""
    s256 = await made.publish("doomed@1", adder(1))
    value = request("doomed@1", "add", pack_value(ValueType.I32, 1) * 2)
    places: set[tuple[int, int]] = set()
    stop = asyncio.Event()

    async def keep_asking(appender: Appender, partition: int) -> None:
        while not stop.is_set():
            places.add((partition, await made.ask(appender, partition, value)))
            await asyncio.sleep(0.05)

    async with Appender(made.connection) as appender, asyncio.TaskGroup() as tasks:
        first = {(p, await made.ask(appender, p, value)) for p in (0, 1)}
        await answered(made, first)  # both lanes work, and ran it while they might
        places |= first
        for partition in (0, 1):
            tasks.create_task(keep_asking(appender, partition))
        code, out, err = await administrator(
            made, "revoke", "doomed@1", "--reason", "found to be malicious", "--json"
        )
        assert code == 0, err
        assert f'"sha256":"{s256.hex()}"' in out
        control = await made.records(made.topics.control, 0)
        *_, said = [r for r in control if class_of(r.value or b"") is ModuleRevoked]
        late = {0: 0, 1: 0}
        async with asyncio.timeout(60):
            while min(late.values()) < 5:  # until enough came after the grace
                await asyncio.sleep(0.2)
                for partition in late:
                    asked = await made.records(made.topics.requests, partition)
                    late[partition] = sum(
                        r.timestamp > said.timestamp + GRACE_MS for r in asked
                    )
        stop.set()

    await answered(made, places)
    for partition in (0, 1):
        times = {
            r.offset: r.timestamp
            for r in await made.records(made.topics.requests, partition)
            if (partition, r.offset) in places
        }
        executed, refused = await decisions(made, partition, s256, times)
        assert executed, "nothing ran before: the test would prove nothing"
        too_late = {o for o, t in times.items() if t > said.timestamp + GRACE_MS}
        assert too_late
        assert too_late <= refused
        assert times.keys() == executed | refused


async def decisions(
    made: TestDeployment, partition: int, s256: bytes, asked: dict[int, int]
) -> tuple[set[int], set[int]]:
    """Give which of these offsets the audit log says ran, and which were refused."""
    executed, refused = set(), set()
    for record in await made.records(made.topics.audit, partition):
        kind = class_of(record.value or b"")
        if kind not in (RequestExecuted, RequestRefused):
            continue
        event = CODECS[kind].decode(record.value or b"")
        if event.offset not in asked:
            continue
        if isinstance(event, RequestExecuted) and event.code != "module_not_found":
            assert event.module_s256 == s256
            executed.add(event.offset)
        else:
            assert event.code == "module_not_found"
            refused.add(event.offset)
    return executed, refused


def measured(executor: Executor, name: str) -> float:
    """Give a counter of an executor, 0 while it does not answer."""
    _, text = executor.http("/metrics")
    rows = (line.rpartition(" ") for line in text.splitlines())
    return sum(float(value) for row, _, value in rows if row.startswith(name))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what only polling tells."""
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_what_is_published_is_compiled_ahead_and_found_after_a_restart(
    made: TestDeployment,
) -> None:
    """Nobody asks for the module before it is compiled, nor compiles it twice."""
    state = made.folder / "state-of-a-third"

    def start() -> Executor:
        return made.start(
            WASM_EXECUTOR_STATE_DIR=str(state), WASM_EXECUTOR_LEAVE_ON_STOP="true"
        )

    third = start()
    await third.ready()
    s256 = await made.publish("ahead@1", adder(4))
    _, out, _ = await made.command("module", "list", "--json")
    runnable = {
        one["sha256"]
        for one in map(json.loads, out.splitlines())
        if not one["revoked"] and (one["grant"] or one["size_bytes"] < 10 << 20)
    }
    assert s256.hex() in runnable

    def kept(folder: Path) -> set[str]:
        files = (folder / "compile-cache").glob("*.*")
        return {file.name.partition(".")[0] for file in files}

    for folder in (made.folder / "state-0", made.folder / "state-1"):
        await until(lambda folder=folder: s256.hex() in kept(folder))  # type: ignore[misc]
    await until(lambda: runnable <= kept(state))
    assert await third.stop() == 0

    again = start()
    await again.ready()
    hits = 'wasm_executor_compile_cache_lookups_total{outcome="hit"}'
    await until(lambda: measured(again, hits) == len(runnable))
    assert measured(again, "wasm_executor_module_compilations_total") == 0
    assert await again.stop() == 0


async def test_a_revoked_module_is_shown_and_cannot_come_back(
    made: TestDeployment,
) -> None:
    file = made.folder / "back.wasm"
    file.write_bytes(adder(3))
    code, _, err = await administrator(made, "publish", str(file), "--name", "back@1")
    assert code == 0, err
    revoke = ("revoke", "back@1", "--reason", "test", "--json")
    assert '"new":true' in (await administrator(made, *revoke))[1]
    assert '"new":false' in (await administrator(made, *revoke))[1]
    code, _, err = await administrator(made, "publish", str(file), "--name", "back@2")
    assert (code, "revoked" in err) == (2, True), err
    _, out, _ = await made.command("module", "list")
    assert any("back@1" in line and "revoked" in line for line in out.splitlines())
    code, _, err = await administrator(made, "revoke", "never@1", "--reason", "x")
    assert (code, "never published" in err) == (2, True), err
