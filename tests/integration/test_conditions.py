"""The world goes wrong around a deployment: what it says, and that nothing is lost."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import orjson
import pytest

from stream_executor.embedded import EmbeddedKafka
from stream_executor.kafka.appender import Appender
from stream_executor.model.conditions import REMEDIES, Condition
from tests.deployment import ADD, COMMAND, Executor, TestDeployment, deployment
from tests.history import read_history
from tests.integration.test_exactly_once import all_answered, request, verifies
from tests.lacking import lacking
from tests.pki import Authority
from tests.secured_kafka import WHO, password
from tests.soak.__main__ import faked_clock
from tests.soak.faults import mount_small, unmount

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.secured_kafka import SecuredKafka

C = Condition


def held(executor: Executor) -> set[str]:
    """Give the conditions whose metric is 1."""
    _, text = executor.http("/metrics")
    pattern = r'^wasm_executor_conditions\{condition="(\w+)"\} 1\.0$'
    return set(re.findall(pattern, text, re.MULTILINE))


def said(executor: Executor, event: str) -> list[str]:
    """Give the conditions of a kind of log line, in order, each with its remedy."""
    lines = executor.log.read_text().splitlines()
    events = [orjson.loads(line) for line in lines if line.startswith("{")]
    found = [one for one in events if one["event"] == event]
    if event == "condition.begun":
        assert all(one["remedy"] == REMEDIES[one["condition"]] for one in found)
    return [one["condition"] for one in found]


async def until(holds: Callable[[], bool], within_s: float = 45) -> None:
    """Wait for other processes."""
    async with asyncio.timeout(within_s):
        while not await asyncio.to_thread(holds):  # noqa: ASYNC110 - other processes
            await asyncio.sleep(0.2)


async def doctor(made: TestDeployment, **settings: str) -> dict[str, tuple[str, str]]:
    """Give each check's state and finding, as the service's user sees them."""
    asked = replace(made, settings=made.settings | settings)
    _, out, err = await asked.command("doctor", "--json")
    checks = [json.loads(line) for line in out.splitlines()]
    assert checks, err
    return {check["id"]: (check["state"], check["found"]) for check in checks}


def names(checks: dict[str, tuple[str, str]], check: str, condition: Condition) -> bool:
    """Whether a check failed and names this condition."""
    state, found = checks[check]
    return state == "failed" and condition in found


def reasons(executor: Executor) -> str:
    return executor.http("/health")[1]


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    if not mount_small(folder):
        lacking("no file system can be mounted here")
    try:
        yield folder
    finally:
        unmount(folder)


def fill(folder: Path) -> Path:
    """Leave no room."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 12))
        except OSError:
            return filler


@pytest.mark.slow
@pytest.mark.needs("faketime")
@pytest.mark.timeout(180)
async def test_topics_clock_and_disk_go_wrong_at_once_and_are_mended(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    clock = tmp_path / "clock"
    command, faked = faked_clock(tmp_path, clock)
    with small_disk(tmp_path / "disk") as disk:
        async with (
            deployment(kafka_bootstrap, tmp_path, 2) as made,
            Appender(made.connection) as appender,
        ):
            await made.publish("add@1", ADD)
            own = {"WASM_EXECUTOR_STATE_DIR": str(disk)}
            executor = made.start(command, **faked, **own)
            await executor.ready()
            await made.result(0, await made.ask(appender, 0, request(1)))
            assert held(executor) == set()

            filler = fill(disk)
            await made.configure(made.topics.audit, "cleanup.policy", "compact")
            await made.configure(made.topics.audit, "min.insync.replicas", "2")
            await made.ask(appender, 1, request(2))
            clock.write_text("-90s\n")
            wrong = {C.TOPIC_SETTINGS, C.REPLICAS_MISSING, C.DISK_FULL, C.CLOCK_APART}
            await until(lambda: held(executor) >= wrong)
            await made.ask(appender, 0, request(3))
            await until(lambda: '"halted": 1' in reasons(executor))
            health = reasons(executor)
            for condition in wrong:
                assert f"{condition}: " in health
            named = {
                "METRICS_PORT": str(executor.port),
                "WASM_EXECUTOR_INSTANCE_ID": f"{made.prefix}-0",
            }
            checks = await doctor(made, **own, **named)
            assert names(checks, "disk.state", C.DISK_FULL)
            assert names(checks, "kafka.topics", C.TOPIC_SETTINGS)
            assert names(checks, "kafka.replicas", C.REPLICAS_MISSING)
            assert checks["service"][0] == "failed"

            filler.unlink()
            clock.write_text("+0s\n")
            await made.configure(made.topics.audit, "min.insync.replicas", "1")
            assert (await made.command("topics", "apply"))[0] == 0
            await until(lambda: held(executor) == set())
            await made.ask(appender, 0, request(4))
            history = await all_answered(made)
            assert history.faults == {}
            assert sorted(said(executor, "condition.begun")) == sorted(wrong)
            assert sorted(said(executor, "condition.ended")) == sorted(wrong)

            clock.write_text("+90s\n")  # ahead: nothing halts, no request tells
            await until(lambda: held(executor) == {C.CLOCK_APART})
            clock.write_text("+0s\n")
            await until(lambda: held(executor) == set())
            assert await executor.stop() == 0
            await verifies(made, 4)


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_the_only_broker_goes_and_comes_back(tmp_path: Path) -> None:
    with EmbeddedKafka(tmp_path / "kafka") as kafka:
        async with deployment(kafka.bootstrap, tmp_path, 2) as made:
            await made.publish("add@1", ADD)
            executor = made.start()
            await executor.ready()
            async with Appender(made.connection) as appender:
                for number in range(40):
                    await made.ask(appender, number % 2, request(number))
            await asyncio.to_thread(kafka.stop)
            await until(lambda: executor.http("/health")[0] == 503)
            await until(lambda: held(executor) == {C.BROKERS_AWAY})
            assert executor.http("/ready")[0] == 503
            assert f"{C.BROKERS_AWAY}: " in reasons(executor)
            state, found = (await doctor(made))["kafka.reachable"]
            assert (state, C.BROKERS_AWAY in found) == ("unknown", True)

            await asyncio.to_thread(kafka.start)
            history = await all_answered(made)
            assert history.faults == {}
            await until(lambda: executor.http("/health")[0] == 200)
            await until(lambda: held(executor) == set())
            assert said(executor, "condition.begun") == [C.BROKERS_AWAY]
            assert said(executor, "condition.ended") == [C.BROKERS_AWAY]
            assert len(executor.log.read_text().splitlines()) < 100
            assert await executor.stop() == 0
            await verifies(made, 40)


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_deleted_topic_is_waited_for_and_a_new_one_is_not_taken_for_it(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    """A requests topic made anew is noticed before anything in it is passed over."""
    from confluent_kafka.admin import AdminClient  # noqa: PLC0415 - here only

    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})

    def deleted(topic: str) -> None:
        admin.delete_topics([topic])[topic].result(10)

    async with deployment(kafka_bootstrap, tmp_path, 1) as made:
        await made.publish("add@1", ADD)
        await made.publish("add@2", f"{ADD[:-1]} (memory 1))")
        # The second module is fetched when it is asked for, or not at all.
        executor = made.start(WASM_EXECUTOR_COMPILE_AHEAD="false")
        await executor.ready()
        async with Appender(made.connection) as appender:
            await made.result(0, await made.ask(appender, 0, request(1)))
            deleted(made.topics.modules)
            later = request(2).replace(b"add@1", b"add@2")
            offset = await made.ask(appender, 0, later)
            await until(lambda: held(executor) == {C.TOPIC_MISSING})
            await until(lambda: '"blocked": 1' in reasons(executor))
            assert names(await doctor(made), "kafka.topics", C.TOPIC_MISSING)
            history = await read_history(made)
            assert (0, offset) not in history.results  # no request's fault

        deleted(made.topics.requests)
        assert (await made.command("topics", "apply"))[0] == 0
        async with Appender(made.connection) as appender:
            assert await made.ask(appender, 0, request(3)) == 0
        await until(lambda: '"halted": 1' in reasons(executor))
        assert "requests_replaced" in (await made.command("audit", "doctor"))[1]
        assert await executor.stop() == 0


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_start_that_cannot_connect_waits_and_names_the_cause(
    kafka_bootstrap: str, secured_kafka: SecuredKafka, tmp_path: Path
) -> None:
    """No such name, a wrong password, an unknown authority, a user without rights."""
    good = secured_kafka.properties(WHO.executor)
    other = Authority(tmp_path / "other").certificate
    login = good["sasl.jaas.config"].replace(password(WHO.executor), "wrong")
    wrong = {
        C.NAME_UNRESOLVED: {"bootstrap.servers": "kafka.invalid:9092"},
        C.CREDENTIALS_REFUSED: good | {"sasl.jaas.config": login},
        C.TLS_REFUSED: good | {"ssl.truststore.location": str(other)},
        C.RIGHTS_MISSING: good,
    }
    async with deployment(kafka_bootstrap, tmp_path, 1) as made:

        async def waits(condition: Condition, properties: dict[str, str]) -> None:
            given = {
                f"KAFKA_{name.replace('.', '_').upper()}": value
                for name, value in properties.items()
            }
            executor = made.start(COMMAND, **given)
            await until(lambda: held(executor) == {condition})
            assert executor.http("/health")[0] == 503
            assert f"{condition}: " in reasons(executor)
            checks = await doctor(made, **given)
            assert any(names(checks, check, condition) for check in checks)
            assert said(executor, "condition.begun") == [condition]
            assert await executor.stop() == 0

        await asyncio.gather(*(waits(*one) for one in wrong.items()))
